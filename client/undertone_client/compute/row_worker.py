"""A worker that computes each unit's row, for rows that are kept one by one (PRIVACY 3)."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.errors import MechanismViolation
from undertone.methods.protocol import Progress, UnitRecords
from undertone.models.base import LoadedBase
from undertone.models.devices import CPU
from undertone_client.compute.padding import padded
from undertone_client.compute.workers import Worker, ignore, random_unit

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

    def check(self) -> None:
        """On random data: neither a unit's neighbours nor its place in the batch may move its row in the last bit.

        A unit that comes or goes pushes those behind it to other places. For CPUs the tests show it (test_padding.py);
        any other device shows it here before it sees a record.

        Raises:
            MechanismViolation: a row moved.
        """
        if self.device == CPU or self.batch_size == 1:
            return
        kept = self.batch_size // 2  # of the first run's units; each moves to another place, beside strangers
        others = [*range(kept), *range(-1, kept - self.batch_size - 1, -1)]
        first = self._within([random_unit(self.base, n) for n in range(self.batch_size)], ignore)
        second = self._within([random_unit(self.base, n) for n in others[-1:] + others[:-1]], ignore)
        if not np.array_equal(first[:kept], second[1 : kept + 1], equal_nan=True):
            raise MechanismViolation(
                f"on {self.device} in {self.dtype} a row changes with its place in the batch, so one unit could "
                'move more than its own row; say device = "cpu" or micro_batch = 1 in node.toml'
            )
