"""What is no error and still worth a line before a study starts: images left out, captions that are shorter."""

from collections.abc import Iterator

from undertone.core.captions import caption_columns
from undertone.core.text import shown
from undertone.data.records import RecordTable, unlisted


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


def _first(names: list[str]) -> str:
    return shown(names[0]) if len(names) == 1 else f"them; the first is {shown(names[0])}"
