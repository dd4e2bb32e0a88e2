"""A drawn chest radiograph: bright body that fills the plate, dark lungs between ribs, heart, domes, collar bones."""

import numpy as np

from undertone.public_images.palette import Mask
from undertone.public_images.plate import Plate

_COLUMNS = (0.1, 0.17)  # half width of the bright column of spine and vessels


def draw_chest(rng: np.random.Generator, plate: Plate) -> None:
    """Paint the chest onto a plate of film density; coordinates in -1..1, y downwards."""
    shift, low = rng.normal(0, 0.05), rng.normal(0.0, 0.07)
    wide, tall = rng.uniform(0.92, 1.15), rng.uniform(0.9, 1.15)
    body = rng.uniform(0.48, 0.68)
    torso = _torso(rng, plate, shift, wide, body)
    belly = np.clip((plate.y - (0.25 + low)) / 0.9, 0, 1)
    plate.add(belly * torso, rng.uniform(0.05, 0.3))
    contrast = rng.uniform(0.18, 0.5)
    for side in (-1, 1):
        lung = _lung(rng, plate, side, shift, low, wide, tall)
        haze = 1 + rng.uniform(-0.5, 0.2) * np.clip((plate.y - low) / 0.6, 0, 1)  # below, breasts and fluid veil it
        plate.paint((lung * haze).astype(np.float32), max(0.03, body - contrast), rng.uniform(0.8, 1.0))
        _vessels(rng, plate, side, shift, low, lung)
        _ribs(rng, plate, side, shift, low, wide, np.maximum(lung, 0.4 * torso))
        turn = -side * rng.uniform(0.1, 0.35)
        collar = plate.ellipse((shift + side * 0.36 * wide, -0.62 + low), (0.36, 0.04), turn=turn, soft=0.8)
        plate.add(collar * torso, rng.uniform(0.03, 0.16))
    _middle(rng, plate, shift, low, wide, body)
    if rng.random() < 0.3:  # a letter of lead in a corner
        corner = plate.ellipse((rng.choice((-0.8, 0.8)), rng.uniform(-0.9, -0.6)), (0.05, 0.07), soft=0.3)
        plate.paint(corner, 1.0)


def _torso(rng: np.random.Generator, plate: Plate, shift: float, wide: float, body: float) -> Mask:
    """Neck, sloping shoulders and trunk, sometimes with a gap of air between trunk and arms."""
    neck = plate.band(shift, rng.uniform(0.2, 0.3) * wide, soft=0.12)
    slope = rng.uniform(0.25, 0.5)
    reach = np.maximum(np.abs(plate.x - shift) - 0.22 * wide, 0)
    shoulders = np.clip((plate.y - (rng.uniform(-0.92, -0.72) + slope * reach**1.3)) / 0.12 + 0.5, 0, 1)
    side = np.clip((rng.uniform(0.82, 1.25) * wide - np.abs(plate.x - shift)) / 0.12 + 0.5, 0, 1)
    torso: Mask = np.maximum(neck * (plate.y < 0), shoulders * side).astype(np.float32)
    if rng.random() < 0.4:
        arm = np.clip((np.abs(plate.x - shift) - rng.uniform(0.98, 1.1) * wide) / 0.1 + 0.5, 0, 1) * (plate.y > -0.2)
        torso = np.maximum(torso, 0.9 * arm).astype(np.float32)
    plate.paint(torso, body)
    return torso


def _lung(
    rng: np.random.Generator, plate: Plate, side: int, shift: float, low: float, wide: float, tall: float
) -> Mask:
    """One lung: pointed at the top, cut by the dome of the diaphragm below and by the heart on the inside."""
    middle = (shift + side * rng.uniform(0.4, 0.48) * wide, low + rng.uniform(-0.06, 0.06))
    radii = (rng.uniform(0.27, 0.37) * wide, rng.uniform(0.6, 0.78) * tall)
    lean = side * rng.uniform(0.06, 0.2)
    lung = plate.ellipse(middle, radii, turn=lean, soft=rng.uniform(0.12, 0.35))
    top = low + rng.uniform(0.62, 0.95) * tall
    dome = plate.ellipse((middle[0] - side * 0.05, top), (rng.uniform(0.42, 0.6) * wide, 0.4), soft=0.15)
    lung *= 1 - dome
    inner = np.clip((side * (plate.x - shift) - 0.14) / 0.12 + 0.5, 0, 1)
    cut: Mask = (lung * inner).astype(np.float32)
    return cut


def _vessels(rng: np.random.Generator, plate: Plate, side: int, shift: float, low: float, lung: Mask) -> None:
    """The root of the lung and the vessels that leave it."""
    root = plate.ellipse((shift + side * 0.22, low - 0.05), (0.16, 0.26), turn=side * 0.3, soft=1.2)
    plate.add(root, rng.uniform(0.05, 0.2))
    for _ in range(int(rng.integers(0, 5))):
        spot = (shift + side * rng.uniform(0.25, 0.6), low + rng.uniform(-0.4, 0.5))
        streak = plate.ellipse(spot, (rng.uniform(0.1, 0.25), rng.uniform(0.03, 0.1)), rng.uniform(0, 3.2), soft=1.2)
        plate.add(streak * lung, rng.uniform(0.0, 0.16))


def _ribs(
    rng: np.random.Generator, plate: Plate, side: int, shift: float, low: float, wide: float, where: Mask
) -> None:
    """Bands that fall and bend outwards."""
    out = side * (plate.x - shift) / wide
    bend = rng.uniform(0.35, 0.6) * (out - 0.35) ** 2 / 0.2 + rng.uniform(-0.1, 0.25) * out
    phase = (plate.y - low - bend) * rng.uniform(3.6, 4.8) + rng.uniform(0, 1)
    ridge = np.clip(np.cos(2 * np.pi * phase) - rng.uniform(0.0, 0.4), 0, 1)
    plate.add((ridge * where * (plate.y < 0.7 + low)).astype(np.float32), rng.uniform(0.0, 0.16))


def _middle(rng: np.random.Generator, plate: Plate, shift: float, low: float, wide: float, body: float) -> None:
    """Column of the spine, heart leaning to the patient's left, arch of the aorta, windpipe."""
    level = min(0.97, body + rng.uniform(0.1, 0.28))
    plate.paint(plate.band(shift, rng.uniform(*_COLUMNS), soft=0.15), level, rng.uniform(0.5, 0.9))
    size = rng.uniform(0.2, 0.36)
    heart = plate.ellipse((shift + 0.13 * wide, 0.24 + low), (size * wide, 0.32), turn=0.5, soft=0.25)
    plate.paint(heart, level, rng.uniform(0.75, 1.0))
    right = plate.ellipse((shift - 0.1 * wide, 0.25 + low), (0.14 * wide, 0.26), soft=0.3)
    plate.paint(right, level, rng.uniform(0.4, 0.9))
    plate.paint(plate.ellipse((shift + 0.13, -0.26 + low), (0.09, 0.11), soft=0.4), level, 0.8)
    windpipe = plate.band(shift, 0.035, soft=0.05) * (plate.y < -0.35 + low)
    plate.add(windpipe.astype(np.float32), -rng.uniform(0.0, 0.15))
