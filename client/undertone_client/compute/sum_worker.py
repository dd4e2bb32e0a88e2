"""A worker that sums its units' rows as it makes them, for rows too long to be kept (PRIVACY 14).

Each row is cut to integers and its length checked in integers before it is added (`undertone/gradients/integers.py`).
What is left to floating point is that a unit's integers follow from that unit alone. This is measured here on random
data, on each device and before an image is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.methods.protocol import Progress, UnitRecords
from undertone.models.base import LoadedBase
from undertone.models.devices import precision
from undertone_client.compute.workers import Worker, fresh

Sum = NDArray[np.int64]
SumMaker = Callable[[LoadedBase, Sequence[UnitRecords | None]], Sum]
"""Units, and None for padding -> the sum of their clipped integer rows [d], at a fixed w and grid."""


@dataclass
class SumWorker(Worker[Sum]):
    """`make` is the method's clipped sum at the public state w."""

    _: KW_ONLY
    make: SumMaker

    def compute(self, units: Sequence[UnitRecords], progress: Progress) -> Sum:
        """The sum [d] over `units`; padding keeps the shape."""
        found = self.make(self.base, [*units, *[None] * (self.batch_size - len(units))])
        progress(len(units))
        return found

    def sum(self, units: Sequence[UnitRecords], lost: Callable[[UnitRecords], None]) -> Sum | None:
        """The sum [d] over all units; `lost` hears of each that failed by itself. None where there is nothing to add.

        Raises:
            ModelError: random data fail too.
        """
        total: Sum | None = None
        for part, found in self.each(units):
            if found is None:
                lost(part[0])
            else:
                total = found if total is None else total + found
        return total

    def keeps_apart(self) -> bool:
        """Each unit one place further, without the last one; and half of them in other places, beside no one.

        Only if no integer of any of them moves are the sums over the same units equal.
        """
        size, kept = self.batch_size, self.batch_size // 2
        units: list[UnitRecords | None] = [*self._random_units(size)]
        empty: list[UnitRecords | None] = [None] * size
        everyone, last = self._of(units), self._of([units[-1], *empty[1:]])
        further = self._of([None, *units[:-1]])
        halves = self._of([*empty[kept:], *units[:kept]]), self._of([*empty[:kept], *units[kept:]])
        alike = np.array_equal(everyone, further + last) and np.array_equal(everyone, halves[0] + halves[1])
        return alike and bool(last.any())

    def _of(self, batch: Sequence[UnitRecords | None]) -> Sum:
        with precision(self.device, self.dtype):
            return self.make(self.base, fresh(batch))
