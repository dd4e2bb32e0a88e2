"""Plain aggregation: vectors are added in the ring, unmasked. The coordinator sees each site's vector.

`plain_input` is the node's half, `open_sum` the coordinator's.
"""

from collections.abc import Mapping

import numpy as np

from undertone.errors import MechanismViolation
from undertone.privacy.quantise import Grid, from_ring, to_ring
from undertone.privacy.stages import ClippedSum, MaskedVector, Sensitivity, Sum

NAME = "plain"


def plain_input(clipped: ClippedSum) -> MaskedVector:
    """A site's clamped sum as ring words [d] uint32, without a mask."""
    return MaskedVector(to_ring(clipped.values), NAME)


def open_sum(vectors: Mapping[str, MaskedVector], grid: Grid, sensitivity: Sensitivity) -> Sum:
    """Add the sites' words mod 2^32 and read the result as signed integers.

    Args:
        vectors: site -> its vector; at least one.
        grid: the plan's; its clamp bounds what the sum can be.
        sensitivity: the plan's; it travels with the sum.

    Raises:
        MechanismViolation: a vector is of another aggregation or length, or the sum is out of range.
    """
    lengths = {vector.words.shape for vector in vectors.values()}
    if len(lengths) != 1 or any(vector.aggregation != NAME for vector in vectors.values()):
        raise MechanismViolation(f"vectors of {len(lengths)} lengths or of mixed aggregations cannot be added")
    total = np.zeros(lengths.pop(), dtype=np.uint32)
    for vector in vectors.values():
        total += vector.words
    values = from_ring(total, len(vectors), grid.site_clamp)
    return Sum(values, sensitivity, tuple(sorted(vectors)))
