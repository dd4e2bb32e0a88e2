"""Flat shapes and repeating textures in two colours."""

import math

import numpy as np
from PIL import Image

from undertone.public_images.glyphs import PLACES
from undertone.public_images.palette import (
    Mask,
    Pixels,
    Point,
    colour,
    paint,
    pick,
    polygon_mask,
    soften,
    two_names,
)
from undertone.public_images.wording import Subject

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "line")
TEXTURES = ("stripes", "checks", "dots", "waves", "clouds", "gradient", "background")
SIZES: dict[str, tuple[float, float]] = {"small": (0.12, 0.17), "": (0.22, 0.32), "large": (0.38, 0.47)}
_SOFT_SHARE = 0.2
_SEVERAL_SHARE = 0.35
_PLACED_SHARE = 0.6


def shape(rng: np.random.Generator, size: int) -> tuple[Pixels, Subject]:
    """One to four equal shapes on a plain ground, sharp or soft: pixels uint8 [size, size, 3] and their words."""
    name = pick(rng, SHAPES)
    front, back = two_names(rng)
    after = [f"on {back}"]
    if rng.random() < _SEVERAL_SHARE:
        count, big = int(rng.integers(2, 5)), ""
        mask = _several(rng, name, count, size)
    else:
        count, big = 1, pick(rng, tuple(SIZES))
        radius = rng.uniform(*SIZES[big])
        centre = (0.5 + rng.uniform(-1, 1) * (0.48 - radius), 0.5 + rng.uniform(-1, 1) * (0.48 - radius))
        if big == "small" and rng.random() < _PLACED_SHARE:
            place = pick(rng, tuple(PLACES))
            x, y = PLACES[place]
            centre = (0.5 + x + rng.uniform(-0.06, 0.06), 0.5 + y + rng.uniform(-0.06, 0.06))
            after.append(f"at the {place}")
        mask = _shape_mask(rng, name, size, centre, radius)
    soft = big != "small" and rng.random() < _SOFT_SHARE  # blur leaves nothing of a small one
    if soft:
        mask = soften(mask, rng.uniform(0.03, 0.05) * size)
    pixels = paint(mask, colour(rng, front), colour(rng, back))
    before = tuple(word for word in ("soft" if soft else "", big, front) if word)
    return pixels, Subject(name, name, before, tuple(after), count)


def _several(rng: np.random.Generator, name: str, count: int, size: int) -> Mask:
    """Two to four shapes, each in its own quarter."""
    quarters = [(0.27, 0.27), (0.73, 0.73), (0.73, 0.27), (0.27, 0.73)]
    mask = np.zeros((size, size), dtype=np.float32)
    radius = rng.uniform(0.13, 0.2)
    first = rng.permutation(4)[:count]
    for index in first:
        centre = (quarters[index][0] + rng.uniform(-0.04, 0.04), quarters[index][1] + rng.uniform(-0.04, 0.04))
        mask = np.maximum(mask, _shape_mask(rng, name, size, centre, radius))
    return mask


def texture(rng: np.random.Generator, size: int) -> tuple[Pixels, Subject]:
    """A pattern or a plain ground that fills the frame: pixels uint8 [size, size, 3] and its words."""
    name = pick(rng, TEXTURES)
    front, back = two_names(rng)
    if name == "background":  # nearly one colour, a little light from one side
        ramp = _texture_mask(rng, "gradient", size)
        pixels = paint(np.float32(rng.uniform(0.02, 0.12)) * ramp, np.full(3, 128, np.float32), colour(rng, front))
        return pixels, Subject(name, name, (front,))
    pixels = paint(_texture_mask(rng, name, size), colour(rng, front), colour(rng, back))
    return pixels, Subject(name, name, (f"{front} and {back}",))


def _shape_mask(rng: np.random.Generator, name: str, size: int, centre: Point, radius: float) -> Mask:
    tilt = rng.uniform(-0.35, 0.35)
    if name == "circle":
        return polygon_mask([_regular(centre, radius, 48, 0.0)], size)
    if name == "ring":
        outer = polygon_mask([_regular(centre, radius, 48, 0.0)], size)
        inner = polygon_mask([_regular(centre, radius * rng.uniform(0.5, 0.7), 48, 0.0)], size)
        return outer - inner
    if name == "star":
        return polygon_mask([_regular(centre, radius, 10, tilt, inner=0.45)], size)
    if name == "cross":
        width = radius * rng.uniform(0.25, 0.4)
        return polygon_mask([_bar(centre, radius, width, tilt), _bar(centre, width, radius, tilt)], size)
    if name == "line":
        length, width = radius * rng.uniform(1.0, 1.2), rng.uniform(0.025, 0.05) + 0.08 * radius
        return polygon_mask([_bar(centre, length, width, rng.uniform(0, math.pi))], size)
    if name == "square":
        return polygon_mask([_regular(centre, radius * 1.2, 4, math.pi / 4 + tilt / 3)], size)
    sides, turn = (3, tilt) if name == "triangle" else (4, tilt / 3)  # a diamond stands on a corner
    return polygon_mask([_regular(centre, radius * 1.1, sides, turn)], size)


def _regular(centre: Point, radius: float, corners: int, turn: float, inner: float = 1.0) -> list[Point]:
    """A regular polygon, first corner up; every second corner at `inner` times the radius."""
    outline = []
    for index in range(corners):
        angle = turn - math.pi / 2 + 2 * math.pi * index / corners
        reach = radius * (inner if index % 2 else 1.0)
        outline.append((centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle)))
    return outline


def _bar(centre: Point, half_length: float, half_width: float, turn: float) -> list[Point]:
    """A turned rectangle."""
    cos, sin = math.cos(turn), math.sin(turn)
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    offsets = [(half_length * x, half_width * y) for x, y in corners]
    return [(centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y) for x, y in offsets]


def _texture_mask(rng: np.random.Generator, name: str, size: int) -> Mask:
    if name == "clouds":
        coarse = rng.integers(0, 256, size=(5, 5)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.float32) / np.float32(255)
    grid = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 1, size=2)
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    frequency = rng.uniform(2, 5)
    if name == "gradient":
        span = float(u.max() - u.min())
        ramp: Mask = ((u - u.min()) / span).astype(np.float32)
        return ramp
    if name == "waves":
        u = u + 0.08 * np.sin(2 * math.pi * (2 * v + phase[1]))
    first = np.sin(2 * math.pi * (frequency * u + phase[0]))
    second = np.sin(2 * math.pi * (frequency * v + phase[1]))
    field = {"stripes": first, "waves": first, "checks": first * second, "dots": first + second - 0.6}[name]
    # A slope of one pixel's width at the edge keeps the pattern free of stairs.
    slope = size / (2 * math.pi * frequency)
    mask: Mask = np.clip(0.5 + field * slope, 0, 1).astype(np.float32)
    return mask
