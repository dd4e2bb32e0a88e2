"""Letters as hands and type show them, white on black, in one box, centred by mass: as MNIST's digits lie in theirs.

For bases that must not have seen a digit. The strokes were written down here, capital and small, one or more ways for
each letter; type comes from the fonts that matplotlib bundles. All are bent, slanted and stretched, with pens of any
width. No digit is in this file, and nothing here draws one.
"""

import math

import numpy as np
from PIL import Image, ImageFilter

from undertone.public_images.glyphs import FONTS, LETTERS, outline_of
from undertone.public_images.handwriting import draw_path, smooth_path, strokes_of
from undertone.public_images.palette import Mask, Pixels, paint, pick, to_mask
from undertone.public_images.wording import Subject

_CANVAS = 112  # four for each cell of the scan
_WRITTEN_SHARE = 0.75  # of letters are written, the others printed
_BOX = 20 / 28  # of a picture's side: the longer side of the ink
_CELLS = 28  # of the scan that is enlarged to the picture's size
_BENDS = 4  # squares a side of the net by which a letter is bent
_RING = "50 0  18 22  14 70  50 100  86 72  84 24  48 2"

# The strokes of each way to write a letter, as "x y" pairs in hundredths of a square, y downwards.
_WAYS: dict[str, tuple[str, ...]] = {
    "a": (
        "8 100  30 50  50 0 / 50 0  70 50  92 100 / 26 62  50 60  76 62",
        "78 22  50 4  20 42  30 92  62 82  78 30 / 78 10  78 60  90 98",
    ),
    "b": (
        "20 0  20 50  20 100 / 20 2  60 0  78 22  58 46  22 48 / 22 48  65 50  85 74  62 98  20 98",
        "22 0  22 50  22 96 / 22 58  55 42  80 70  55 100  22 92",
    ),
    "c": ("82 18  55 0  20 25  15 60  40 97  85 84",),
    "d": (
        "20 0  20 50  20 100 / 20 2  60 8  85 50  62 92  20 98",
        "78 0  78 50  78 98 / 78 60  50 42  20 72  45 100  78 88",
    ),
    "e": (
        "80 2  20 2 / 20 2  20 50  20 98 / 20 98  82 98 / 20 48  68 48",
        "78 12  45 0  25 22  50 46 / 50 46  20 66  28 95  80 88",
        "20 55  80 48  65 6  25 20  22 80  55 100  85 82",
    ),
    "f": (
        "80 2  20 2 / 20 2  20 50  20 100 / 20 48  66 48",
        "78 8  55 0  45 25  45 60  45 100 / 22 40  72 38",
    ),
    "g": (
        "82 18  52 0  18 30  18 70  50 100  82 84  84 58 / 84 58  55 58",
        "75 15  45 0  22 28  50 52  75 25 / 77 5  77 60  60 98  22 90",
    ),
    "h": (
        "18 0  18 50  18 100 / 82 0  82 50  82 100 / 18 50  82 48",
        "22 0  22 50  22 100 / 22 62  52 42  75 60  76 100",
    ),
    "i": ("25 2  75 2 / 50 2  50 98 / 25 98  75 98", "50 35  50 70  52 100 / 50 8  52 11"),
    "j": ("70 0  70 50  66 88  42 100  18 82", "35 2  90 2 / 68 2  68 60  58 96  20 88"),
    "k": ("20 0  20 50  20 100 / 80 2  22 55 / 40 40  82 100", "25 0  25 50  25 100 / 70 40  27 68 / 40 60  75 100"),
    "l": ("22 0  22 50  22 98 / 22 98  80 98", "30 62  62 20  50 0  38 30  42 90  72 92"),
    "m": (
        "10 100  15 0 / 15 0  50 65 / 50 65  85 0 / 85 0  90 100",
        "10 35  12 70  12 100 / 12 55  32 36  48 60  48 100 / 48 58  68 36  86 58  88 100",
    ),
    "n": ("15 100  15 0 / 15 0  85 100 / 85 100  85 0", "20 30  22 70  22 100 / 22 55  52 32  76 56  78 100"),
    "o": (_RING,),
    "p": (
        "20 0  20 50  20 100 / 20 2  62 2  82 26  60 50  20 52",
        "22 15  22 60  22 100 / 22 22  55 10  80 36  58 60  22 52",
    ),
    "q": (f"{_RING} / 58 70  95 104", "75 20  45 10  20 36  45 62  75 45 / 76 12  76 60  76 100  90 94"),
    "r": (
        "20 0  20 50  20 100 / 20 2  62 2  82 26  60 50  20 52 / 45 52  84 100",
        "25 25  26 60  26 100 / 26 55  48 28  78 32",
    ),
    "s": ("80 14  50 0  22 22  50 48  80 72  55 100  18 86",),
    "t": ("10 2  90 2 / 50 2  50 50  50 100", "48 0  46 50  52 96  76 90 / 20 32  78 30"),
    "u": ("15 0  15 60  48 100  82 62  84 0", "18 20  20 75  48 95  75 70 / 77 20  77 70  88 98"),
    "v": ("10 0  30 50  50 100 / 50 100  70 50  90 0",),
    "w": (
        "5 0  25 100 / 25 100  50 35 / 50 35  75 100 / 75 100  95 0",
        "8 20  20 90  45 90  50 40  55 90  80 92  92 20",
    ),
    "x": ("12 0  50 50  88 100 / 88 0  50 50  12 100",),
    "y": ("10 0  50 50 / 90 0  50 50 / 50 50  50 100", "15 5  20 45  50 55  78 30 / 80 3  75 60  50 98  18 90"),
    "z": ("15 2  85 2 / 85 2  15 98 / 15 98  88 98", "15 5  85 2 / 85 2  15 98 / 15 98  88 96 / 30 50  72 48"),
}


