"""What is no error and still worth a line before a study starts: images left out, captions that are shorter."""

import difflib
from collections import Counter
from collections.abc import Iterator

from undertone.core.captions import caption_columns
from undertone.core.text import shown
from undertone.data.records import RecordTable, unlisted
from undertone.errors import DataError
from undertone.study.planned_data import PlannedData

_CLASSES_SHOWN = 5


def remarks(table: RecordTable, caption: str) -> Iterator[str]:
    """A line for images that no line of the metadata lists, and one for each column of the caption that is empty."""
    left_out = unlisted(table)
    if left_out and table.source:
        images = "1 image" if len(left_out) == 1 else f"{len(left_out)} images"
        yield f"{images} below {table.root} left out: no line of {table.source} lists {_first(left_out)}"
    for name in dict.fromkeys(caption_columns(caption)):
        short = [record for record in table.records if not record.columns.get(name, "").strip()]
        if short:
            yield (
                f"{shown(name)} is empty in {len(short)} of {len(table.records)} records, so their captions are "
                f"shorter; the first: {table.place(short[0])}"
            )


def unlisted_classes(table: RecordTable, data: PlannedData) -> Iterator[str]:
    """A line for each class that records name and the plan's list does not hold: such records have no part.

    Raises:
        DataError: no record at all is of a class of the list.
    """
    if data.class_column is None or not table.records:
        return
    named = Counter(
        record.columns.get(data.class_column, "").strip() for record in table.records if not data.takes(record.columns)
    )
    if sum(named.values()) == len(table.records):
        there = ", ".join(f'"{shown(name, 60)}"' for name, _ in named.most_common(_CLASSES_SHOWN))
        raise DataError(
            f"no record is of a class that data.classes lists ({', '.join(map(shown, data.classes))}); the column "
            f"{shown(data.class_column)} says {there}"
        )
    for name, count in named.most_common(_CLASSES_SHOWN):
        near = difflib.get_close_matches(name, data.classes, n=1, cutoff=0.8)
        hint = f"; did it mean {shown(near[0])}?" if near else ""
        said = f'"{shown(name, 60)}"' if name else "nothing"
        yield f"{count} of {len(table.records)} records have no part: {shown(data.class_column)} says {said}{hint}"
    if len(named) > _CLASSES_SHOWN:
        yield f"and {len(named) - _CLASSES_SHOWN} more classes that data.classes does not list"


def _first(names: list[str]) -> str:
    return shown(names[0]) if len(names) == 1 else f"them; the first is {shown(names[0])}"
