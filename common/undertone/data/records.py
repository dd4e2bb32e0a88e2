"""Records from a folder in the Hugging Face imagefolder convention: images, metadata, units.

Everything here runs in local checks before a study starts, so it may name files and lines. What is found good is
registered (`undertone_client/registration`); after that nothing a record does is visible outside the site (PRIVACY 17).
"""

import csv
import difflib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PureWindowsPath

from undertone.core.captions import caption_columns
from undertone.core.progress import reporter
from undertone.core.text import shown
from undertone.core.unit import Unit
from undertone.data.images import read_images
from undertone.data.links import RealFiles
from undertone.data.metadata import Problem, Row, is_text, read_rows
from undertone.data.near_names import NearNames
from undertone.data.plain_folder import images_below
from undertone.data.separators import FILE_NAME
from undertone.data.unit_ids import alike, names_nobody
from undertone.errors import DataError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
# Tables that are no metadata to us, by name or by kind: silence would leave their columns out.
_TABLES = (".csv", ".jsonl", ".ndjson", ".tsv", ".json", ".parquet", ".xlsx", ".xls", ".ods", ".csv.txt")
_HIDDEN, _UNREAD = "hidden or system files", "files of kinds that are not read (DICOM, HEIC and so on)"
_LISTED = 20
_NEEDED = "each record needs its patient"


@dataclass(frozen=True, slots=True)
class Record:
    """One image: `file` relative to the folder, the unit it belongs to, and its other columns.

    `lines`, first and last, say where the metadata have it; they are no part of what a record is. `target` is the file
    that a link led to when the record was read, relative to the folder; empty where there is no link. `sha256` is the
    digest of the file's bytes, hexadecimal, once they were read; empty before.
    """

    file: str
    unit: str
    columns: dict[str, str]
    lines: tuple[int, int] = field(default=(0, 0), compare=False)
    target: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class RecordTable:
    """All records under `root`, in the order of their file names. `source` is the metadata file, if there is one.

    `listed` are the files that its lines name, those of bad lines too. Where the folder itself is the list, `hidden`
    says how many hidden and system files were skipped, and `unread` how many that are images of kinds that are not
    read, such as DICOM.
    """

    root: Path
    records: tuple[Record, ...]
    source: Path | None = field(default=None, compare=False)
    listed: frozenset[str] = field(default=frozenset(), compare=False)
    hidden: int = field(default=0, compare=False)
    unread: int = field(default=0, compare=False)

    def skipped(self) -> list[str]:
        """What of the folder is no record, in words."""
        said = []
        if self.hidden:
            said.append(
                f"{self.root}: {_files_of(self.hidden, _HIDDEN)} skipped, such as systems and file servers leave"
            )
        if self.unread:
            said.append(f"{self.root}: {_files_of(self.unread, _UNREAD)} skipped; convert them to PNG or TIFF first")
        return said

    def units(self) -> dict[str, list[int]]:
        """Unit -> positions of its records, units sorted by name."""
        return dict(self._units)

    @cached_property
    def _units(self) -> dict[str, list[int]]:
        """Found once: a node asks several times in each round."""
        grouped: dict[str, list[int]] = {}
        for index, record in enumerate(self.records):
            grouped.setdefault(record.unit, []).append(index)
        return dict(sorted(grouped.items()))

    def where(self, keep: Callable[[Record], bool]) -> "RecordTable":
        """The records for which `keep` holds."""
        return RecordTable(
            self.root, tuple(record for record in self.records if keep(record)), self.source, self.listed
        )

    def place(self, record: Record) -> str:
        """Where a record stands, for messages."""
        return f"{self.source}, line {record.lines[0]}" if self.source else str(self.root)


def read_records(
    root: Path,
    unit: Unit,
    unit_column: str | None,
    caption: str,
    metadata: Path | None = None,
    ids_as_written: bool = False,
    class_column: str | None = None,
) -> RecordTable:
    """Read a folder's records and check their metadata; images are only looked for, not opened.

    Args:
        root: the folder that `file_name` is relative to.
        unit: what privacy protects; `record` makes each file its own unit, `site` all files one.
        unit_column: the column that names the unit, for `patient`.
        caption: the template whose columns must exist.
        metadata: a metadata file elsewhere; by default `metadata.csv` or `.jsonl` in the folder.
        ids_as_written: whether ids that look alike are different people, on purpose.
        class_column: the column that names the class, where a study has classes.

    Raises:
        DataError: what is wrong, with file and line; see `refuse`.
    """
    problems: list[Problem] = []
    table = read_good_records(root, unit, unit_column, caption, metadata, problems.append, ids_as_written, class_column)
    for skipped in table.skipped():
        reporter().line(skipped)
    refuse(problems)
    return table


