"""Files that are the same byte for byte: one image under two units would be counted twice (PRIVACY 13)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from undertone.core.canonical import file_sha256
from undertone.core.text import shown
from undertone.data.metadata import Problem
from undertone.data.records import Record, RecordTable, is_file, refuse
from undertone.errors import DataError


def with_digests(table: RecordTable, progress: Callable[[int], None]) -> RecordTable:
    """The table with the digest of each record's file, which is read once; `progress` hears of each.

    One unit may have an image twice; two units may not share one.

    Raises:
        DataError: names a file that cannot be read, or both names of an image that stands under two units.
    """
    records, first, problems = [], dict[str, Record](), list[Problem]()
    for record in table.records:
        found = replace(record, sha256=_digest(table.root / record.file))
        records.append(found)
        before = first.setdefault(found.sha256, found)
        if before.unit != found.unit:
            problems.append(Problem(table.place(found), _twice(before, found)))
        progress(1)
    refuse(problems)
    return replace(table, records=tuple(records))


def _twice(one: Record, other: Record) -> str:
    return (
        f"{shown(other.file)} and {shown(one.file)} are one image, byte for byte, of two units: it would be counted "
        "twice. Keep it under the one whose it is"
    )


def _digest(path: Path) -> str:
    try:
        if is_file(path):  # a pipe would be waited for
            return file_sha256(path)
        reason = "there is no such file"
    except OSError as error:
        reason = error.strerror or str(error)
    raise DataError(f"{path} cannot be read: {reason}; repair or remove it")
