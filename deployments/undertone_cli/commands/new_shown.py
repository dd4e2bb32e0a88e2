"""What `undertone new` reads of a folder of images, and shows at the terminal; nothing here writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from undertone.core.progress import reporting
from undertone.data.metadata import Problem
from undertone.data.overview import Column, Sizes, sizes, units_by
from undertone.data.records import RecordTable, read_good_records
from undertone.errors import DataError
from undertone.study.written import Answers
from undertone_cli.console import Bars, lines, table
from undertone_cli.split import site_folders
from undertone_cli.split_folders import are_splits, joined, split_of

_SHOWN_VALUES = 20


@dataclass(frozen=True)
class Folder:
    """The records of a folder; `problems` are lines that cannot be used, `by_folder` whether each folder is a site."""

    table: RecordTable
    problems: Sequence[Problem]
    by_folder: bool

    @property
    def files(self) -> list[Path]:
        """Every image."""
        return [self.table.root / record.file for record in self.table.records]


def look(data: Path, metadata: str | None) -> Folder:
    """Read the table, or those of the folders below, one for each site; images are not decoded.

    Raises:
        DataError: there is nothing to read.
    """
    problems: list[Problem] = []
    with Bars() as bars, reporting(bars):
        folders = site_folders(data)
        parts = {folder.name: _table_of(folder, metadata, problems) for folder in folders}
        found = joined(parts, "record") if parts else _table_of(data, metadata, problems)
    if not found.records:
        raise DataError(f"no image of {data} can be used; the first problem: {problems[0]}")
    return Folder(found, problems, bool(parts) and not are_splits(list(parts)))


def _table_of(folder: Path, metadata: str | None, problems: list[Problem]) -> RecordTable:
    named = None if metadata is None else folder.resolve() / metadata
    return read_good_records(folder.resolve(), "record", None, "a", named, problems.append)


def show(folder: Folder, columns: Mapping[str, Column]) -> None:
    """The columns, what each could be, and how large images are."""
    records = folder.table.records
    if columns:
        table(
            f"{folder.table.root}: {len(records)} images (shown here alone)",
            ["column", "values", "no value", "most images of one", "could be"],
            [_column_row(column, len(records)) for column in columns.values()],
        )
    said = [("images", f"{len(records)}, {_sizes(sizes(folder.files))}")]
    if folder.problems:
        said.append(("cannot be used", f"{len(folder.problems)} lines; the first: {folder.problems[0]}"))
    said += [
        (f"images by {column.name}", _counts(column.values))
        for column in columns.values()
        if (column.may_be_class or column.may_be_site) and len(column.values) <= _SHOWN_VALUES
    ]
    lines(said)


def show_units(folder: Folder, columns: Mapping[str, Column], unit_column: str | None) -> None:
    """Units by site, for each way in which the folder could be split."""
    if unit_column and columns[unit_column].missing:
        lines([("without a patient", f"{columns[unit_column].missing} images, which no study takes")])
    records, each = folder.table.records, "units" if unit_column else "images"
    ways = {"folder": {record.file: split_of(record) for record in records}} if folder.by_folder else {}
    for name, column in columns.items() if unit_column else ():
        if column.may_be_site and len(column.values) <= _SHOWN_VALUES and name != unit_column:
            by_value = {record.file: record.columns.get(name, "").strip() for record in records}
            ways[name] = {file: value for file, value in by_value.items() if value in column.values}
    lines([(f"{each} by {way}", _counts(units_by(records, unit_column, of))) for way, of in ways.items()])


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{value} {count}" for value, count in sorted(found.items()))


def _column_row(column: Column, images: int) -> list[str]:
    could = []
    if column.may_be_unit:
        alike = f", {column.look_alike} look alike" if column.look_alike else ""
        each = ", each image its own" if len(column.values) == images else ""
        could.append(f"unit ({len(column.values)} units{each}{alike})")
    could += [word for word, may in (("class", column.may_be_class), ("site", column.may_be_site)) if may]
    return [column.name, f"{len(column.values)}", f"{column.missing}", f"{column.most}", " or ".join(could) or "-"]


def _sizes(found: Sizes | None) -> str:
    if found is None:
        return "none of which can be read"
    small, middle, large = ("x".join(map(str, size)) for size in (found.smallest, found.typical, found.largest))
    same = small if small == large else f"{small} to {large}, typically {middle}"
    unread = f"; {found.unread} of {found.looked_at} looked at cannot be read" if found.unread else ""
    return f"{same} pixels; each is cut to a square and brought to the base's size{unread}"


def show_classes(answers: Answers, columns: Mapping[str, Column]) -> None:
    """How the typed classes stand to this folder's; another site may have others."""
    if answers.class_column is None:
        return
    there = columns[answers.class_column].values
    absent = [one for one in answers.classes if one not in there]
    if absent:
        lines([("no image here has the class", ", ".join(absent))])
    left_out = sum(count for value, count in there.items() if value not in answers.classes)
    if left_out:
        lines([("images of other classes, left out", left_out)])
