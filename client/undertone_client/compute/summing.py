"""One attempt's sum of rows too long to be kept: batch after batch of integers (PRIVACY 14)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from undertone.core.failpoints import reached
from undertone.methods.protocol import Progress, UnitRecords
from undertone_client.compute.sum_worker import Sum, SumWorker
from undertone_client.compute.workers import side_by_side, turns
from undertone_client.site.attempt_store import AttemptKey, AttemptStore

# A sum is as long as a row, so it is not written after each batch: a death costs half a minute's work.
_SECONDS_BETWEEN_WRITES = 30.0


@dataclass(frozen=True)
class AttemptSum:
    """One attempt's sum at one site; `store` keeps what was summed so far."""

    workers: Sequence[SumWorker]
    attempt: AttemptKey
    dimension: int
    store: AttemptStore
    log: Callable[[str], None]

    def run(self, chosen: Sequence[str], records_of: Callable[[str], UnitRecords | None], progress: Progress) -> None:
        """Sum the rows of all chosen units that are not summed yet.

        Args:
            chosen: the sampled units.
            records_of: a unit's records, None where none can be read: its row is zero.
            progress: hears of units that are done.

        Raises:
            ModelError: a device fails on random data too.
        """
        summed, total = self.store.kept_sum(self.attempt, len(chosen), self.dimension)
        place = {unit: number for number, unit in enumerate(chosen)}
        missing = [unit for unit, done in zip(chosen, summed, strict=True) if not done]
        progress(len(chosen) - len(missing))
        written = monotonic()

        def work(worker: SumWorker, block: Sequence[str]) -> Sum | None:
            return self._sum(worker, block, records_of)

        for turn in turns(self.workers, missing):
            for found in side_by_side(self.workers, turn, work):
                if found is not None:
                    total += found
            for unit in (unit for block in turn for unit in block):
                summed[place[unit]] = True
                progress(1)
            reached("summing/batch summed")
            if bool(summed.all()) or monotonic() - written > _SECONDS_BETWEEN_WRITES:
                self._keep(summed, total)
                written = monotonic()
        if not missing:
            self._keep(summed, total)  # no unit was sampled, or all were summed before

    def _keep(self, summed: np.ndarray[tuple[int], np.dtype[np.bool_]], total: Sum) -> None:
        self.store.keep_sum(self.attempt, summed, total)
        reached("summing/sum durable")

    def _sum(
        self, worker: SumWorker, block: Sequence[str], records_of: Callable[[str], UnitRecords | None]
    ) -> Sum | None:
        """The integers of one block of units."""
        records = {unit: found for unit in block if (found := records_of(unit)) is not None}
        names = {id(found): unit for unit, found in records.items()}
        return worker.sum(
            list(records.values()), lambda lost: self.log(f"zero row: {names[id(lost)]} cannot be computed")
        )