def read_good_records(
    root: Path,
    unit: Unit,
    unit_column: str | None,
    caption: str,
    metadata: Path | None,
    found: Callable[[Problem], None],
    ids_as_written: bool = False,
    class_column: str | None = None,
) -> RecordTable:
    """The records with nothing wrong; `found` is told of every other one. Arguments as in `read_records`.

    Raises:
        DataError: the folder or its metadata cannot be read at all, lack a column, or hold no record.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    source = metadata_of(root, metadata)
    exact = (FILE_NAME, *([unit_column] if unit_column else []))
    hidden: list[str] = []
    unread: list[str] = []
    rows = images_below(root, hidden.append, unread.append) if source is None else read_rows(source, exact)
    fields = dict.fromkeys(caption_columns(caption), "data.caption")
    if class_column is not None:
        fields.setdefault(class_column, "data.class_column")
    records: dict[str, Record] = {}
    problems: list[Problem] = []
    real, near = RealFiles(root), NearNames(root)
    columns: dict[str, None] = {}
    listed: set[str] = set()
    empty = True
    for row in rows:
        empty = False
        if isinstance(row, Row):
            columns |= dict.fromkeys(row.columns)
            listed.add(key_of(row.columns, unit, unit_column)[0])
            record = _lacking(source, row, fields) or _record(root, source, row, unit, unit_column, records, real, near)
        else:
            record = row
        if isinstance(record, Problem):
            problems.append(record)
        else:
            records[record.file] = record
    if empty:
        counts = ((len(unread), f"{_UNREAD}; convert them to PNG or TIFF first"), (len(hidden), _HIDDEN))
        beside = next((f" but {_files_of(count, kind)}" for count, kind in counts if count), "")
        raise DataError(f"{root} holds no images{beside}" if source is None else f"{source} lists no images")
    if listed:
        _check_columns(columns, source, unit_column, fields)
    ordered = tuple(records[name] for name in sorted(records))
    table = RecordTable(root, ordered, source, frozenset(listed), len(hidden), len(unread))
    if unit == "patient" and not ids_as_written:
        problems += [Problem(where, what) for where, what in alike(_first_places(table, records.values()))]
    for problem in problems:
        found(problem)
    return table


def moved(table: RecordTable) -> list[int]:
    """Positions of records whose name leads to another file than when they were read, by a link that was changed."""
    real = RealFiles(table.root)
    return [
        index
        for index, record in enumerate(table.records)
        if real.target(record.file) != (record.target or record.file)
    ]


def refuse(problems: Sequence[Problem]) -> None:
    """Raise where there are problems: one as the error itself; of many the first ones line by line before it.

    Raises:
        DataError: names the first.
    """
    if not problems:
        return
    if len(problems) > 1:
        for problem in problems[:_LISTED]:
            reporter().line(str(problem))
        if len(problems) > _LISTED:
            reporter().line(f"and {len(problems) - _LISTED} more")
        raise DataError(f"{len(problems)} records cannot be used; the first: {problems[0]}")
    raise DataError(str(problems[0]))


def bad_images(table: RecordTable, size: int, progress: Callable[[int], None]) -> Iterator[Problem]:
    """Decode every image once and name those that cannot be read."""
    for record, image in zip(table.records, read_images(table.root, _files(table), size), strict=True):
        if isinstance(image, DataError):
            yield Problem(table.place(record), str(image))
        progress(1)


def write_metadata(path: Path, records: Sequence[Record]) -> None:
    """Write records as a metadata.csv (the reverse of `read_records`)."""
    names = sorted({name for record in records for name in record.columns})
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [FILE_NAME, *names])
        writer.writeheader()
        writer.writerows({FILE_NAME: record.file, **record.columns} for record in records)


def metadata_of(root: Path, metadata: Path | None) -> Path | None:
    """The metadata file of a folder: the one that was named, else the one in it, else none.

    Raises:
        DataError: the folder has two, or one under a name that is nearly right; both are named.
    """
    if metadata is not None:
        return metadata
    there = [name for name in METADATA_NAMES if is_file(root / name)]
    if len(there) > 1:
        raise DataError(
            f"{root} has {' and '.join(there)}, and only one can be read: remove one, or name the right one: "
            "--metadata of simulate and of node data add"
        )
    if there:
        return root / there[0]
    for path in sorted(root.iterdir()):
        name = path.name.lower()
        if name.startswith("metadata.") and name.endswith(_TABLES) and is_file(path):
            raise DataError(f"{path} is not read under this name: make it metadata.csv or metadata.jsonl")
    return None


def holds_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below."""
    return next(images_below(folder, _ignore, _ignore), None) is not None


def unlisted(table: RecordTable) -> list[str]:
    """The images in the folder that no line of its metadata lists, relative to it; none where there is no metadata."""
    if table.source is None:
        return []
    known = table.listed | {record.target for record in table.records}
    return [name for row in images_below(table.root, _ignore, _ignore) if (name := row.columns[FILE_NAME]) not in known]


