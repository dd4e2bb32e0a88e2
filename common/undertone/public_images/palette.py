"""Colours with names, and masks painted with them. Greys have equal channels, exactly."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Mask: TypeAlias = NDArray[np.float32]  # [S, S], 0 = background, 1 = foreground
Pixels: TypeAlias = NDArray[np.uint8]  # [S, S, 3]
Point: TypeAlias = tuple[float, float]

GREYS: dict[str, tuple[int, int]] = {"white": (225, 256), "grey": (100, 156), "black": (0, 26)}
HUES: dict[str, tuple[int, int, int]] = {
    "red": (210, 35, 35),
    "green": (40, 165, 55),
    "blue": (40, 70, 215),
    "yellow": (240, 220, 50),
    "orange": (245, 140, 30),
    "purple": (140, 50, 170),
}
_JITTER = 16  # levels of 256 by which a hue's channels vary
_OVERSAMPLING = 4
_GREY_PAIRS = 0.5  # share of glyphs, shapes and textures without any hue


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """One of `choices`, each as likely as the other."""
    return choices[int(rng.integers(len(choices)))]


def colour(rng: np.random.Generator, name: str) -> NDArray[np.float32]:
    """A shade of the named colour, float32 [3] in 0..255; the three channels of a grey are equal."""
    if name in GREYS:
        low, high = GREYS[name]
        return np.full(3, rng.integers(low, high), dtype=np.float32)
    shade = np.array(HUES[name]) + rng.integers(-_JITTER, _JITTER + 1, size=3)
    return np.clip(shade, 0, 255).astype(np.float32)


def two_names(rng: np.random.Generator) -> tuple[str, str]:
    """Names of a foreground and a different background; half of the pairs are greys only."""
    greys = tuple(GREYS)
    names = greys if rng.random() < _GREY_PAIRS else (*greys, *HUES)
    front = pick(rng, names)
    back = pick(rng, [name for name in names if name != front])
    return front, back


def paint(mask: Mask, front: NDArray[np.float32], back: NDArray[np.float32]) -> Pixels:
    """Blend two colours (float32 [3], 0..255) by a mask [S, S] into pixels uint8 [S, S, 3]."""
    blend = back + mask[:, :, None] * (front - back)
    return np.clip(np.rint(blend), 0, 255).astype(np.uint8)


def polygon_mask(outlines: Sequence[Sequence[Point]], size: int) -> Mask:
    """Filled polygons with corners in the unit square as an anti-aliased mask [size, size]."""
    side = size * _OVERSAMPLING
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    for outline in outlines:
        pen.polygon([(x * side, y * side) for x, y in outline], fill=255)
    return to_mask(canvas, size)


def soften(mask: Mask, radius: float) -> Mask:
    """A mask blurred by a Gaussian of `radius` pixels."""
    image = Image.fromarray(np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / np.float32(255)


def to_mask(canvas: Image.Image, size: int) -> Mask:
    """An 8-bit grey image of any size, averaged down to a mask [size, size]."""
    small = canvas.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / np.float32(255)
