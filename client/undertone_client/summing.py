"""Float sums in fixed slots: one micro-batch after another, each rounded once (PRIVACY 14).

For methods whose rows are too long to be kept one by one. Every slot is computed, empty or not, in batches of one
shape, so neither a sum nor the time it takes depends on how many units the coins chose. That a unit moves nothing but
its own slot rests on the device's kernels: it is measured on random data, on each device and before an image is read.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from undertone.errors import MechanismViolation, ModelError
from undertone.failpoints import reached
from undertone.methods.protocol import Progress, UnitRecords
from undertone.models.base import LoadedBase
from undertone.models.devices import Dtype, free_memory, out_of_memory, precision
from undertone.privacy.quantise import Grid
from undertone.privacy.slots import ETA, round_sum
from undertone_client.lanes import Lane, RowMaker, random_unit
from undertone_client.state import Attempt, NodeState

Sum = NDArray[np.float64]
Slots = Sequence[UnitRecords | None]
ClippedSums = Callable[[LoadedBase, Slots], tuple[Sum, NDArray[np.float64]]]
"""Slots -> the sum [d] of clipped gradients, and the norms before clipping [slots]; at a fixed w and C (1 - eta)."""

# A sum is as long as a row, so it is not written after each micro-batch: a death costs half a minute's work.
_SECONDS_BETWEEN_WRITES = 30.0
# Of eta, which the sensitivity counts, a tenth is the most that a device may show (PRIVACY 14).
_LARGEST_DEVIATION = float(ETA) / 10


def summing_lane(
    device: str, dtype: Dtype, base: LoadedBase, sums: ClippedSums, clip_norm: float, note: Callable[[str], None]
) -> Lane:
    """A lane whose slots are settled by dry runs of `sums` and checked for it; `clip_norm` is C (1 - eta)."""
    check = partial(check_sums, sums=sums, clip_norm=clip_norm)
    return Lane(device, dtype, base, as_rows(sums), note, check=check)


def as_rows(sums: ClippedSums) -> RowMaker:
    """The same work as a lane's dry runs know it: a sum looks like a single row to them."""

    def compute(base: LoadedBase, slots: Sequence[UnitRecords], _progress: Progress) -> NDArray[np.float32]:
        return sums(base, slots)[0][None].astype(np.float32)

    return compute


def check_sums(lane: Lane, *, sums: ClippedSums, clip_norm: float) -> None:
    """On random data: no clipped gradient exceeds C, and a unit that leaves takes its own along and nothing else.

    Raises:
        MechanismViolation: the device's floating point is worse than the sensitivity counts.
    """
    units = [random_unit(lane.base, number) for number in range(lane.slots)]
    with precision(lane.device, lane.dtype):
        everyone, norms = sums(lane.base, _fresh(units))
        without, other_norms = sums(lane.base, _fresh([None, *units[1:]]))
        alone, _ = sums(lane.base, _fresh(_only(units, 0)))
    deviation = float(np.linalg.norm(everyone - without - alone)) / clip_norm
    same = np.array_equal(norms[1:], other_norms[1:], equal_nan=True)
    excess = float(np.linalg.norm(alone)) / clip_norm - 1
    if excess > _LARGEST_DEVIATION:
        raise MechanismViolation(
            f"on {lane.device} in {lane.dtype} a clipped gradient is {excess:.1e} of C too long; "
            f'{_LARGEST_DEVIATION:.0e} is allowed: say device = "cpu" or dtype = "float32" in node.toml'
        )
    if not (same and deviation < _LARGEST_DEVIATION):
        raise MechanismViolation(
            f"on {lane.device} in {lane.dtype} a unit moves the sum by {deviation:.1e} of C beyond its own gradient"
            f"{'' if same else ', and the norms of others'}; {_LARGEST_DEVIATION:.0e} is allowed: say "
            'device = "cpu" or dtype = "float32" in node.toml'
        )


@dataclass(frozen=True)
class SlotSums:
    """One attempt's sum at one site.

    `sums` is the method's at the public state w; `memory` keeps what was summed so far.
    """

    lanes: Sequence[Lane]
    sums: ClippedSums
    grid: Grid
    attempt: Attempt
    dimension: int
    memory: NodeState
    note: Callable[[str], None]

    def run(
        self, placed: Sequence[str | None], records_of: Callable[[str], UnitRecords | None], progress: Progress
    ) -> None:
        """Sum all slots that are not summed yet.

        Args:
            placed: who stands in each slot, L of them.
            records_of: a unit's records, None where none can be read: the slot is then an empty one.
            progress: hears of slots that are done.

        Raises:
            ModelError: memory ran out, which depends on shapes alone.
        """
        done, total = self.memory.kept_sum(self.attempt, self.dimension)
        progress(done)
        written = monotonic()
        for group in self._groups(placed, done):
            parts = [(lane, [None if unit is None else records_of(unit) for unit in part]) for lane, part in group]
            for rounded, (_, part) in zip(self._side_by_side(parts), group, strict=True):
                total += rounded
                done += len(part)
                progress(len(part))
            reached("summing/micro-batches summed")
            if done == len(placed) or monotonic() - written > _SECONDS_BETWEEN_WRITES:
                self.memory.keep_sum(self.attempt, done, total)
                written = monotonic()
                reached("summing/sum durable")

    def _groups(self, placed: Sequence[str | None], done: int) -> Iterator[list[tuple[Lane, Sequence[str | None]]]]:
        """One micro-batch for each lane at a time, in the order of the slots."""
        while done < len(placed):
            group: list[tuple[Lane, Sequence[str | None]]] = []
            for lane in self.lanes:
                part = placed[done : done + lane.slots]
                if part:
                    group.append((lane, part))
                    done += len(part)
            yield group

    def _side_by_side(self, parts: Sequence[tuple[Lane, Slots]]) -> Iterator[NDArray[np.int64]]:
        if len(parts) == 1:
            yield self._rounded(*parts[0])
            return
        with ThreadPoolExecutor(len(parts)) as pool:
            yield from pool.map(self._rounded, *zip(*parts, strict=True))

    def _rounded(self, lane: Lane, slots: Slots) -> NDArray[np.int64]:
        """One micro-batch, filled up to the lane's shape, as integers."""
        filled = [*slots, *[None] * (lane.slots - len(slots))]
        total = self._sum(lane, filled)
        if not bool(np.isfinite(total).all()):
            # A gradient of finite norm whose sum is none: each alone in its slot, the others' as before to eta / 10.
            alone = [self._sum(lane, _only(filled, place)) for place, unit in enumerate(filled) if unit is not None]
            total = sum((part for part in alone if np.isfinite(part).all()), start=np.zeros(self.dimension))
        return round_sum(total, self.grid)

    def _sum(self, lane: Lane, slots: Slots) -> Sum:
        try:
            with precision(lane.device, lane.dtype):
                total, norms = self.sums(lane.base, _fresh(slots))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        else:
            lost = sum(unit is not None and not np.isfinite(norm) for unit, norm in zip(slots, norms, strict=True))
            if lost:
                self.note(f"zero row: {lost} units of a micro-batch have no finite gradient")
            return total
        free_memory(lane.device)
        raise ModelError(
            f"memory of {lane.device} ran out with {lane.slots} units at a time; say a smaller micro_batch in node.toml"
        )


def _fresh(slots: Slots) -> Slots:
    """The same units, each at the start of its randomness."""
    return [unit and replace(unit, generator=deepcopy(unit.generator)) for unit in slots]


def _only(slots: Slots, place: int) -> Slots:
    return [unit if number == place else None for number, unit in enumerate(slots)]
