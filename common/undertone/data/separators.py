"""Where a CSV table begins and what stands between its values: comma, semicolon or tab, as spreadsheets write them.

Both readers of metadata ask here, so that what was registered is read in the same way ever after.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

FILE_NAME = "file_name"
_SEPARATORS = ",;\t"
# Excel's own first line: which separator the file has.
_SAID = re.compile(r'"?sep=([,;\t|])"?\s*', re.IGNORECASE)
_BOM = "\ufeff"


def table_of(lines: Iterable[str]) -> tuple[int, str, Iterator[str]]:
    """(lines before the header, separator, header and all that follows) of a CSV file.

    The separator is the one that a first line `sep=;` says; else that of the first line under which `file_name` is a
    column; else a comma.
    """
    stream, said, skipped = iter(lines), "", 0
    for line in stream:
        match = None if said else _SAID.fullmatch(line.lstrip(_BOM))
        if match:
            said = match[1]
        elif line.strip(f'{_BOM}{_SEPARATORS}" \r\n'):
            return skipped, said or _separator(line), chain([line], stream)
        skipped += 1
    return skipped, said or ",", iter(())


def header(values: Sequence[str]) -> list[str]:
    """The names of columns, without spaces around them and without marks of byte order."""
    return [value.replace(_BOM, "").strip() for value in values]


def is_blank(values: Sequence[str]) -> bool:
    """Whether a row holds nothing, as spreadsheets write rows that were emptied."""
    return not any(value.strip() for value in values)


def _separator(line: str) -> str:
    for separator in _SEPARATORS:
        try:
            rows = list(csv.reader([line.lstrip(_BOM)], delimiter=separator, strict=True))
        except csv.Error:
            continue
        if rows and FILE_NAME in header(rows[0]):
            return separator
    return ","
