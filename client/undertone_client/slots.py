"""Fixed slots: every batch of rows has the same shape, whoever is in it (PRIVACY 3, 14).

Kernels choose their order of summation by shape. A batch that is one unit shorter can move the other units' rows
in their last bits, and after quantising by a grid unit: more than the one row that sensitivity counts. With
shapes fixed, rows are equal to the bit whoever their neighbours are and wherever they stand (measured on CPU;
tests/unit/test_slots.py asserts it).
"""

from collections.abc import Sequence

import numpy as np

from undertone.methods.protocol import UnitRecords
from undertone.privacy.rows import KEY_BYTES, row_generator


def in_slots(units: Sequence[UnitRecords], size: int) -> list[UnitRecords]:
    """At least one unit, filled up to `size` with dummies of the same shapes: blank latents, blank caption."""
    latents, generator_key = np.zeros_like(units[0].latents[:1]), bytes(KEY_BYTES)
    missing = range(size - len(units))
    return [*units, *(UnitRecords(latents, ("",), row_generator(generator_key)) for _ in missing)]
