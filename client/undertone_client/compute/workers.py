"""Workers: a device, its copy of the base model, and the one shape of its batches (PRIVACY 3, 17).

What a batch's shape may depend on: the plan, the device, and a dry run on random data. What it may not depend on:
any record. So the size is settled before an image is read and stays as it is, a unit's worker follows from its own
name, and where something fails in the middle of real work the question "is it the device or is it a unit?" is put to
random data:

    random data fail too      the device is at fault, whoever is in the batch: an error with advice
    random data still work    one of these units is at fault: each is computed alone in a batch of the *same* shape, so
                              the rows of the others are bit-identical to what they would be beside anyone, and the
                              one that fails is a zero row, whatever it was that failed
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import zip_longest
from typing import Any, Generic, Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from undertone.core.canonical import sha256_hex
from undertone.errors import MechanismViolation, ModelError
from undertone.methods.protocol import Progress, UnitRecords
from undertone.models.base import LoadedBase
from undertone.models.devices import CPU, Dtype, free_memory, out_of_memory, precision
from undertone.privacy.unit_randomness import row_generator
from undertone_client.compute.memory import allocated_by, installed

MicroBatch = int | Literal["auto"]
T = TypeVar("T")
FoundT = TypeVar("FoundT")
WorkerT = TypeVar("WorkerT", bound="Worker[Any]")
UnitT = TypeVar("UnitT", UnitRecords, UnitRecords | None)

# More gains nothing: a processor is busy with fewer, a graphics card with these.
_MOST_ON_CPU, _MOST_ELSEWHERE = 32, 128

# What was settled for a base in this process; goes with the base.
_settled: WeakKeyDictionary[LoadedBase, dict[tuple[str, Dtype, MicroBatch, int], int]] = WeakKeyDictionary()
# Whether it keeps the units of a batch of this size apart.
_apart: WeakKeyDictionary[LoadedBase, dict[tuple[str, Dtype, int], bool]] = WeakKeyDictionary()


class _OneStepDone(Exception):
    """Ends a dry run: every step needs the memory that the first one needed."""


def ignore(_steps: int) -> None:
    """Nobody watches."""


def _stop(_steps: int) -> None:
    raise _OneStepDone


@dataclass
class Worker(ABC, Generic[FoundT]):
    """One device at work for one plan; a subclass says what it computes of a batch of units.

    `batch_size` is how many units it gets at a time; `lighter` are the same work with less to it, and what the study
    would have to say for it: advice where not even one unit fits. `caption` is of units of random data: the study's,
    for without its word an inversion's row is zero whatever the device does.
    """

    device: str
    dtype: Dtype
    base: LoadedBase
    log: Callable[[str], None]
    batch_size: int = 1
    lighter: Sequence[tuple[str, "Worker[FoundT]"]] = ()
    caption: str = ""

    @abstractmethod
    def compute(self, units: Sequence[UnitRecords], progress: Progress) -> FoundT:
        """The work on at most `batch_size` units, in a batch of the worker's shape whoever is in it."""

    @abstractmethod
    def keeps_apart(self) -> bool:
        """On random data: whether no bit of a unit's part moves with its neighbours or its place in the batch.

        A unit that comes or goes pushes those behind it to other places. Parts that are all zero show nothing: False.
        """

    def check(self) -> None:
        """Measure on this device, and on processors too, that units are kept apart; one alone in its batch is.

        Raises:
            MechanismViolation: something moved.
        """
        if self.batch_size > 1 and not self.keeps_apart():
            fewer = ", or give fewer threads: undertone --threads 1" if self.device == CPU else ""
            raise MechanismViolation(
                f"on {self.device} in {self.dtype}, {self.batch_size} units at a time, what a unit adds changes with "
                "its place or its neighbours, so one unit could move more than its own; say micro_batch = 1 in "
                f"node.toml{fewer}"
            )

    def settle(self, work: str, micro_batch: MicroBatch, expected_units: int) -> None:
        """Set `batch_size`, and check it on this device: once for each work of a base in this process.

        Args:
            work: what the shapes of a batch follow from besides base and device: the method, its options, the stage.
            micro_batch: a number, or "auto" for dry runs on random data: one at a time where units in a batch would
                not be kept apart.
            expected_units: how many units the *public* figures let expect; more would be padding.

        Raises:
            ModelError: not even one unit fits.
            MechanismViolation: see `check`; with a number alone.
        """
        settled = _settled.setdefault(self.base, {})
        key = (work, self.dtype, micro_batch, _power_of_two(expected_units))
        if key not in settled:
            if micro_batch == "auto":
                self._grow(min(_MOST_ON_CPU if self.device == CPU else _MOST_ELSEWHERE, key[-1]))
                if self.batch_size > 1 and not self._kept_apart(work):
                    fewer = "; with fewer threads they may not (undertone --threads 2)" if self.device == CPU else ""
                    said = f"rows would change with a unit's place among {self.batch_size} in a batch{fewer}"
                    self.log(f"{self.device}: {said}")
                    self.batch_size = 1
                self.log(f"{self.device}: {self.batch_size} units at a time, by a dry run on random data")
            else:
                self.batch_size = micro_batch
                self.check()
            settled[key] = self.batch_size
        self.batch_size = settled[key]

    def each(self, units: Sequence[UnitRecords]) -> Iterator[tuple[Sequence[UnitRecords], FoundT | None]]:
        """Work on `units`, some at a time; those of a part that failed alone, None where a unit failed by itself.

        Raises:
            ModelError: random data fail too.
        """
        for part in blocks(units, self.batch_size):
            found = self._tried(part)
            if found is not None:
                yield part, found
                continue
            self._blame_the_device()
            for unit in part:
                yield [unit], self._tried([unit])

    def insist_on_one(self) -> None:
        """A dry run of one unit on random data.

        Raises:
            ModelError: it does not fit; the message says what would.
        """
        if not self._fits(1):
            raise ModelError(self._too_large())

    def _tried(self, units: Sequence[UnitRecords]) -> FoundT | None:
        """The work, or None where anything failed; every try draws from the start of a unit's randomness."""
        try:
            return self._within(units, ignore)
        except Exception as error:  # noqa: BLE001 - whatever a record causes must not show outside (PRIVACY 17)
            self.log(f"{self.device}: {type(error).__name__} with {len(units)} units at a time: {error}")
        free_memory(self.device)  # not in the handler: until it ends, the error's frames hold the batch
        return None

    def _blame_the_device(self) -> None:
        """Raise where random data fail as well: then it is nobody's record."""
        if not self._fits(self.batch_size):
            raise ModelError(
                f"memory of {self.device} ran out with {self.batch_size} units at a time; say a smaller micro_batch in "
                "node.toml"
            )

    def _grow(self, most: int) -> None:
        """On a processor by the bytes that one unit's step makes, elsewhere by doubling until memory ends."""
        fitting = 1
        if self.device == CPU:
            most = min(most, installed() // 2 // max(allocated_by(self.insist_on_one), 1))
            fitting = 1 << max(most.bit_length() - 1, 0)
        else:
            self.insist_on_one()
            while fitting < most and self._fits(2 * fitting):
                fitting *= 2
        self.batch_size = fitting

    def _too_large(self) -> str:
        """What to say where one unit does not fit: which lighter study would."""
        text = f"one unit at a time does not fit into the memory of {self.device}; choose another"
        for advice, worker in self.lighter:
            if worker._fits(1):
                return f"{text}, or plan with {advice}, which fits"
        return f"{text}, or plan with less of one unit at a time" if self.lighter else text

    def _fits(self, batch_size: int) -> bool:
        """A dry run: one step on random data; every further step needs the memory that the first one needed."""
        self.batch_size = batch_size
        try:
            self._within(self._random_units(1), _stop)
        except _OneStepDone:
            return True
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        else:
            return True  # a method that reports no steps has done its whole work
        free_memory(self.device)
        return False

    def _kept_apart(self, work: str) -> bool:
        """`keeps_apart`, measured once: sites of other sizes have batches of the same shape."""
        known, key = _apart.setdefault(self.base, {}), (work, self.dtype, self.batch_size)
        if key not in known:
            known[key] = self.keeps_apart()
        return known[key]

    def _random_units(self, count: int) -> list[UnitRecords]:
        return [random_unit(self.base, number, self.caption) for number in range(count)]

    def _within(self, units: Sequence[UnitRecords], progress: Progress) -> FoundT:
        with precision(self.device, self.dtype):
            return self.compute(fresh(units), progress)


def fresh(units: Sequence[UnitT]) -> list[UnitT]:
    """The same units, each at the start of its randomness; None stays None."""
    return [unit and replace(unit, generator=deepcopy(unit.generator)) for unit in units]


def turns(workers: Sequence[Worker[Any]], units: Sequence[str]) -> Iterator[list[Sequence[str]]]:
    """One block of units for each worker at a time, [workers]; empty where a worker has no more.

    Which worker a unit goes to follows from the unit's name alone: two cards may differ in the last bit, so a
    unit that comes or goes must not push another one to another card.
    """
    parts = [[unit for unit in units if _worker_of(unit, len(workers)) == number] for number in range(len(workers))]
    of_workers = (blocks(part, worker.batch_size) for worker, part in zip(workers, parts, strict=True))
    for turn in zip_longest(*of_workers, fillvalue=()):
        yield list(turn)


def side_by_side(
    workers: Sequence[WorkerT], turn: Sequence[Sequence[str]], work: Callable[[WorkerT, Sequence[str]], T]
) -> Iterator[T]:
    """`work` on each worker and its block, all workers at once."""
    if len(workers) == 1:
        yield work(workers[0], turn[0])
        return
    with ThreadPoolExecutor(len(workers)) as pool:
        yield from pool.map(work, workers, turn)


def blocks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of `size`, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _worker_of(unit: str, workers: int) -> int:
    return int(sha256_hex(unit.encode("utf-8", "surrogatepass"))[:16], 16) % workers


def _power_of_two(at_least: int) -> int:
    return 1 << max(at_least - 1, 0).bit_length()


def random_unit(base: LoadedBase, number: int, caption: str = "") -> UnitRecords:
    """A unit of no one's: Gaussian latents, of the first class; the same ones for the same number."""
    generator = row_generator(sha256(f"undertone/dry-run/{number}".encode()).digest())
    latents = generator.standard_normal((1, *base.latent_shape), dtype="float32")
    return UnitRecords(latents, (caption,), generator, classes=np.zeros(1, dtype=np.int64))
