"""Digits as a hand draws them: a few strokes through wandering points, with a pen of uneven width.

The strokes are written down here, not learned from anybody's writing.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from undertone.pretraining.palette import Point

_CANVAS = 128
_WANDER = 0.035  # deviation of a stroke's points, in units of the digit's height
_STEPS = 10  # line segments between two points

Stroke = tuple[Point, ...]
# Corners of the strokes in a unit square, y downwards; several ways to write one digit.
_WAYS: tuple[tuple[tuple[Stroke, ...], ...], ...] = (
    (((0.55, 0.0), (0.2, 0.2), (0.15, 0.6), (0.35, 0.97), (0.7, 0.9), (0.85, 0.5), (0.75, 0.12), (0.5, 0.02)),),
    (((0.5, 0.0), (0.5, 0.5), (0.5, 1.0)),),
    (((0.3, 0.2), (0.52, 0.0), (0.52, 0.5), (0.52, 1.0)),),
    (((0.2, 0.25), (0.45, 0.0), (0.78, 0.2), (0.6, 0.55), (0.15, 0.98)), ((0.15, 0.98), (0.5, 0.95), (0.9, 0.97))),
    (((0.2, 0.2), (0.5, 0.0), (0.8, 0.2), (0.5, 0.7), (0.2, 0.95), (0.25, 0.75), (0.55, 0.88), (0.9, 0.95)),),
    (
        ((0.2, 0.1), (0.5, 0.0), (0.78, 0.18), (0.65, 0.4), (0.42, 0.47)),
        ((0.42, 0.47), (0.78, 0.55), (0.82, 0.8), (0.5, 1.0), (0.15, 0.9)),
    ),
    (((0.3, 0.0), (0.2, 0.35), (0.18, 0.58)), ((0.18, 0.58), (0.5, 0.6), (0.88, 0.55)), ((0.72, 0.1), (0.7, 0.6), (0.68, 1.0))),
    (((0.6, 0.0), (0.35, 0.35), (0.12, 0.65)), ((0.12, 0.65), (0.5, 0.66), (0.88, 0.63)), ((0.62, 0.3), (0.6, 0.7), (0.58, 1.0))),
    (
        ((0.8, 0.02), (0.5, 0.02), (0.28, 0.04)),
        ((0.28, 0.04), (0.25, 0.25), (0.22, 0.45)),
        ((0.22, 0.45), (0.55, 0.38), (0.82, 0.62), (0.7, 0.92), (0.4, 1.0), (0.15, 0.9)),
    ),
    (((0.65, 0.0), (0.35, 0.3), (0.2, 0.65), (0.35, 0.97), (0.7, 0.92), (0.75, 0.65), (0.5, 0.52), (0.25, 0.7)),),
    (((0.15, 0.08), (0.5, 0.05), (0.85, 0.05)), ((0.85, 0.05), (0.6, 0.5), (0.42, 1.0))),
    (((0.15, 0.08), (0.5, 0.05), (0.85, 0.05)), ((0.85, 0.05), (0.6, 0.5), (0.42, 1.0)), ((0.35, 0.52), (0.55, 0.5), (0.78, 0.5))),
    (
        (
            (0.72, 0.12), (0.5, 0.0), (0.26, 0.15), (0.4, 0.4), (0.7, 0.62), (0.75, 0.88),
            (0.5, 1.0), (0.25, 0.87), (0.35, 0.6), (0.65, 0.38), (0.74, 0.14),
        ),
    ),
    (((0.75, 0.2), (0.5, 0.0), (0.22, 0.2), (0.35, 0.48), (0.65, 0.4), (0.77, 0.15), (0.75, 0.55), (0.62, 1.0)),),
    (((0.75, 0.18), (0.45, 0.02), (0.22, 0.28), (0.5, 0.48), (0.75, 0.2)), ((0.75, 0.2), (0.74, 0.6), (0.6, 0.95), (0.3, 0.98))),
)  # fmt: skip
_WAYS_OF_DIGIT = ((0,), (1, 2), (3, 4), (5,), (6, 7), (8,), (9,), (10, 11), (12,), (13, 14))


def written_digit(rng: np.random.Generator, value: int) -> Image.Image:
    """The digit in white on black, uint8 [128, 128], slanted, stretched and off the middle as it came.

    Args:
        rng: source of every movement.
        value: 0 to 9.
    """
    ways = _WAYS_OF_DIGIT[value]
    strokes = _WAYS[ways[int(rng.integers(len(ways)))]]
    tall = rng.uniform(0.6, 0.95)
    wide = tall * (rng.uniform(0.3, 0.5) if value == 1 else rng.uniform(0.6, 1.0))
    slant, turn = rng.normal(-0.15, 0.18), rng.normal(0, 0.06)
    middle = 0.5 + rng.normal(0, 0.025, 2)
    pen = rng.uniform(0.035, 0.11)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    brush = ImageDraw.Draw(canvas)
    for stroke in strokes:
        points = np.array(stroke) - 0.5 + rng.normal(0, _WANDER, (len(stroke), 2))
        x = points[:, 0] * wide + slant * points[:, 1] * tall * 0.8
        y = points[:, 1] * tall
        path = _smooth(np.stack([math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y], 1))
        widths = pen * (1 + 0.2 * np.sin(np.linspace(0, math.pi * rng.uniform(0.5, 2), len(path))))
        _draw(brush, (path + middle) * _CANVAS, widths * _CANVAS)
    return canvas


def _smooth(points: np.ndarray) -> np.ndarray:
    """A Catmull-Rom curve through points [n, 2]."""
    held = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(held, held[1:], held[2:], held[3:], strict=False):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*pieces, points[-1:]])


def _draw(brush: ImageDraw.ImageDraw, path: np.ndarray, widths: np.ndarray) -> None:
    for (x, y), width in zip(path, widths, strict=True):
        brush.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    for start, end, width in zip(path, path[1:], widths, strict=False):
        brush.line([tuple(start), tuple(end)], fill=255, width=max(1, round(width)))
