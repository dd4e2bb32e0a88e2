"""Digits as a hand draws them: a few strokes through wandering points, with a pen of uneven width.

The strokes are written down here, not learned from anybody's writing.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points: TypeAlias = NDArray[np.float64]
_CANVAS = 128
_WANDER = 0.035  # deviation of a stroke's points, in units of the digit's height
_STEPS = 10  # line segments between two points

# The strokes of each way to write a digit, as "x y" pairs in hundredths of a square, y downwards.
_WAYS: dict[int, tuple[str, ...]] = {
    0: ("55 0  20 20  15 60  35 97  70 90  85 50  75 12  50 2",),
    1: (
        "50 0  50 50  50 100",
        "30 20  52 0  52 50  52 100",
    ),
    2: (
        "20 25  45 0  78 20  60 55  15 98 / 15 98  50 95  90 97",
        "20 20  50 0  80 20  50 70  20 95  25 75  55 88  90 95",
    ),
    3: ("20 10  50 0  78 18  65 40  42 47 / 42 47  78 55  82 80  50 100  15 90",),
    4: (
        "30 0  20 35  18 58 / 18 58  50 60  88 55 / 72 10  70 60  68 100",
        "60 0  35 35  12 65 / 12 65  50 66  88 63 / 62 30  60 70  58 100",
    ),
    5: ("80 2  50 2  28 4 / 28 4  25 25  22 45 / 22 45  55 38  82 62  70 92  40 100  15 90",),
    6: ("65 0  35 30  20 65  35 97  70 92  75 65  50 52  25 70",),
    7: (
        "15 8  50 5  85 5 / 85 5  60 50  42 100",
        "15 8  50 5  85 5 / 85 5  60 50  42 100 / 35 52  55 50  78 50",
    ),
    8: ("72 12  50 0  26 15  40 40  70 62  75 88  50 100  25 87  35 60  65 38  74 14",),
    9: (
        "75 20  50 0  22 20  35 48  65 40  77 15  75 55  62 100",
        "75 18  45 2  22 28  50 48  75 20 / 75 20  74 60  60 95  30 98",
    ),
}


def written_digit(rng: np.random.Generator, value: int) -> Image.Image:
    """The digit in white on black, uint8 [128, 128], slanted, stretched and off the middle as it came.

    Args:
        rng: source of every movement.
        value: 0 to 9.
    """
    strokes = strokes_of(_WAYS[value][int(rng.integers(len(_WAYS[value])))])
    tall = rng.uniform(0.6, 0.95)
    wide = tall * (rng.uniform(0.3, 0.5) if value == 1 else rng.uniform(0.6, 1.0))
    slant, turn = rng.normal(-0.15, 0.18), rng.normal(0, 0.06)
    middle = 0.5 + rng.normal(0, 0.025, 2)
    pen = rng.uniform(0.035, 0.11)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    for stroke in strokes:
        points = stroke - 0.5 + rng.normal(0, _WANDER, stroke.shape)
        x = points[:, 0] * wide + slant * points[:, 1] * tall * 0.8
        y = points[:, 1] * tall
        path = smooth_path(
            np.stack([math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y], 1)
        )
        widths = pen * (1 + 0.2 * np.sin(np.linspace(0, math.pi * rng.uniform(0.5, 2), len(path))))
        draw_path(canvas, (path + middle) * _CANVAS, widths * _CANVAS)
    return canvas


def strokes_of(way: str) -> list[Points]:
    """The strokes [n, 2] of one way to write a character, in units of its square."""
    return [np.array(stroke.split(), dtype=np.float64).reshape(-1, 2) / 100 for stroke in way.split("/")]


def smooth_path(points: Points) -> Points:
    """A Catmull-Rom curve through points [n, 2]."""
    held = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(held, held[1:], held[2:], held[3:], strict=False):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*pieces, points[-1:]])


def draw_path(canvas: Image.Image, path: Points, widths: Points) -> None:
    """Draw a path [n, 2] in white with a pen that is `widths` [n] wide; all in pixels."""
    brush = ImageDraw.Draw(canvas)
    for (x, y), width in zip(path, widths, strict=True):
        brush.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    for start, end, width in zip(path, path[1:], widths, strict=False):
        brush.line([tuple(start), tuple(end)], fill=255, width=max(1, round(width)))
