"""The digests of a table's files (PRIVACY 13)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from undertone.data.contents import sha256_of
from undertone.data.records import RecordTable, is_file
from undertone.errors import DataError


def with_digests(table: RecordTable, progress: Callable[[int], None]) -> RecordTable:
    """The table with the digest of each record's file, which is read once; `progress` hears of each.

    Raises:
        DataError: names a file that cannot be read.
    """
    records = []
    for record in table.records:
        records.append(replace(record, sha256=_digest(table.root / record.file)))
        progress(1)
    return replace(table, records=tuple(records))


def _digest(path: Path) -> str:
    try:
        if is_file(path):  # a pipe would be waited for
            return sha256_of(path)
        reason = "there is no such file"
    except OSError as error:
        reason = error.strerror or str(error)
    raise DataError(f"{path} cannot be read: {reason}; repair or remove it")
