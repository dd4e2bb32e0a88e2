"""The images of a rehearsal: public drawings, with the columns that the plan asks for."""

from pathlib import Path

from PIL import Image

from undertone.core.captions import caption_columns
from undertone.core.durable import storage_errors
from undertone.data.records import Record, RecordTable, read_records, write_metadata
from undertone.public_images.procedural import SMALLEST, draw
from undertone.study.plan import Plan

_SEED = 0x5EED
_WORD = "drawn"


def draw_records(folder: Path, plan: Plan, units: int, size: int) -> RecordTable:
    """Draw one image for each of some units, with a metadata.csv, and read them as a site's are read.

    Args:
        folder: a SITE_DIR without images.
        plan: whose unit column and caption the metadata serve.
        units: how many.
        size: of the images, in pixels.

    Raises:
        FolderError: the images cannot be written.
    """
    root, data, records = folder / "images", plan.data, []
    columns = dict.fromkeys(caption_columns(data.caption), _WORD)

    def named(index: int, unit: str) -> dict[str, str]:
        """The unit's id and its class, where the plan asks for them; classes in turn."""
        of_unit = {} if data.unit_column is None else {data.unit_column: unit}
        of_class = {} if data.class_column is None else {data.class_column: data.classes[index % len(data.classes)]}
        return columns | of_unit | of_class

    with storage_errors(folder):
        root.mkdir(mode=0o700)
        for index in range(units):
            name, unit = f"{index:04d}.png", f"unit-{index:04d}"
            Image.fromarray(draw(_SEED, index, max(size, SMALLEST)).pixels).save(root / name)
            records.append(Record(name, unit, named(index, unit)))
        write_metadata(folder / "metadata.csv", records)
    return read_records(
        root,
        plan.privacy.unit,
        data.unit_column,
        data.caption,
        folder / "metadata.csv",
        class_column=data.class_column,
    )
