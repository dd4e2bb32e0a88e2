"""Grey phantoms of four body parts, made of soft ellipses and bands, after Shepp and Logan (1974).

Chest and knee resemble a radiograph, head and abdomen a slice. They are drawings, not data.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from undertone.public_images.chest import draw_chest
from undertone.public_images.palette import Mask, Pixels, pick
from undertone.public_images.plate import Plate
from undertone.public_images.wording import Subject, with_article

ORGANS = ("chest", "head", "knee", "abdomen")
TONES = ("bright", "", "dark")
RADIOGRAPHS = ("chest", "knee", "abdomen")
_GAMMA = {"bright": (0.45, 0.75), "": (0.85, 1.2), "dark": (1.5, 2.3)}
_ZOOM = {"chest": (0.95, 1.4), "head": (0.85, 1.2), "knee": (0.85, 1.3), "abdomen": (0.85, 1.2)}
_CHEST_SHARE = 0.5
_X_RAY_SHARE = 0.4
_WINDOW_SHARE = 0.6
_FINE = 64
_BLUR_SHARE = 0.4


def phantom(rng: np.random.Generator, size: int) -> tuple[Pixels, Subject]:
    """A phantom, R = G = B: pixels uint8 [size, size, 3] and its words."""
    organ = "chest" if rng.random() < _CHEST_SHARE else pick(rng, ORGANS[1:])
    tone = pick(rng, TONES)
    fine = 1 if size >= _FINE else 2  # small plates are drawn at twice the size
    plate = Plate(rng, fine * size, level=rng.uniform(0.0, 0.08), zoom=rng.uniform(*_ZOOM[organ]))
    _DRAWERS[organ](rng, plate)
    pixels = _develop(rng, plate.density, size, tone)
    noun = f"phantom of {with_article(organ)}"
    if organ in RADIOGRAPHS and rng.random() < _X_RAY_SHARE:
        noun = f"{organ} x-ray"
    return pixels, Subject(organ, noun, (tone,) if tone else ())


def _develop(rng: np.random.Generator, density: Mask, size: int, tone: str) -> Pixels:
    """Average down to size x size; then what plates differ in: light, tone, contrast, unevenness, sharpness, grain."""
    fine = density.shape[0] // size
    small = density.reshape(size, fine, size, fine).mean(axis=(1, 3))
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    across, down = np.float32(rng.normal(0, 0.03)), np.float32(rng.normal(0, 0.03))
    small = small + across * slope[None] + down * slope[:, None] + rng.uniform(0, 0.07) * _unevenness(rng, size)
    if rng.random() < _WINDOW_SHARE:
        small = _window(rng, small)
    curve = np.clip(small, 0, 1) ** np.float32(rng.uniform(*_GAMMA[tone]))
    floor, ceiling = rng.uniform(0, 0.12), rng.uniform(0.8, 1.0)
    grain = rng.normal(0, rng.uniform(0.002, 0.014), size=curve.shape).astype(np.float32)
    levels = np.clip(np.rint(255 * (floor + (ceiling - floor) * curve + grain)), 0, 255).astype(np.uint8)
    plate = Image.fromarray(levels)
    if rng.random() < _BLUR_SHARE:
        plate = plate.filter(ImageFilter.GaussianBlur(rng.uniform(0.01, 0.03) * size))
    return np.repeat(np.asarray(plate)[:, :, None], 3, axis=2)


def _window(rng: np.random.Generator, density: Mask) -> Mask:
    """Stretched over the whole range, as a viewing station shows a plate; a little is cut off at either end."""
    low, high = np.quantile(density, (rng.uniform(0, 0.08), rng.uniform(0.9, 1)))
    stretched: Mask = ((density - low) / max(high - low, 0.2)).astype(np.float32)
    return stretched


def _unevenness(rng: np.random.Generator, size: int) -> Mask:
    """A smooth random field of deviation about 1: no two bodies have the same tissue."""
    cells = int(rng.integers(3, 9))
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def _head(rng: np.random.Generator, plate: Plate) -> None:
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


def _knee(rng: np.random.Generator, plate: Plate) -> None:
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


def _abdomen(rng: np.random.Generator, plate: Plate) -> None:
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


_DRAWERS: dict[str, Callable[[np.random.Generator, Plate], None]] = {
    "chest": draw_chest,
    "head": _head,
    "knee": _knee,
    "abdomen": _abdomen,
}
