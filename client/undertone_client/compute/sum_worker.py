"""A worker that sums its units' rows as it makes them, for rows too long to be kept (PRIVACY 14).

Each row is cut to integers and its length checked in integers before it is added (`undertone/gradients/integers.py`).
What is left to floating point is that a unit's integers follow from that unit alone. This is measured here on random
data, on each device and before an image is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.errors import MechanismViolation
from undertone.methods.protocol import Progress, UnitRecords
from undertone.models.base import LoadedBase
from undertone.models.devices import precision
from undertone_client.compute.workers import Worker, fresh, random_unit

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

    def check(self) -> None:
        """On random data: a unit adds the same integers whoever stands beside it and wherever it stands.

        Half of the units move to other places, beside no one; the others stay without them. Only if no integer of any
        of them moves do both sums add up to the sum of all.

        Raises:
            MechanismViolation: an integer moved.
        """
        if self.batch_size == 1:
            return
        kept = self.batch_size // 2
        units: list[UnitRecords | None] = [random_unit(self.base, number) for number in range(self.batch_size)]
        empty: list[UnitRecords | None] = [None] * self.batch_size
        everyone = self._of(units)
        moved = self._of([*empty[kept:], *units[:kept]])
        stayed = self._of([*empty[:kept], *units[kept:]])
        if not np.array_equal(everyone, moved + stayed):
            raise MechanismViolation(
                f"on {self.device} in {self.dtype} a unit's integers change with its place or its neighbours, "
                'so a unit could move more than its own; say device = "cpu" or micro_batch = 1 in node.toml'
            )

    def _of(self, batch: Sequence[UnitRecords | None]) -> Sum:
        with precision(self.device, self.dtype):
            return self.make(self.base, fresh(batch))
