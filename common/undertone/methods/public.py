"""Public units: procedural images prepared like a site's own, for whatever must be set without private data."""

import numpy as np

from undertone.methods.protocol import UnitRecords
from undertone.models.interface import Base
from undertone.public_images.procedural import draw


def public_units(
    base: Base, seed: int, count: int, caption: str, first: int = 0, classes: int = 1
) -> list[UnitRecords]:
    """`count` units of one procedural image each, from number `first` on; the seed is public: all get the same.

    A base that was made of some kinds of drawings alone gets no others (`PinnedBase.drawings`). Where a study has
    classes, drawing i counts as one of class i modulo `classes`.
    """
    numbers = range(first, first + count)
    size, kinds = base.image_size, base.pinned.drawings
    latents = base.encode(np.stack([draw(seed, number, size, kinds).pixels for number in numbers]))
    return [
        UnitRecords(
            latents[place : place + 1],
            (caption,),
            np.random.Generator(np.random.Philox(key=seed + number)),
            classes=np.full(1, number % classes, dtype=np.int64),
        )
        for place, number in enumerate(numbers)
    ]
