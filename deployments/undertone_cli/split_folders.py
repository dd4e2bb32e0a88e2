"""Folders named train, validation, test: what is trained on and what is held out, as data sets are handed out.

They are never sites: three such "sites" would share patients, and what was meant to be held out would be released.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from undertone.core.text import shown
from undertone.core.unit import Unit
from undertone.data.records import Record, RecordTable
from undertone.errors import DataError

_TRAINING = frozenset(("train", "training"))
# The names that Hugging Face's imagefolder knows, and those that people use beside them.
_HELD_OUT = frozenset(
    ("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation", "holdout", "hold-out", "hold_out")
)


def are_splits(names: list[str]) -> bool:
    """Whether folders are splits of a data set, by their names.

    Raises:
        DataError: some are and others are not, or none of them is trained on.
    """
    splits = [name for name in names if is_split(name)]
    others = [name for name in names if name not in splits]
    if splits and others:
        raise DataError(
            f"{shown(splits[0])} stands beside {shown(others[0])}: the one names a split of a data set (training or "
            "hold-out), the other a site; put sites into one folder and splits into another, or rename it"
        )
    if splits and not any(map(is_training, splits)):
        raise DataError(f"{', '.join(map(shown, splits))} and no train: there is nothing to adapt to")
    return bool(splits)


def is_split(name: str) -> bool:
    """Whether a folder's name is that of a split."""
    return name.casefold() in _TRAINING | _HELD_OUT


def is_training(name: str) -> bool:
    """Whether a split's records are trained on; else they are held out."""
    return name.casefold() in _TRAINING


def split_of(record: Record) -> str:
    """The folder that a record's file lies in, below the root; "" for files in the root itself."""
    parts = PurePosixPath(record.file).parts
    return parts[0] if len(parts) > 1 else ""


def joined(tables: Mapping[str, RecordTable], unit: Unit) -> RecordTable:
    """The records of sub-folders as one table of the folder that holds them."""
    records = [
        replace(
            record,
            file=f"{name}/{record.file}",
            unit=f"{name}/{record.file}" if unit == "record" else record.unit,
            target=f"{name}/{record.target}" if record.target else "",
        )
        for name, table in tables.items()
        for record in table.records
    ]
    root = next(iter(tables.values())).root.parent
    return RecordTable(root, tuple(sorted(records, key=lambda record: record.file)))


def apart(table: RecordTable) -> tuple[RecordTable, RecordTable]:
    """(training, held out) records of a table whose files lie in splits."""
    return (
        table.where(lambda record: is_training(split_of(record))),
        table.where(lambda record: not is_training(split_of(record))),
    )


def overlap(training: RecordTable, held_out: RecordTable) -> str:
    """A line about patients on both sides, or "": they cost no privacy, but the hold-out is none."""
    both = training.units().keys() & held_out.units().keys()
    if not both:
        return ""
    units = "1 patient has" if len(both) == 1 else f"{len(both)} patients have"
    return (
        f"{units} images both to train on and held out, so diagnostics look better than they are; hold out other people"
    )
