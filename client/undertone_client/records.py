"""Records from a folder in the Hugging Face imagefolder convention: images, metadata, units (DESIGN 6).

Everything here runs in local checks before a study starts, so it may name files and lines. After
approval nothing a record does is visible outside the site (PRIVACY 17).
"""

import csv
import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from undertone.captions import caption_fields
from undertone.errors import DataError
from undertone.study import Unit
from undertone_client.images import load_image

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Record:
    """One image: `file` relative to the folder, the unit it belongs to, and its other columns."""

    file: str
    unit: str
    columns: dict[str, str]


@dataclass(frozen=True)
class RecordTable:
    """All records under `root`, in the order of their file names."""

    root: Path
    records: tuple[Record, ...]

    def units(self) -> dict[str, list[int]]:
        """Unit -> positions of its records, units sorted by name."""
        grouped: dict[str, list[int]] = {}
        for index, record in enumerate(self.records):
            grouped.setdefault(record.unit, []).append(index)
        return dict(sorted(grouped.items()))

    def where(self, keep: Callable[[Record], bool]) -> "RecordTable":
        """The records for which `keep` holds."""
        return RecordTable(self.root, tuple(record for record in self.records if keep(record)))


def read_records(
    root: Path,
    unit: Unit,
    unit_column: str | None,
    caption: str,
    metadata: Path | None = None,
    *,
    missing_files: bool = False,
) -> RecordTable:
    """Read a folder's records and check their metadata; images are only looked for, not opened.

    Args:
        root: the folder that `file_name` is relative to.
        unit: what privacy protects; `record` makes each file its own unit, `site` all files one.
        unit_column: the column that names the unit, for `patient`.
        caption: the template whose columns must exist.
        metadata: a metadata file elsewhere; by default `metadata.csv` or `.jsonl` in the folder.
        missing_files: after approval: keep records whose file is not there; no record at all is an empty table.

    Raises:
        DataError: the first thing wrong, with file and line.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    source = metadata or next((root / name for name in METADATA_NAMES if (root / name).is_file()), None)
    rows = _plain_folder(root) if source is None else _read_metadata(source)
    if not rows and missing_files:
        return RecordTable(root, ())
    if not rows:
        raise DataError(f"{root} holds no images" if source is None else f"{source} lists no images")
    _check_columns(rows[0][1], source, unit_column, caption)
    records = [_record(root, source, line, row, unit, unit_column) for line, row in rows]
    if not missing_files:
        _check_files(root, source, [line for line, _ in rows], records)
    _refuse_duplicates(records, source or root)
    return RecordTable(root, tuple(sorted(records, key=lambda record: record.file)))


def check_images(table: RecordTable, size: int, progress: Callable[[int], None]) -> None:
    """Decode every image once, so that a bad one is named before a study starts.

    Raises:
        DataError: names the file.
    """
    for record in table.records:
        load_image(table.root / record.file, size)
        progress(1)


def write_metadata(path: Path, records: Sequence[Record]) -> None:
    """Write records as a metadata.csv (the reverse of `read_records`)."""
    names = sorted({name for record in records for name in record.columns})
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["file_name", *names])
        writer.writeheader()
        writer.writerows({"file_name": record.file, **record.columns} for record in records)


def _plain_folder(root: Path) -> list[tuple[int, dict[str, str]]]:
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    return [(index + 1, {"file_name": str(path.relative_to(root))}) for index, path in enumerate(files)]


def _read_metadata(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) pairs; every value is text."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return _read_jsonl(stream, path) if path.suffix == ".jsonl" else _read_csv(stream, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def _read_csv(stream: Iterable[str], path: Path) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(stream, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        names = list(reader.fieldnames or [])
        if len(set(names)) != len(names):
            raise DataError(f"{path}: a column name stands twice in the first line")
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, line {reader.line_num}: not the number of columns of the first line")
            rows.append((reader.line_num, dict(row)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from None
    return rows


def _read_jsonl(stream: Iterable[str], path: Path) -> list[tuple[int, dict[str, str]]]:
    rows: list[tuple[int, dict[str, str]]] = []
    for number, text in enumerate(stream, 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}: not a JSON object")
        rows.append((number, {str(key): "" if item is None else str(item) for key, item in value.items()}))
    return rows


def _check_columns(row: dict[str, str], source: Path | None, unit_column: str | None, caption: str) -> None:
    here = source.name if source else "the folder, which has no metadata.csv or metadata.jsonl,"
    if "file_name" not in row:
        raise DataError(f"{here} has no column file_name; its columns are {', '.join(row)}")
    wanted = [name for name in caption_fields(caption) if name != "token"]
    for key, name in [("data.unit_column", unit_column), *(("data.caption", name) for name in wanted)]:
        if name is not None and name not in row:
            near = difflib.get_close_matches(name, row, n=1, cutoff=0.0)[0]
            raise DataError(f'{key}: {here} has no column "{name}"; the closest is "{near}"')


def _record(
    root: Path, source: Path | None, line: int, row: dict[str, str], unit: Unit, unit_column: str | None
) -> Record:
    where = f"{source}, line {line}" if source else str(root)
    file = row.get("file_name", "")
    path = Path(file)
    if not file or path.is_absolute() or ".." in path.parts:
        raise DataError(f'{where}: file_name "{file}" must be a path within {root}')
    if unit == "patient" and not row.get(unit_column or "", "").strip():
        raise DataError(f"{where}: no {unit_column} for {file}; each record needs its patient")
    if not _is_text(file) or not _is_text(row.get(unit_column or "", "")):
        raise DataError(f"{where}: {file!r} is not UTF-8; rename it")
    name = {"record": path.as_posix(), "patient": row.get(unit_column or "", "").strip(), "site": "site"}[unit]
    return Record(path.as_posix(), name, {key: value for key, value in row.items() if key != "file_name"})


def _check_files(root: Path, source: Path | None, lines: Sequence[int], records: Sequence[Record]) -> None:
    for line, record in zip(lines, records, strict=True):
        if not (root / record.file).is_file():
            where = f"{source}, line {line}" if source else str(root)
            raise DataError(f"{where}: there is no file {root / record.file}")


def _refuse_duplicates(records: list[Record], source: Path) -> None:
    file, count = Counter(record.file for record in records).most_common(1)[0]
    if count > 1:
        raise DataError(f"{source} lists {file} {count} times; a file belongs to one record")


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; file names on disk need not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
