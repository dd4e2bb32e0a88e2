"""Public units: procedural images prepared like a site's own, for whatever must be set without private data."""

import numpy as np

from undertone.methods.protocol import UnitRecords
from undertone.models.interface import Base
from undertone.public_images.procedural import draw


def public_units(base: Base, seed: int, count: int, caption: str) -> list[UnitRecords]:
    """`count` units of one procedural image each; the seed is public, so every party gets the same."""
    images = np.stack([draw(seed, index, base.image_size).pixels for index in range(count)])
    latents = base.encode(images)
    return [
        UnitRecords(latents[index : index + 1], (caption,), np.random.Generator(np.random.Philox(key=seed + index)))
        for index in range(count)
    ]