def key_of(row: Mapping[str, str], unit: Unit, unit_column: str | None) -> tuple[str, str]:
    """(file, unit) of a row: what makes a record the one that was registered.

    Spaces around an id and two ways of composing an accented letter make no second patient.
    """
    file = Path(row.get(FILE_NAME, "")).as_posix()
    patient = unicodedata.normalize("NFC", row.get(unit_column or "", "").strip())
    return file, {"record": file, "patient": patient, "site": "site"}[unit]


def is_file(path: Path) -> bool:
    """Whether a regular file is there. Names too long, loops of links, NUL bytes: no."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _files(table: RecordTable) -> Iterator[str]:
    return (record.file for record in table.records)


def _ignore(_name: str) -> None:
    """Skipped files are counted where the folder is the list."""


def _files_of(count: int, kind: str) -> str:
    return f"{count} {kind.replace('files', 'file', 1) if count == 1 else kind}"


def _first_places(table: RecordTable, in_order: Iterable[Record]) -> Iterator[tuple[str, str]]:
    """(where, unit) of each unit's first record."""
    first: dict[str, Record] = {}
    for record in in_order:
        first.setdefault(record.unit, record)
    return ((table.place(record), unit) for unit, record in first.items())


def _check_columns(
    there: Mapping[str, None], source: Path | None, unit_column: str | None, fields: Mapping[str, str]
) -> None:
    """Raise where no line at all has a column; `there` are the columns of all lines, `fields` names and their keys."""
    here = source.name if source else "the folder, which has no metadata.csv or metadata.jsonl,"
    if FILE_NAME not in there:
        raise DataError(f"{here} has no column {FILE_NAME}; its columns are {shown(', '.join(there))}")
    for key, name in [("data.unit_column", unit_column), *((key, name) for name, key in fields.items())]:
        if name is not None and name not in there:
            near = shown(difflib.get_close_matches(name, there, n=1, cutoff=0.0)[0])
            raise DataError(f'{key}: {here} has no column "{name}"; the closest is "{near}"')


def _lacking(source: Path | None, row: Row, fields: Mapping[str, str]) -> Problem | None:
    """What is wrong with a line of JSON that leaves out a column of the caption, or that of the class."""
    for name, key in fields.items():
        if name not in row.columns:
            return Problem(
                f"{source}, line {row.line}",
                f'no "{name}", which {key} needs; write null where a record has none',
            )
    return None


def _record(
    root: Path,
    source: Path | None,
    row: Row,
    unit: Unit,
    unit_column: str | None,
    earlier: Mapping[str, Record],
    real: RealFiles,
    near: NearNames,
) -> Record | Problem:
    """The record, or what is wrong with it; `earlier` are the records so far, by file."""
    where = f"{source}, line {row.line}" if source else str(root)
    name = row.columns.get(FILE_NAME, "")
    path = Path(name)
    if not name or path.is_absolute() or ".." in path.parts:
        return Problem(where, f'file_name "{shown(name)}" must be a path within {root}')
    if unit == "patient" and not row.columns.get(unit_column or "", "").strip():
        return Problem(where, f"no {unit_column} for {shown(name)}; {_NEEDED}")
    if unit == "patient" and names_nobody(row.columns[unit_column or ""]):
        return Problem(
            where, f'{unit_column} "{shown(row.columns[unit_column or ""])}" of {shown(name)} names nobody; {_NEEDED}'
        )
    if not is_text(name):
        return Problem(where, f"{shown(name)} is not UTF-8; rename it")
    file, protected = key_of(row.columns, unit, unit_column)
    if file in earlier:
        return Problem(where, f"{shown(file)} stands in line {earlier[file].lines[0]} already; a file is one record")
    if not is_file(root / file):
        return Problem(where, f"there is no file {root / shown(file)}{_other_spelling(root, file, near)}")
    target = real.target(file)
    if target is None:
        return Problem(
            where,
            f"{shown(file)} is a link out of {root}; put the image itself there, or name a folder that holds both",
        )
    if (first := real.first_name(file)) != file:
        return Problem(where, f"{shown(file)} and {shown(first)} are one image under two names; list it once")
    columns = {key: value for key, value in row.columns.items() if key != FILE_NAME}
    return Record(file, protected, columns, (row.line, row.last_line), "" if target == file else target)


def _other_spelling(root: Path, file: str, near: NearNames) -> str:
    """A hint where the file is there under another spelling: letters composed otherwise (macOS), case, backslashes."""
    others: Iterable[str] = (unicodedata.normalize(form, file) for form in ("NFC", "NFD"))
    if any(is_file(root / other) for other in others if other != file):
        return "; its name is written there with other Unicode characters, so rename it"
    if PureWindowsPath(file).anchor:
        return f"; it must be a path within {root}"
    like = near.like(file)
    return "" if like is None else f"; there is {shown(like)}: write it so"
