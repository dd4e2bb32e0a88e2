"""Flat shapes and repeating textures in two colours."""

import math

import numpy as np
from PIL import Image, ImageFilter

from undertone.pretraining.palette import (
    Mask,
    Pixels,
    Point,
    colour,
    paint,
    pick,
    polygon_mask,
    two_names,
    with_article,
)

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "line")
TEXTURES = ("stripes", "checks", "dots", "waves", "clouds", "gradient")
_SOFT_SHARE = 0.25


def shape(rng: np.random.Generator, size: int) -> tuple[Pixels, str]:
    """One shape on a plain ground, sharp or soft: pixels uint8 [size, size, 3] and its caption."""
    name = pick(rng, SHAPES)
    front, back = two_names(rng)
    mask = _shape_mask(rng, name, size)
    soft = rng.random() < _SOFT_SHARE
    if soft:
        blur = ImageFilter.GaussianBlur(rng.uniform(0.04, 0.08) * size)
        image = Image.fromarray(np.rint(mask * 255).astype(np.uint8)).filter(blur)
        mask = np.asarray(image, dtype=np.float32) / np.float32(255)
    pixels = paint(mask, colour(rng, front), colour(rng, back))
    return pixels, with_article(f"{'soft ' if soft else ''}{front} {name} on {back}")


def texture(rng: np.random.Generator, size: int) -> tuple[Pixels, str]:
    """A pattern that fills the frame: pixels uint8 [size, size, 3] and its caption."""
    name = pick(rng, TEXTURES)
    front, back = two_names(rng)
    pixels = paint(_texture_mask(rng, name, size), colour(rng, front), colour(rng, back))
    return pixels, f"{front} and {back} {name}"


def _shape_mask(rng: np.random.Generator, name: str, size: int) -> Mask:
    radius = rng.uniform(0.24, 0.44)
    centre = (0.5 + rng.uniform(-1, 1) * (0.48 - radius), 0.5 + rng.uniform(-1, 1) * (0.48 - radius))
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
        length, width = rng.uniform(0.4, 0.7), rng.uniform(0.04, 0.09)
        return polygon_mask([_bar((0.5, 0.5), length, width, rng.uniform(0, math.pi))], size)
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
