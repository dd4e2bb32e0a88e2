"""Folders of real images in the imagefolder convention: which column names the unit, which the class."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from undertone.core.canonical import file_sha256
from undertone.core.text import shown
from undertone.data.records import Record, RecordTable, read_records
from undertone.errors import DataError
from undertone_cli.evaluating.images import ImageFiles


@dataclass(frozen=True)
class Columns:
    """What the metadata's columns are.

    class_column: names the class. unit_column: names the patient. Of either None: the plan's, where the metadata have
    it, and else none. ids_as_written: whether unit ids that look alike are different people.
    """

    class_column: str | None = None
    unit_column: str | None = None
    planned_class_column: str | None = None
    planned_unit_column: str | None = None
    ids_as_written: bool = False


def image_folder(root: Path, columns: Columns, classes: Collection[str]) -> ImageFiles:
    """The images of a folder that are of one of `classes`, or of any where that is empty; others are left out.

    Raises:
        DataError: it holds none, a column is missing, or a class has no image.
    """
    table = read_records(root, "record", None, "")
    unit_column = columns.unit_column or _planned(table, columns.planned_unit_column)
    if unit_column:
        _check_column(table, unit_column, "the unit")
        table = read_records(root, "patient", unit_column, "", ids_as_written=columns.ids_as_written)
    class_column = columns.class_column or _planned(table, columns.planned_class_column)
    if not class_column:
        return _files(table, table.records, ("",) * len(table.records), unit_column, "", {})
    _check_column(table, class_column, "the class")
    named = [(record, _plain(record.columns.get(class_column, ""))) for record in table.records]
    counts = Counter(one for _, one in named)
    for one in classes:
        if one not in counts:
            raise DataError(
                f'{root} has no image of class "{shown(one)}"; column {shown(class_column)} has '
                f"{shown(', '.join(sorted(counts)), 400)}"
            )
    wanted = set(classes) or set(counts) - {""}
    kept = [(record, one) for record, one in named if one in wanted]
    left_out = {one: n for one, n in sorted(counts.items()) if one not in wanted}
    records, names = tuple(record for record, _ in kept), tuple(one for _, one in kept)
    return _files(table, records, names, unit_column, class_column, left_out)


def refuse_shared(members: ImageFiles, others: ImageFiles) -> None:
    """Images that were not trained on are other people's, and other images.

    Raises:
        DataError: names a unit or a file of both.
    """
    both = sorted(set(members.units) & set(others.units)) if members.unit_column and others.unit_column else []
    if both:
        raise DataError(
            f'{len(both)} units are in --members and in --real, such as "{shown(both[0])}": real images must be of '
            "people who were not trained on"
        )
    held = {_digest(file): file for file in members.files}
    same = [(file, held[digest]) for file in others.files if (digest := _digest(file)) in held]
    if same:
        raise DataError(
            f"{len(same)} images of --real are in --members too, byte for byte, such as {same[0][0]} and {same[0][1]}: "
            "real images must be others than those that were trained on"
        )


def _files(
    table: RecordTable,
    records: tuple[Record, ...],
    names: tuple[str, ...],
    unit_column: str,
    class_column: str,
    left_out: dict[str, int],
) -> ImageFiles:
    files = tuple(table.root / record.file for record in records)
    units = tuple(record.unit for record in records)
    return ImageFiles(files, names, units, unit_column, class_column, left_out)


def _plain(text: str) -> str:
    """A class as a study's list has it: one form of accented letters, no spaces around it."""
    return unicodedata.normalize("NFC", text.strip())


def _planned(table: RecordTable, column: str | None) -> str:
    return column if column and any(column in record.columns for record in table.records) else ""


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _check_column(table: RecordTable, column: str, what: str) -> None:
    columns = list(dict.fromkeys(name for record in table.records for name in record.columns))
    if column in columns:
        return
    where = table.source or f"{table.root}, which has no metadata,"
    near = difflib.get_close_matches(column, columns, n=1, cutoff=0.0)
    hint = f'; the closest is "{shown(near[0])}"' if near else ""
    raise DataError(f'{where} has no column "{shown(column)}" for {what}{hint}')
