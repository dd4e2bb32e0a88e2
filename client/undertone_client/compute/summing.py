"""One attempt's sum of rows too long to be kept: batch after batch of integers (PRIVACY 14, 17).

Whose rows are in a sum cannot be told from it. So units that were withdrawn are marked as summed last, with the whole:
an unfinished sum that marks one has her row, and is not gone on with. And before a sum is written, the tombstones are
looked at once more, in a turn that the command which puts one up waits for before it looks for sums.
"""

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
    """One attempt's sum at one site, of rows at a public state; `store` keeps what was summed so far."""

    workers: Sequence[SumWorker]
    attempt: AttemptKey
    state_sha256: str
    dimension: int
    store: AttemptStore
    log: Callable[[str], None]

    def run(
        self,
        chosen: Sequence[str],
        records_of: Callable[[str], UnitRecords | None],
        progress: Progress,
        gone: frozenset[str],
        gone_now: Callable[[], frozenset[str]],
    ) -> bool:
        """Sum the rows of all chosen units that are not summed yet.

        Args:
            chosen: the sampled units.
            records_of: a unit's records, None where none can be read: its row is zero.
            progress: hears of units that are done.
            gone: the units that were withdrawn when `records_of` was made; it is not asked for them.
            gone_now: those that are withdrawn by now.

        Returns:
            whether it is finished; if not, somebody withdrew meanwhile, and it was dropped.

        Raises:
            ModelError: a device fails on random data too.
        """
        summed, total = self.store.kept_sum(self.attempt, len(chosen), self.dimension)
        place = {unit: number for number, unit in enumerate(chosen)}
        leaving = [place[unit] for unit in chosen if unit in gone]
        if not summed.all() and summed[leaving].any():
            summed, total = np.zeros_like(summed), np.zeros_like(total)
        missing = [unit for unit, done in zip(chosen, summed, strict=True) if not done and unit not in gone]
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
            if monotonic() - written > _SECONDS_BETWEEN_WRITES:
                if not self._keep(summed, total, gone, gone_now):
                    return False
                written = monotonic()
        if not self.store.finish(self.attempt, self.state_sha256, total, gone=lambda: gone_now() != gone):
            self.store.drop_sum(self.attempt)
            return False
        _written()
        return True

    def _keep(
        self,
        summed: np.ndarray[tuple[int], np.dtype[np.bool_]],
        total: Sum,
        gone: frozenset[str],
        gone_now: Callable[[], frozenset[str]],
    ) -> bool:
        """Write the sum; drop it instead, and say so, where somebody has withdrawn since it was begun."""
        with self.store.turn():
            if gone_now() != gone:
                self.store.drop_sum(self.attempt)
                return False
            self.store.keep_sum(self.attempt, summed, total)
        _written()
        return True

    def _sum(
        self, worker: SumWorker, block: Sequence[str], records_of: Callable[[str], UnitRecords | None]
    ) -> Sum | None:
        """The integers of one block of units."""
        records = {unit: found for unit in block if (found := records_of(unit)) is not None}
        names = {id(found): unit for unit, found in records.items()}
        return worker.sum(
            list(records.values()), lambda lost: self.log(f"zero row: {names[id(lost)]} cannot be computed")
        )


def _written() -> None:
    reached("summing/sum durable")
