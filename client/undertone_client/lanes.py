"""Lanes: a device, its copy of the base model, and the fixed slots in which it computes rows (PRIVACY 3, 14, 17).

What a batch's shape may depend on: the plan, the device, and a dry run on random data. What it may not depend on:
any record. So the slots are settled before an image is read, a unit's lane follows from its own name, and where
memory ends in the middle of real work the question "is it the shape or is it a unit?" is put to random data again:

    random data no longer fits   memory is short for whoever is in the batch: fewer slots from here on
    random data still fits       one of these units is too large: each is computed alone in the *same* slots, so
                                 the rows of the others are to the bit what they would have been beside anyone,
                                 and the one that fails is a zero row
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import zip_longest
from typing import Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from undertone.canonical import sha256_hex
from undertone.errors import MechanismViolation, ModelError
from undertone.methods.protocol import Progress, UnitRecords
from undertone.models.base import LoadedBase
from undertone.models.devices import CPU, Dtype, free_memory, out_of_memory, precision
from undertone.privacy.rows import row_generator
from undertone_client.memory import Meter, available
from undertone_client.slots import in_slots

Row = NDArray[np.float32]
RowMaker = Callable[[LoadedBase, Sequence[UnitRecords], Progress], NDArray[np.float32]]
MicroBatch = int | Literal["auto"]
T = TypeVar("T")

# More gains nothing: a processor is busy with fewer, a graphics card with these.
_MOST_ON_CPU, _MOST_ELSEWHERE = 32, 128

# What was settled for a base in this process; goes with the base.
_settled: WeakKeyDictionary[LoadedBase, dict[tuple[str, Dtype, MicroBatch, int], int]] = WeakKeyDictionary()


class _OneStepDone(Exception):
    """Ends a dry run: every step needs the memory that the first one needed."""


def _ignore(_steps: int) -> None:
    """Nobody watches."""


def _stop(_steps: int) -> None:
    raise _OneStepDone


@dataclass
class Lane:
    """One device at work for one plan.

    `compute` is the method's `rows` at the public state w; `slots` is how many units it gets at a time; `lighter` are
    the same computation with less to it, and what the study would have to say for it: advice where not even one fits.
    `check` stands in for the check of the slots where something else than rows is computed.
    """

    device: str
    dtype: Dtype
    base: LoadedBase
    compute: RowMaker
    note: Callable[[str], None]
    slots: int = 1
    lighter: Sequence[tuple[str, RowMaker]] = ()
    check: Callable[["Lane"], None] | None = None

    def settle(self, study: str, micro_batch: MicroBatch, expected_units: int) -> None:
        """Set `slots`, and check them on this device: once per study and process.

        Args:
            study: the plan's digest.
            micro_batch: a number, or "auto" for dry runs on random data, doubled from 1 as long as they fit.
            expected_units: how many units the *public* figures let expect; further slots would stay empty.

        Raises:
            ModelError: not even one unit fits.
            MechanismViolation: see `_check_slots`.
        """
        settled = _settled.setdefault(self.base, {})
        key = (study, self.dtype, micro_batch, _power_of_two(expected_units))
        if key not in settled:
            if micro_batch == "auto":
                self._grow(min(_MOST_ON_CPU if self.device == CPU else _MOST_ELSEWHERE, key[-1]))
                self.note(f"{self.device}: {self.slots} units at a time, by a dry run on random data")
            else:
                self.slots = micro_batch
            (self.check or Lane._check_slots)(self)
            settled[key] = self.slots
        self.slots = settled[key]

    def rows(self, units: Sequence[UnitRecords]) -> list[Row | None]:
        """Each unit's row [d], or None where it alone does not fit into memory.

        Raises:
            ModelError: random data do not fit either, not even in one slot.
        """
        return [row for part in blocks(units, self.slots) for row in self._rows(part)]

    def _rows(self, units: Sequence[UnitRecords]) -> list[Row | None]:
        found = self._batch(units)
        if found is not None:
            return list(found[: len(units)])
        before = self.slots
        self._shrink(before)
        if self.slots < before:
            return self.rows(units)
        alone = [self._batch([unit]) for unit in units]
        return [None if row is None else row[0] for row in alone]

    def _grow(self, most: int) -> None:
        meter, fitting = Meter(), self._shrink(1)
        while fitting < most and self._has_room(meter) and self._fits(2 * fitting):
            fitting *= 2
        self.slots = fitting

    def _shrink(self, slots: int) -> int:
        """Halve `slots` until random data fit."""
        while not self._fits(slots):
            if slots == 1:
                raise ModelError(self._too_large())
            slots //= 2
            self.note(f"{self.device}: memory is short, {slots} units at a time from here on")
        return slots

    def _too_large(self) -> str:
        """What to say where one unit does not fit: which lighter study would."""
        text = f"one unit at a time does not fit into the memory of {self.device}; choose another"
        for advice, compute in self.lighter:
            if replace(self, compute=compute, lighter=())._fits(1):
                return f"{text}, or plan with {advice}, which fits"
        return f"{text}, or plan with less of one unit at a time" if self.lighter else text

    def _check_slots(self) -> None:
        """On random data: neither the units in the other slots nor a unit's own slot may move a row in its last bit.

        A unit that comes or goes pushes those behind it to other slots. For CPUs the tests show it (test_slots.py); any
        other device shows it here before it sees a record.

        Raises:
            MechanismViolation: a row moved.
        """
        if self.device == CPU or self.slots == 1:
            return
        kept = self.slots // 2  # of the first run's units; each moves to another slot, beside strangers
        others = [*range(kept), *range(-1, kept - self.slots - 1, -1)]
        first = self._compute([random_unit(self.base, n) for n in range(self.slots)], _ignore)
        second = self._compute([random_unit(self.base, n) for n in others[-1:] + others[:-1]], _ignore)
        if not np.array_equal(first[:kept], second[1 : kept + 1], equal_nan=True):
            raise MechanismViolation(
                f"on {self.device} in {self.dtype} a row changes with its place in the batch, so one unit could "
                'move more than its own row; say device = "cpu" or micro_batch = 1 in node.toml'
            )

    def _fits(self, slots: int) -> bool:
        """A dry run: one step on random data; every further step needs the memory that the first one needed."""
        self.slots = slots
        try:
            found = self._batch([random_unit(self.base, 0)], _stop)
        except _OneStepDone:
            return True
        return found is not None  # a method that reports no steps has done its whole work

    def _has_room(self, meter: Meter) -> bool:
        return self.device != CPU or 2 * meter.grown() < available()

    def _batch(self, units: Sequence[UnitRecords], progress: Progress = _ignore) -> NDArray[np.float32] | None:
        """Rows of all slots, or None where memory ran out; every try draws from the start of a unit's randomness."""
        units = [replace(unit, generator=deepcopy(unit.generator)) for unit in units]
        try:
            return self._compute(in_slots(units, self.slots), progress)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        free_memory(self.device)  # not in the handler: until it ends, the error's frames hold the batch
        return None

    def _compute(self, slots: Sequence[UnitRecords], progress: Progress) -> NDArray[np.float32]:
        with precision(self.device, self.dtype):
            return self.compute(self.base, slots, progress)