def white_letter(rng: np.random.Generator, size: int) -> tuple[Pixels, Subject]:
    """A letter in white on black: pixels uint8 [size, size, 3] and its words."""
    letter = pick(rng, LETTERS)
    written = rng.random() < _WRITTEN_SHARE
    canvas = _bent(rng, _written(rng, letter) if written else _printed(rng, letter))
    mask = _in_box(rng, canvas, size)
    pixels = paint(mask, np.full(3, rng.integers(235, 256), dtype=np.float32), np.zeros(3, dtype=np.float32))
    return pixels, Subject(
        "letter", f"letter {letter}", ("handwritten", "white") if written else ("white",), ("on black",)
    )


def _written(rng: np.random.Generator, letter: str) -> Image.Image:
    """A letter by pen: its points wander, the pen presses unevenly."""
    ways = _WAYS[letter]
    pen = rng.uniform(0.07, 0.2)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    for stroke in strokes_of(ways[int(rng.integers(len(ways)))]):
        points = stroke + rng.normal(0, 0.035, stroke.shape)
        path = smooth_path(points) * 0.7 + 0.15
        widths = pen * 0.7 * (1 + 0.2 * np.sin(np.linspace(0, math.pi * rng.uniform(0.5, 2), len(path))))
        draw_path(canvas, path * _CANVAS, widths * _CANVAS)
    return canvas


def _printed(rng: np.random.Generator, letter: str) -> Image.Image:
    """A letter in type, its strokes thinned or thickened by a blur and a threshold."""
    shown = letter.upper() if rng.random() < 0.5 else letter
    glyph = outline_of(pick(rng, FONTS), shown)
    factor = 0.7 * _CANVAS / max(glyph.size)
    glyph = glyph.resize((max(1, round(glyph.width * factor)), max(1, round(glyph.height * factor))))
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    canvas.paste(glyph, ((_CANVAS - glyph.width) // 2, (_CANVAS - glyph.height) // 2))
    blurred = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.7, 2.5)))
    level = float(rng.uniform(50, 150))
    return blurred.point([255 if value > level else 0 for value in range(256)])


def _bent(rng: np.random.Generator, canvas: Image.Image) -> Image.Image:
    """Slanted, turned and stretched as a whole, and each knot of a net moved a little."""
    slant, turn, stretch = rng.normal(0.12, 0.18), rng.normal(0, 0.08), math.exp(rng.normal(0, 0.16))
    across, down = np.meshgrid(np.linspace(-0.5, 0.5, _BENDS + 1), np.linspace(-0.5, 0.5, _BENDS + 1))
    x, y = (across + slant * down) * stretch, down
    x, y = math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y
    knots = (np.stack([x, y], 2) + 0.5 + rng.normal(0, 0.02, (*x.shape, 2))) * _CANVAS
    side, net = _CANVAS // _BENDS, []
    for row in range(_BENDS):
        for column in range(_BENDS):
            corners = ((row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1))
            quad = tuple(float(value) for corner in corners for value in knots[corner])
            left, top = column * side, row * side
            net.append(((left, top, left + side, top + side), quad))
    return canvas.transform(canvas.size, Image.Transform.MESH, net, resample=Image.Resampling.BILINEAR)


def _in_box(rng: np.random.Generator, canvas: Image.Image, size: int) -> Mask:
    """The ink, scaled into the box and centred by its mass, as a scan of few cells enlarged to [size, size]."""
    ink = canvas.crop(canvas.getbbox())
    longest = _BOX * _CANVAS * rng.uniform(0.88, 1.04)
    factor = longest / max(ink.size)
    wide, tall = (max(4, round(side * factor)) for side in ink.size)
    ink = ink.resize((wide, tall), Image.Resampling.BILINEAR)
    weight = np.asarray(ink, dtype=np.float64)
    total = weight.sum()
    middle = (weight.sum(0) @ np.arange(wide) / total, weight.sum(1) @ np.arange(tall) / total)
    placed = Image.new("L", (_CANVAS, _CANVAS))
    placed.paste(ink, tuple(round((_CANVAS - 1) / 2 - one) for one in middle))
    mask = to_mask(placed, _CELLS)
    mask = mask / np.float32(max(0.5, float(mask.max())))
    enlarged = Image.fromarray(np.rint(mask * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(enlarged, dtype=np.float32) / np.float32(255)
