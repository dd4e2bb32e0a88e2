"""A worker that computes each unit's row, for rows that are kept one by one (PRIVACY 3)."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.methods.protocol import Progress, UnitRecords
from undertone.models.base import LoadedBase
from undertone_client.compute.padding import padded
from undertone_client.compute.workers import Worker, ignore

Row = NDArray[np.float32]
RowMaker = Callable[[LoadedBase, Sequence[UnitRecords], Progress], NDArray[np.float32]]


@dataclass
class RowWorker(Worker[NDArray[np.float32]]):
    """`make` is the method's `rows` at the public state w."""

    _: KW_ONLY
    make: RowMaker

    def compute(self, units: Sequence[UnitRecords], progress: Progress) -> NDArray[np.float32]:
        """Rows of the padded batch, [batch_size, d]; those of the padding come last."""
        return self.make(self.base, padded(units, self.batch_size), progress)

    def rows(self, units: Sequence[UnitRecords]) -> list[Row | None]:
        """Each unit's row [d], or None where it alone fails.

        Raises:
            ModelError: random data fail too.
        """
        rows: list[Row | None] = []
        for part, found in self.each(units):
            rows += [None] if found is None else list(found[: len(part)])
        return rows

    def keeps_apart(self) -> bool:
        """Each unit one place further, behind a stranger: equal for all means that all places are alike."""
        units = self._random_units(self.batch_size + 1)
        first, second = self._within(units[1:], ignore), self._within(units[:-1], ignore)
        return bool(first[:-1].any(axis=1).all()) and np.array_equal(first[:-1], second[1:], equal_nan=True)