def rows_by_lane(
    lanes: Sequence[Lane], units: Sequence[str], records_of: Callable[[str], UnitRecords | None]
) -> Iterator[dict[str, Row | None]]:
    """Compute all rows, the lanes side by side; yields each finished block: unit -> row, None without one.

    Which lane computes a unit follows from the unit's name alone: two cards may differ in the last bit, so a
    unit that comes or goes must not push another one to another card.
    """
    shares = [[unit for unit in units if _lane_of(unit, len(lanes)) == number] for number in range(len(lanes))]

    def compute(lane: Lane, block: Sequence[str]) -> dict[str, Row | None]:
        records = {unit: found for unit in block if (found := records_of(unit)) is not None}
        return dict.fromkeys(block) | dict(zip(records, lane.rows(list(records.values())), strict=True))

    turns = zip_longest(*(blocks(share, lane.slots) for lane, share in zip(lanes, shares, strict=True)), fillvalue=())
    if len(lanes) == 1:
        yield from (compute(lanes[0], block) for (block,) in turns)
        return
    with ThreadPoolExecutor(len(lanes)) as pool:
        for turn in turns:
            yield from pool.map(compute, lanes, turn)


def blocks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of `size`, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _lane_of(unit: str, lanes: int) -> int:
    return int(sha256_hex(unit.encode("utf-8", "surrogatepass"))[:16], 16) % lanes


def _power_of_two(at_least: int) -> int:
    return 1 << max(at_least - 1, 0).bit_length()


def random_unit(base: LoadedBase, number: int) -> UnitRecords:
    """A unit of no one's: Gaussian latents and no words, the same ones for the same number."""
    generator = row_generator(sha256(f"undertone/dry-run/{number}".encode()).digest())
    latents = generator.standard_normal((1, *base.latent_shape), dtype=np.float32)
    return UnitRecords(latents, ("",), generator)
