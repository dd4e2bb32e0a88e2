"""Grids of images that people look at: one labelled row per prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

_TILE, _GAP, _LABEL = 128, 4, 18


def image_grid(rows: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Label -> images, as one picture; each image is shown 128 pixels wide."""
    columns = max(len(images) for images in rows.values())
    step = _TILE + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, len(rows) * (step + _LABEL) + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (label, images) in enumerate(rows.items()):
        top = line * (step + _LABEL) + _GAP
        pen.text((_GAP, top), label, fill="black")
        for column, image in enumerate(images):
            tile = image.convert("RGB").resize((_TILE, _TILE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (column * step + _GAP, top + _LABEL))
    return sheet


def save_grid(path: Path, rows: Mapping[str, Sequence[Image.Image]]) -> None:
    """Write `image_grid(rows)` as a PNG."""
    image_grid(rows).save(path)
