"""Public subjects that are played as private sets: what settings are chosen on, so that no private image is.

    python benchmarks/subjects.py SHEET.png

Image (subject, seed, index) is a pure function of its numbers. The first four are kinds of the base's own drawings; the
others no base that ships was trained on. `SHEET.png` shows some of each.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from undertone.public_images.glyphs import handwritten_digit
from undertone.public_images.palette import Pixels
from undertone.public_images.phantoms import ORGANS, phantom
from undertone.public_images.shapes import shape, texture
from undertone.public_images.wording import Subject as Words

Draw = Callable[[np.random.Generator, int], Pixels]
_FINE = 4  # drawn at so many times the size, then averaged
_TRIES = 10_000


@dataclass(frozen=True)
class Subject:
    """A subject: how one of its images is drawn; `kinds` are what the public encoder calls it, none where unknown."""

    name: str
    draw: Draw
    kinds: tuple[str, ...] = ()


def image(subject: Subject, seed: int, index: int, size: int) -> Pixels:
    """Image number `index` of the series `seed`, uint8 [size, size, 3]."""
    return subject.draw(np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64))), size)


def images(subject: Subject, seed: int, first: int, count: int, size: int) -> NDArray[np.uint8]:
    """Images `first` .. `first + count - 1` of the series, [count, size, size, 3]."""
    return np.stack([image(subject, seed, index, size) for index in range(first, first + count)])


# --- kinds of the base's own drawings ---------------------------------------------------------------------------------


def of_kind(drawer: Callable[[np.random.Generator, int], tuple[Pixels, Words]], *kinds: str) -> Draw:
    """Drawings of one drawer that are of some kinds."""

    def drawn(rng: np.random.Generator, size: int) -> Pixels:
        for _ in range(_TRIES):
            pixels, words = drawer(rng, size)
            if words.kind in kinds:
                return pixels
        raise ValueError(f"no {kinds} in {_TRIES} drawings")

    return drawn


# --- subjects that no base knows --------------------------------------------------------------------------------------


def fractal(rng: np.random.Generator, size: int) -> Pixels:
    """A Julia set z <- z^2 + c in a palette of three cosines, c near the edge of the Mandelbrot set."""
    turn, reach = rng.uniform(0, 2 * pi), rng.uniform(0.98, 1.06)
    c = reach * (np.exp(1j * turn) / 2 - np.exp(2j * turn) / 4)
    side, zoom, angle = size * 2, rng.uniform(0.9, 1.5), rng.uniform(0, 2 * pi)
    across = np.linspace(-zoom, zoom, side)
    z = (across[None] + 1j * across[:, None]) * np.exp(1j * angle) + rng.normal(0, 0.15) + 1j * rng.normal(0, 0.15)
    time = np.full((side, side), 60.0)
    for step in range(60):
        inside = np.abs(z) <= 8
        z = np.where(inside, z * z + c, z)
        left = inside & (np.abs(z) > 8)
        time[left] = step + 1 - np.log2(np.log(np.abs(z[left])) / np.log(8))
    level = (time / 60) ** 0.5
    phases, speed = rng.uniform(0, 1, 3), rng.uniform(0.8, 1.6)
    colours = 0.5 - 0.5 * np.cos(2 * pi * (speed * level[:, :, None] + phases))
    colours[time >= 60] = colours[time >= 60] * 0.15
    return _small(Image.fromarray(np.uint8(255 * colours)), size)


def cells(rng: np.random.Generator, size: int) -> Pixels:
    """Stained tissue: pink ground in strands, pale bodies of cells with dark violet nuclei, gaps of white."""
    side = size * _FINE
    pink = np.array([232, 160, 196]) + rng.normal(0, 10, 3)
    ground = pink + 26 * _cloud(rng, side, 6)[:, :, None] * np.array([1.0, 1.6, 1.0])
    gaps = np.clip((_cloud(rng, side, 4) - rng.uniform(0.9, 1.5)) * 4, 0, 1)[:, :, None]
    canvas = Image.fromarray(np.uint8(np.clip(ground + gaps * (246 - ground), 0, 255)))
    pen, violet = ImageDraw.Draw(canvas), np.array([92, 52, 132]) + rng.normal(0, 10, 3)
    crowd, radius = int(rng.integers(12, 40)), rng.uniform(0.025, 0.045)
    for _ in range(crowd):
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 1), radius * rng.uniform(0.7, 1.4)
        pen.polygon(_blob(rng, x, y, r * 2.0, side), fill=_shade(pink + np.array([8, 16, 10]), rng, 6))
        pen.polygon(_blob(rng, x, y, r, side), fill=_shade(violet, rng, 16))
        dot = _blob(rng, x + r * rng.uniform(-0.4, 0.4), y + r * rng.uniform(-0.4, 0.4), r * 0.3, side)
        pen.polygon(dot, fill=_shade(violet - 35, rng, 8))
    return _small(canvas, size)


def tile(rng: np.random.Generator, size: int) -> Pixels:
    """Farmland from above: fields cut along two directions, furrows in some, a road, at times a river or houses."""
    side = size * _FINE
    canvas = Image.new("RGB", (side, side), (96, 120, 70))
    angle = rng.uniform(0, pi / 2)
    for left, top, right, bottom in _fields(rng, (-0.7, -0.7, 0.7, 0.7), 5):
        crop = _FIELDS[int(rng.integers(len(_FIELDS)))]
        _field(rng, canvas, (left, top, right, bottom), angle, _shade(np.array(crop), rng, 10))
    pen = ImageDraw.Draw(canvas)
    if rng.random() < 0.4:
        _river(rng, pen, side)
    across = rng.uniform(-0.3, 0.3)
    pen.line([_turned(-0.9, across, angle, side), _turned(0.9, across, angle, side)], fill=(196, 190, 178), width=7)
    for _ in range(int(rng.integers(0, 9))):
        along, off = rng.uniform(-0.6, 0.6), across + rng.choice([-0.05, 0.05])
        house = [(along + dx, off + dy) for dx, dy in ((-0.02, -0.02), (0.02, -0.02), (0.02, 0.02), (-0.02, 0.02))]
        pen.polygon([_turned(x, y, angle, side) for x, y in house], fill=_shade(np.array([176, 96, 80]), rng, 16))
    shade = 12 * _cloud(rng, side, 8)[:, :, None]
    return _small(Image.fromarray(np.uint8(np.clip(np.asarray(canvas) + shade, 0, 255))), size)


def icon(rng: np.random.Generator, size: int) -> Pixels:
    """A flat sign of an application: a rounded square in a bright ramp of colour on white, a white sign within."""
    side = size * _FINE
    hue = rng.uniform(0, 255)
    top, bottom = (Image.new("HSV", (1, 1), (int(h) % 256, 190, int(v))).convert("RGB").getpixel((0, 0))
                   for h, v in ((hue, 250), (hue + rng.uniform(15, 40), 190)))  # fmt: skip
    ramp = np.linspace(0, 1, side)[:, None, None]
    face = Image.fromarray(np.uint8(np.broadcast_to((1 - ramp) * top + ramp * bottom, (side, side, 3))))
    edge, mask = int(side * rng.uniform(0.04, 0.1)), Image.new("L", (side, side))
    ImageDraw.Draw(mask).rounded_rectangle((edge, edge, side - edge, side - edge), radius=side // 5, fill=255)
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    canvas.paste(face, mask=mask)
    _SIGNS[int(rng.integers(len(_SIGNS)))](ImageDraw.Draw(canvas), side, rng.uniform(0.2, 0.27))
    return _small(canvas, size)


def landscape(rng: np.random.Generator, size: int) -> Pixels:
    """A sky from blue to a warm horizon, a sun at times, ranges of hills one behind the other, grass in front."""
    side = size * 2
    down = np.linspace(0, 1, side)[:, None, None]
    high, low = np.array([90, 140, 215]) + rng.normal(0, 20, 3), np.array([245, 205, 170]) + rng.normal(0, 20, 3)
    canvas = np.broadcast_to(high + (low - high) * np.clip(down * 1.8, 0, 1), (side, side, 3)).copy()
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    if rng.random() < 0.6:
        sun = np.hypot(x - rng.uniform(0.1, 0.9), y - rng.uniform(0.1, 0.35)) - rng.uniform(0.04, 0.08)
        canvas += np.clip(0.5 - sun * 40, 0, 1)[:, :, None] * (np.array([255, 244, 190]) - canvas)
    ranges, horizon = int(rng.integers(3, 6)), rng.uniform(0.35, 0.5)
    for number in range(ranges):
        near = (number + 1) / ranges
        level = horizon + (0.95 - horizon) * number / ranges
        line = level + _ridge(rng, side) * (0.16 - 0.1 * near)
        hill = np.array([110, 130, 165]) * (1 - near) + (np.array([52, 98, 44]) + rng.normal(0, 10, 3)) * near
        canvas[y > line[None]] = hill
    grass = rng.normal(0, 10, (side, side, 1)) * np.clip((y[:, :, None] - 0.6) * 3, 0, 1)
    return _small(Image.fromarray(np.uint8(np.clip(canvas + grass, 0, 255))), size)


def photograph(rng: np.random.Generator, size: int) -> Pixels:
    """A crop of one of two photographs that scikit-learn has: a temple in China, a flower; mirrored half the time."""
    whole = _photographs()[int(rng.integers(2))]
    side = int(rng.uniform(0.28, 0.6) * min(whole.size))
    left, top = (int(rng.integers(0, length - side)) for length in whole.size)
    crop = whole.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BOX)
    pixels = np.asarray(crop)
    return np.ascontiguousarray(pixels[:, ::-1] if rng.random() < 0.5 else pixels)


# --- their parts ------------------------------------------------------------------------------------------------------

_FIELDS = ((104, 142, 62), (70, 112, 52), (186, 172, 96), (148, 118, 84), (128, 160, 88), (204, 190, 132), (60, 90, 58))
Point = tuple[float, float]
Box = tuple[float, float, float, float]


@lru_cache(maxsize=1)
def _photographs() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(one) for one in load_sample_images().images)


def _small(canvas: Image.Image, size: int) -> Pixels:
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


def _shade(colour: NDArray[np.float64] | NDArray[np.int64], rng: np.random.Generator, jitter: float) -> tuple[int, ...]:
    return tuple(int(level) for level in np.clip(colour + rng.normal(0, jitter, 3), 0, 255))


def _cloud(rng: np.random.Generator, side: int, cells_across: int) -> NDArray[np.float64]:
    """Smooth noise of deviation 1, [side, side]."""
    coarse = Image.fromarray(rng.standard_normal((cells_across, cells_across)).astype(np.float32))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    return (smooth - smooth.mean()) / smooth.std()


def _blob(rng: np.random.Generator, x: float, y: float, radius: float, side: int) -> list[Point]:
    """The corners of an uneven ellipse."""
    turn, flat, bump = rng.uniform(0, pi), rng.uniform(0.65, 1), rng.uniform(0, 2 * pi)
    corners = []
    for angle in np.linspace(0, 2 * pi, 20, endpoint=False):
        r = radius * (1 + 0.12 * sin(3 * angle + bump))
        a, b = r * cos(angle), r * flat * sin(angle)
        corners.append(((x + a * cos(turn) - b * sin(turn)) * side, (y + a * sin(turn) + b * cos(turn)) * side))
    return corners


def _fields(rng: np.random.Generator, box: Box, depth: int) -> list[Box]:
    """The box, cut into fields."""
    left, top, right, bottom = box
    if depth == 0 or (depth < 3 and rng.random() < 0.25):
        return [box]
    share = rng.uniform(0.3, 0.7)
    if right - left > bottom - top:
        cut = left + share * (right - left)
        halves: tuple[Box, Box] = ((left, top, cut, bottom), (cut, top, right, bottom))
    else:
        cut = top + share * (bottom - top)
        halves = ((left, top, right, cut), (left, cut, right, bottom))
    return [field for half in halves for field in _fields(rng, half, depth - 1)]


def _turned(x: float, y: float, angle: float, side: int) -> Point:
    return (0.5 + x * cos(angle) - y * sin(angle)) * side, (0.5 + x * sin(angle) + y * cos(angle)) * side


def _field(rng: np.random.Generator, canvas: Image.Image, box: Box, angle: float, crop: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    pen, side = ImageDraw.Draw(canvas), canvas.width
    pen.polygon([_turned(x, y, angle, side) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))],
                fill=crop, outline=(70, 84, 48))  # fmt: skip
    if rng.random() < 0.5:
        furrow = tuple(max(0, level - 22) for level in crop)
        for y in np.arange(top, bottom, 0.035):
            pen.line([_turned(left, y, angle, side), _turned(right, y, angle, side)], fill=furrow, width=3)


def _river(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int) -> None:
    turn, bend, phase = rng.uniform(0, 2 * pi), rng.uniform(0.05, 0.15), rng.uniform(0, 2 * pi)
    path = [_turned(x, bend * sin(4 * x + phase), turn, side) for x in np.linspace(-0.9, 0.9, 40)]
    pen.line(path, fill=(66, 104, 132), width=int(side * rng.uniform(0.03, 0.08)), joint="curve")


def _ridge(rng: np.random.Generator, side: int) -> NDArray[np.float64]:
    """The outline of hills, [side]."""
    x, heights = np.linspace(0, 1, side), rng.normal(0, 1, 8)
    waves = [h / k * np.sin(2 * pi * k * x + rng.uniform(0, 2 * pi)) for k, h in enumerate(heights, start=1)]
    return np.asarray(np.sum(waves, axis=0))


_WHITE = (255, 255, 255)


def _play(pen: ImageDraw.ImageDraw, side: int, reach: float) -> None:
    pen.polygon([((0.5 + x * reach) * side, (0.5 + y * reach) * side) for x, y in ((-0.6, -1), (1, 0), (-0.6, 1))],
                fill=_WHITE)  # fmt: skip


def _envelope(pen: ImageDraw.ImageDraw, side: int, reach: float) -> None:
    left, top, right, bottom = ((0.5 + d * reach) * side for d in (-1.1, -0.8, 1.1, 0.8))
    pen.rectangle((left, top, right, bottom), fill=_WHITE)
    pen.line([(left, top), (side / 2, side * 0.53), (right, top)], fill=(120, 120, 120), width=side // 26)


def _clock(pen: ImageDraw.ImageDraw, side: int, reach: float) -> None:
    low, high = (0.5 - 1.1 * reach) * side, (0.5 + 1.1 * reach) * side
    pen.ellipse((low, low, high, high), fill=_WHITE)
    middle = side / 2
    hands = [(middle, middle - 0.8 * reach * side), (middle, middle), (middle + 0.6 * reach * side, middle)]
    pen.line(hands, fill=(60, 60, 60), width=side // 22)


def _glass(pen: ImageDraw.ImageDraw, side: int, reach: float) -> None:
    low, high = (0.45 - 0.9 * reach) * side, (0.45 + 0.9 * reach) * side
    pen.line([(0.5 * side, 0.5 * side), ((0.5 + 1.2 * reach) * side,) * 2], fill=_WHITE, width=side // 12)
    pen.ellipse((low, low, high, high), outline=_WHITE, width=side // 16)


def _house(pen: ImageDraw.ImageDraw, side: int, reach: float) -> None:
    corners = ((-1.2, 0), (0, -1.2), (1.2, 0), (0.8, 0), (0.8, 1), (0.25, 1), (0.25, 0.3), (-0.25, 0.3), (-0.25, 1),
               (-0.8, 1), (-0.8, 0))  # fmt: skip
    pen.polygon([((0.5 + x * reach) * side, (0.5 + y * reach) * side) for x, y in corners], fill=_WHITE)


def _talk(pen: ImageDraw.ImageDraw, side: int, reach: float) -> None:
    left, top, right, bottom = ((0.5 + d * reach) * side for d in (-1.1, -1, 1.1, 0.6))
    pen.rounded_rectangle((left, top, right, bottom), radius=side // 14, fill=_WHITE)
    pen.polygon([(left + side / 14, bottom - 1), (left + side / 7, bottom - 1), (left + side / 16, bottom + side / 9)],
                fill=_WHITE)  # fmt: skip


_SIGNS = (_play, _envelope, _clock, _glass, _house, _talk)
SUBJECTS: dict[str, Subject] = {
    one.name: one
    for one in (
        Subject("digits", of_kind(handwritten_digit, "digit"), ("digit",)),
        Subject("phantoms", of_kind(phantom, *ORGANS), ORGANS),
        Subject("rings", of_kind(shape, "ring"), ("ring",)),
        Subject("stripes", of_kind(texture, "stripes"), ("stripes",)),
        Subject("fractals", fractal),
        Subject("cells", cells),
        Subject("tiles", tile),
        Subject("icons", icon),
        Subject("landscapes", landscape),
        Subject("photographs", photograph),
    )
}


def main() -> None:
    """Write a sheet with a row of twelve images of each subject."""
    size, shown = 64, 12
    sheet = Image.new("RGB", (shown * size, len(SUBJECTS) * size))
    for row, subject in enumerate(SUBJECTS.values()):
        for column, pixels in enumerate(images(subject, 0, 0, shown, size)):
            sheet.paste(Image.fromarray(pixels), (column * size, row * size))
    sheet.save(sys.argv[1])


if __name__ == "__main__":
    main()
