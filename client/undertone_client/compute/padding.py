"""Padding: every batch of rows has the same shape, whoever is in it (PRIVACY 3, 14).

Kernels choose their order of summation by shape. A batch that is one unit shorter can move the other units' rows
in their last bits, and after quantising by a grid unit: more than the one row that sensitivity counts. With
shapes fixed, a row's bits may still depend on its place in the batch; each worker measures that they do not.
"""

from collections.abc import Sequence

from undertone.methods.protocol import UnitRecords, blank_like


def padded(units: Sequence[UnitRecords], size: int) -> list[UnitRecords]:
    """At least one unit, filled up to `size` with dummies of the same shapes: blank latents, blank caption."""
    return [*units, *(blank_like(units[0]) for _ in range(size - len(units)))]
