"""metadata.csv and metadata.jsonl as a stream of rows: whatever a line holds ends in a row or in a named problem.

Two readers. `read_rows` is for checks before a study starts: it reads the file as a whole and says what is wrong
with which line. `rows_by_line` is for afterwards: it takes each line by itself, so that no damage to one record's
line can reach another record (PRIVACY 3, 17). In CSV a stray quote would otherwise swallow the lines behind it.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from undertone.core.encodings import HEAD, other_than_utf8
from undertone.core.text import shown
from undertone.data.separators import FILE_NAME, header, is_blank, table_of
from undertone.errors import DataError

# One record is a name, an id and some words. A line beyond this is no metadata, and must not fill the memory.
LONGEST_LINE = 1 << 20
MOST_LINES = 16
_NUL = "holds a NUL character, which no text has; write the line anew"
Value = str | int | float | bool | list[object] | dict[str, object] | None


@dataclass(frozen=True)
class Problem:
    """Something wrong with one record: `where` it stands and `what` to do about it, in one line."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Row:
    """One record as written: column -> text, and the lines it spans."""

    line: int
    last_line: int
    columns: dict[str, str]


def is_text(value: str) -> bool:
    """Whether a value can be written as UTF-8. Names on disk and bytes that were not UTF-8 need not be."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_rows(path: Path, exact: Sequence[str] = ()) -> Iterator[Row | Problem]:
    """Every row of a metadata file, or what is wrong with it.

    Args:
        path: `.jsonl`, or anything else as CSV.
        exact: columns whose JSON values must be text or whole numbers: 7.0 and 7 would be two patients.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    try:
        with _opened(path) as stream:
            _refuse_other(path)
            lines = _bounded(stream, path)
            yield from _jsonl(lines, path, exact) if is_jsonl(path) else _csv(lines, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def rows_by_line(path: Path, spans: Sequence[int]) -> Iterator[dict[str, str]]:
    """The rows that a file holds wherever one can be read by itself; the rest is passed over.

    Args:
        path: as in `read_rows`.
        spans: how many lines a row may have, for CSV values with line ends in them: those that its good rows had.

    Raises:
        OSError: the file cannot be read.
    """
    with _opened(path) as stream:
        lines = (line if len(line) <= LONGEST_LINE else "" for line in _cut(stream))
        if is_jsonl(path):
            for line in lines:
                with suppress(ValueError, RecursionError):
                    yield _texts(_json_object(line))
            return
        yield from _csv_by_line(lines, sorted(set(spans)))


def is_jsonl(path: Path) -> bool:
    """Whether a metadata file holds a JSON object in each line; else it is CSV."""
    return path.suffix.lower() == ".jsonl"


def _refuse_other(path: Path) -> None:
    """Raise DataError where the file is no UTF-8 text at all, and say what it is."""
    with path.open("rb") as stream:
        kind = other_than_utf8(stream.read(HEAD))
    if kind:
        raise DataError(f"{path} cannot be read: it is {kind}")


def _opened(path: Path) -> TextIO:
    """Bytes that are not UTF-8 become lone surrogates, which `is_text` finds in the row where they stand."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} is not a file")  # a pipe would be waited for
    try:
        return path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")
    except ValueError as error:  # a NUL byte
        raise OSError(f"no file can have this name: {error}") from None


def _cut(stream: TextIO) -> Iterator[str]:
    """Lines; of an endless one the first LONGEST_LINE + 1 characters."""
    while line := stream.readline(LONGEST_LINE + 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(("\n", "\r")):
            rest = stream.readline(LONGEST_LINE + 1)
        yield line


def _bounded(stream: TextIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(_cut(stream), 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path}, line {number}: longer than {LONGEST_LINE} characters; this is no metadata file")
        yield line


def _csv(lines: Iterable[str], path: Path) -> Iterator[Row | Problem]:
    skipped, separator, rest = table_of(lines)
    reader = csv.reader(rest, delimiter=separator, strict=True)
    names: list[str] | None = None
    while True:
        first = skipped + reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem(f"{path}, line {first}", f"not valid CSV: {error}")
            if names is None:
                return
            continue
        if names is None:
            names = header(values)
            problem = _header_problem(names)
            if problem:
                yield Problem(f"{path}, line {first}", problem)
                return
            if FILE_NAME not in names:
                raise DataError(
                    f"{path}, line {first}: no column {FILE_NAME}; the first line names the columns, and there are "
                    f"{shown(', '.join(names))}"
                )
        elif not is_blank(values):
            yield _csv_row(path, names, values, first, skipped + reader.line_num)


def _header_problem(names: list[str]) -> str:
    if len(set(names)) != len(names):
        return "a column name stands twice in the first line"
    return "" if is_text("".join(names)) else "not UTF-8 text; save the file as UTF-8"


def _csv_row(path: Path, names: list[str], values: list[str], first: int, last: int) -> Row | Problem:
    if len(values) != len(names):
        return Problem(f"{path}, line {first}", "not the number of columns of the first line")
    if not is_text("".join(values)):
        return Problem(f"{path}, line {first}", "not UTF-8 text; save the file as UTF-8")
    if any("\0" in value for value in values):
        return Problem(f"{path}, line {first}", _NUL)
    if last - first >= MOST_LINES:
        return Problem(f"{path}, line {first}", f"spans more than {MOST_LINES} lines; take the line ends out")
    return Row(first, last, dict(zip(names, values, strict=True)))


def _csv_by_line(lines: Iterable[str], spans: Sequence[int]) -> Iterator[dict[str, str]]:
    names: list[str] | None = None
    window: list[str] = []
    _, separator, rest = table_of(lines)
    for line in rest:
        window = [*window, line][-max(spans) :]
        found = [_alone(window[-span:], separator) for span in spans if span <= len(window)]
        if names is None:  # the header is no record; it ends with the first line that completes a row
            names = next((header(values) for values in found if values), None)
            window = [] if names else window
            continue
        for values in found:
            if values and len(values) == len(names):
                yield dict(zip(names, values, strict=True))


def _alone(lines: Sequence[str], separator: str) -> list[str] | None:
    """The one CSV row that these lines are, or None."""
    try:
        rows = list(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _jsonl(lines: Iterable[str], path: Path, exact: Sequence[str]) -> Iterator[Row | Problem]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = _json_object(line)
        except RecursionError:
            yield Problem(where, "not valid JSON: nested too deeply")
        except ValueError as error:
            yield Problem(where, f"not valid JSON: {shown(str(error))}")
        else:
            yield _jsonl_row(where, number, value, exact)


def _jsonl_row(where: str, number: int, value: Value, exact: Sequence[str]) -> Row | Problem:
    if not isinstance(value, dict):
        return Problem(where, "not a JSON object; each line holds one")
    for name in exact:
        if name in value and (not isinstance(value[name], str | int | None) or isinstance(value[name], bool)):
            return Problem(where, f"{shown(name)} must be text or a whole number")
    columns = _texts(value)
    if not all(is_text(name) and is_text(text) for name, text in columns.items()):
        return Problem(where, "not UTF-8 text; save the file as UTF-8")
    if any("\0" in text for text in columns.values()):
        return Problem(where, _NUL)
    return Row(number, number, columns)


def _json_object(line: str) -> Value:
    value: Value = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    return value


def _texts(value: Value) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {key: "" if item is None else str(item) for key, item in items}


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return dict(pairs)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no value")
