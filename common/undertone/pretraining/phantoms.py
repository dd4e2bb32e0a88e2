"""Grey phantoms of four body parts, made of soft ellipses and bands, after Shepp and Logan (1974).

Chest and knee resemble a radiograph, head and abdomen a slice. They are drawings, not data.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from undertone.pretraining.palette import Mask, Pixels, pick, with_article

ORGANS = ("chest", "head", "knee", "abdomen")
TONES = ("bright", "", "dark")
RADIOGRAPHS = ("chest", "knee", "abdomen")
_GAMMA = {"bright": (0.45, 0.75), "": (0.85, 1.2), "dark": (1.5, 2.3)}
_ZOOM = {"chest": (0.75, 1.3), "head": (0.85, 1.2), "knee": (0.85, 1.3), "abdomen": (0.85, 1.2)}
_CHEST_SHARE = 0.4
_X_RAY_SHARE = 0.2
_BLUR_SHARE = 0.4


class _Plate:
    """A square of density in 0..1 on which soft forms are painted; coordinates in -1..1, y downwards.

    The body lies on it as bodies do: nearer or farther, off the middle, a little turned and stretched.
    """

    def __init__(self, rng: np.random.Generator, size: int, level: float, zoom: float) -> None:
        grid = (np.arange(size, dtype=np.float32) * 2 + 1) / np.float32(size) - 1
        down, across = np.meshgrid(grid, grid, indexing="ij")
        turn, stretch = rng.normal(0, 0.05), rng.uniform(0.92, 1.08)
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = (cos * across + sin * down) * stretch / zoom, (cos * down - sin * across) / stretch / zoom
        self.x, self.y = (x + rng.normal(0, 0.06)).astype(np.float32), (y + rng.normal(0, 0.06)).astype(np.float32)
        self.density = np.full((size, size), level, dtype=np.float32)

    def ellipse(
        self, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0, soft: float = 0.2
    ) -> Mask:
        """Mask of an ellipse; `soft` is the width of its edge as a share of its radius."""
        dx, dy = self.x - np.float32(centre[0]), self.y - np.float32(centre[1])
        cos, sin = math.cos(turn), math.sin(turn)
        along = (cos * dx + sin * dy) / radii[0]
        across = (cos * dy - sin * dx) / radii[1]
        reach = np.sqrt(along * along + across * across)
        mask: Mask = np.clip((1 - reach) / soft + 0.5, 0, 1).astype(np.float32)
        return mask

    def band(self, centre: Mask | float, half_width: float, soft: float = 0.08) -> Mask:
        """Mask of an upright band around x = centre."""
        mask: Mask = np.clip((half_width - np.abs(self.x - centre)) / soft + 0.5, 0, 1).astype(np.float32)
        return mask

    def paint(self, mask: Mask, level: float, strength: float = 1.0) -> None:
        """Move the density towards `level` where the mask is set."""
        self.density += np.float32(strength) * mask * (np.float32(level) - self.density)

    def add(self, mask: Mask, amount: float) -> None:
        """Add to the density where the mask is set."""
        self.density += np.float32(amount) * mask


def phantom(rng: np.random.Generator, size: int) -> tuple[Pixels, str]:
    """A phantom, R = G = B: pixels uint8 [size, size, 3] and its caption."""
    organ = "chest" if rng.random() < _CHEST_SHARE else pick(rng, ORGANS[1:])
    tone = pick(rng, TONES)
    plate = _Plate(rng, 2 * size, level=rng.uniform(0.0, 0.08), zoom=rng.uniform(*_ZOOM[organ]))
    _DRAWERS[organ](rng, plate)
    pixels = _develop(rng, plate.density, tone)
    if organ in RADIOGRAPHS and rng.random() < _X_RAY_SHARE:
        words = f"{tone} {organ} x-ray".strip()
    else:
        words = f"{tone} phantom of {with_article(organ)}".strip()
    return pixels, with_article(words)


def _develop(rng: np.random.Generator, density: Mask, tone: str) -> Pixels:
    """Average 2 x 2, then what plates differ in: light, tone, contrast, slow unevenness, sharpness, grain."""
    half = density.shape[0] // 2
    small = density.reshape(half, 2, half, 2).mean(axis=(1, 3))
    slope = np.linspace(-1, 1, half, dtype=np.float32)
    across, down = np.float32(rng.normal(0, 0.03)), np.float32(rng.normal(0, 0.03))
    small = small + across * slope[None] + down * slope[:, None] + rng.uniform(0, 0.1) * _unevenness(rng, half)
    curve = np.clip(small, 0, 1) ** np.float32(rng.uniform(*_GAMMA[tone]))
    floor, ceiling = rng.uniform(0, 0.15), rng.uniform(0.75, 1.0)
    grain = rng.normal(0, rng.uniform(0.002, 0.014), size=curve.shape).astype(np.float32)
    levels = np.clip(np.rint(255 * (floor + (ceiling - floor) * curve + grain)), 0, 255).astype(np.uint8)
    plate = Image.fromarray(levels)
    if rng.random() < _BLUR_SHARE:
        plate = plate.filter(ImageFilter.GaussianBlur(rng.uniform(0.01, 0.03) * half))
    return np.repeat(np.asarray(plate)[:, :, None], 3, axis=2)


def _unevenness(rng: np.random.Generator, size: int) -> Mask:
    """A smooth random field of deviation about 1: no two bodies have the same tissue."""
    cells = int(rng.integers(3, 9))
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def _chest(rng: np.random.Generator, plate: _Plate) -> None:
    shift = rng.normal(0, 0.06)
    wide, tall = rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.12)
    low = rng.normal(0.05, 0.08)
    body = rng.uniform(0.5, 0.68)
    plate.paint(plate.band(shift, 0.22 * wide), body, 0.9)  # neck
    plate.paint(plate.ellipse((shift, 0.62), (0.98 * wide, 1.35 * tall), soft=0.12), body)
    belly = plate.ellipse((shift, 1.05 + low), (0.95 * wide, 0.55), soft=0.45)
    plate.add(belly, rng.uniform(0.12, 0.3))
    air = body - rng.uniform(0.25, 0.45)
    for side in (-1, 1):
        middle = (shift + side * rng.uniform(0.4, 0.46) * wide, low + rng.uniform(-0.12, 0.0))
        radii = (rng.uniform(0.19, 0.33) * wide, rng.uniform(0.45, 0.7) * tall)
        lung = plate.ellipse(middle, radii, turn=side * rng.uniform(0.05, 0.2), soft=0.3)
        dome = plate.ellipse((middle[0], low + 0.85 * tall), (0.5 * wide, 0.4), soft=0.25)
        lung = lung * (1 - dome)
        plate.paint(lung, max(0.04, air), rng.uniform(0.8, 1.0))
        ribs = 0.5 + 0.5 * np.sin(rng.uniform(13, 18) * (plate.y + 0.3 * side * (plate.x - shift)))
        plate.add((ribs * lung).astype(np.float32), rng.uniform(0.0, 0.08))
        collar = plate.ellipse((shift + side * 0.38, -0.62 + low), (0.4, 0.045), turn=-side * 0.25, soft=0.8)
        plate.add(collar, rng.uniform(0.03, 0.14))
    heart = plate.ellipse((shift + 0.12, 0.3 + low), (rng.uniform(0.22, 0.34), 0.3), turn=0.5, soft=0.3)
    plate.paint(heart, body + 0.18, 0.85)
    spine = plate.band(shift, rng.uniform(0.1, 0.16), soft=0.15)
    plate.paint(spine, body + 0.15, rng.uniform(0.5, 0.85))


def _head(rng: np.random.Generator, plate: _Plate) -> None:
    centre = (rng.normal(0, 0.05), rng.normal(0, 0.05))
    radii = (rng.uniform(0.6, 0.75), rng.uniform(0.75, 0.9))
    turn = rng.normal(0, 0.08)
    bone = rng.uniform(0.07, 0.12)
    plate.paint(plate.ellipse(centre, radii, turn, soft=0.08), rng.uniform(0.85, 1.0))
    inner = (radii[0] - bone, radii[1] - bone)
    brain = rng.uniform(0.35, 0.55)
    plate.paint(plate.ellipse(centre, inner, turn, soft=0.08), brain)
    fold = 0.5 + 0.5 * np.sin(9 * plate.x + rng.uniform(0, 6)) * np.sin(9 * plate.y + rng.uniform(0, 6))
    core = (0.7 * inner[0], 0.7 * inner[1])
    cortex = plate.ellipse(centre, inner, turn) - plate.ellipse(centre, core, turn)
    plate.add(np.clip(cortex, 0, 1) * fold.astype(np.float32), rng.uniform(0.0, 0.12))
    for side in (-1, 1):
        place = (centre[0] + side * rng.uniform(0.12, 0.18), centre[1] + rng.uniform(-0.1, 0.05))
        ventricle = plate.ellipse(place, (0.09, rng.uniform(0.2, 0.32)), turn=side * 0.35, soft=0.3)
        plate.paint(ventricle, brain - rng.uniform(0.2, 0.3))
    midline = plate.band(centre[0], 0.02, soft=0.05) * plate.ellipse(centre, inner, turn)
    plate.add(midline, rng.uniform(0.0, 0.12))


def _knee(rng: np.random.Generator, plate: _Plate) -> None:
    shift, gap = rng.normal(0, 0.07), rng.normal(0.02, 0.08)
    flesh, bone = rng.uniform(0.2, 0.32), rng.uniform(0.65, 0.85)
    leg = shift + np.float32(rng.normal(0, 0.06)) * plate.y
    plate.paint(plate.band(leg, rng.uniform(0.58, 0.75), soft=0.15), flesh)
    above = (plate.y < gap).astype(np.float32)
    thigh, shin = rng.uniform(0.2, 0.26), rng.uniform(0.18, 0.24)
    plate.paint(plate.band(leg, thigh) * above, bone)
    plate.paint(plate.band(leg, shin) * (1 - above), bone)
    for side in (-1, 1):
        condyle = plate.ellipse((shift + side * 0.21, gap - 0.24), (0.25, 0.21), soft=0.2)
        plate.paint(condyle, bone)
        plateau = plate.ellipse((shift + side * 0.2, gap + 0.22), (0.25, 0.17), soft=0.2)
        plate.paint(plateau, bone)
    plate.paint(plate.ellipse((shift, gap - 0.005), (0.5, 0.045), soft=0.7), flesh, 0.9)  # the joint's gap
    plate.add(plate.ellipse((shift, gap - 0.32), (0.16, 0.19), soft=0.4), rng.uniform(0.03, 0.15))  # patella
    plate.paint(plate.band(leg + 0.42, 0.06) * (plate.y > gap + 0.3).astype(np.float32), bone, 0.8)  # fibula


def _abdomen(rng: np.random.Generator, plate: _Plate) -> None:
    centre = (rng.normal(0, 0.04), rng.normal(0, 0.05))
    radii = (rng.uniform(0.8, 0.95), rng.uniform(0.58, 0.74))
    fat, tissue = rng.uniform(0.22, 0.3), rng.uniform(0.42, 0.55)
    plate.paint(plate.ellipse(centre, radii, soft=0.08), fat)
    plate.paint(plate.ellipse(centre, (radii[0] - 0.1, radii[1] - 0.1), soft=0.1), tissue)
    liver = (rng.uniform(0.3, 0.4), rng.uniform(0.3, 0.38))
    plate.paint(plate.ellipse((centre[0] - 0.36, centre[1] - 0.12), liver, 0.4, 0.15), tissue + 0.2)
    plate.paint(plate.ellipse((centre[0] + 0.5, centre[1]), (0.15, 0.24), -0.3), tissue + 0.14)  # spleen
    back = centre[1] + 0.62 * radii[1]
    plate.paint(plate.ellipse((centre[0], back), (0.16, 0.15), soft=0.2), rng.uniform(0.85, 1.0))  # spine
    for side in (-1, 1):
        kidney = plate.ellipse((centre[0] + side * 0.36, back - 0.1), (0.11, 0.16), side * 0.4, 0.25)
        plate.paint(kidney, tissue + 0.26)
    for _ in range(int(rng.integers(2, 5))):  # bowel with gas
        place = (centre[0] + rng.uniform(-0.1, 0.4), centre[1] - rng.uniform(0.1, 0.4))
        loop = (rng.uniform(0.07, 0.13), rng.uniform(0.06, 0.1))
        plate.paint(plate.ellipse(place, loop, soft=0.4), 0.08, 0.9)


_DRAWERS: dict[str, Callable[[np.random.Generator, _Plate], None]] = {
    "chest": _chest,
    "head": _head,
    "knee": _knee,
    "abdomen": _abdomen,
}
