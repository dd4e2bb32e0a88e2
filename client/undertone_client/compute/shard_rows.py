"""The rows of an attempt whose rows are of shards: one shard at a time, each from its own records (PRIVACY 3, 15, 17).

What a shard's row may depend on: its records, its own randomness, its memory, and the query. Nothing of another shard
has a part in it, and no two shards are in one batch. Whatever goes wrong within a shard is its zero row, and its memory
stays as it was. Whether the site can compute at all is asked of random data, before.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from undertone.errors import FolderError, ModelError, UndertoneError
from undertone.methods.protocol import Progress, ShardedMethod, UnitRecords
from undertone.models.base import LoadedBase
from undertone.models.devices import Dtype, free_memory, precision
from undertone.models.pinned import PinnedBase
from undertone.privacy.shards import shard_key
from undertone.privacy.unit_randomness import KEY_BYTES, row_generator
from undertone_client.compute.shard_store import Shard, ShardMemory, ShardStore, Values
from undertone_client.compute.workers import random_unit

# Rows, and memory with them, become durable so many at a time.
_AT_ONCE = 16
_NO_ONES = bytes(KEY_BYTES)
_of_random_data: WeakKeyDictionary[LoadedBase, dict[str, Values]] = WeakKeyDictionary()


@dataclass(frozen=True)
class ShardWorker:
    """One device at work on the shards of one plan at one query."""

    method: ShardedMethod
    pinned: PinnedBase
    device: str
    dtype: Dtype
    base: LoadedBase
    query: Values
    study: str
    secret: bytes

    def check(self) -> None:
        """A row of random data: before a record is looked at, so that what follows fails by a shard alone.

        Raises:
            ModelError: it fails.
        """
        known = _of_random_data.setdefault(self.base, {})
        # Of a dry run too, which has no study: what is made of records follows from the method's options.
        of = f"{self.study} {self.method.name} {self.method.options!r}"
        try:
            with precision(self.device, self.dtype):
                if of not in known:
                    known[of] = self.method.prepared(self.base, random_unit(self.base, 0))
                self.method.shard_row(self.base, self.query, known[of], None, row_generator(_NO_ONES))
        except UndertoneError:
            raise
        except Exception as error:
            raise ModelError(
                f"{self.device} cannot compute a row of random data: {type(error).__name__}: {error}; choose another "
                "device in node.toml, or plan with a smaller method"
            ) from error

    def prepare(self, shard: Shard, read: Callable[[Shard], UnitRecords]) -> Values:
        """What is made of a shard's records once; `read` reads them, with the randomness of `PREPARED`."""
        with precision(self.device, self.dtype):
            return _finite(self.method.prepared(self.base, read(shard)))

    def row(self, shard: Shard, prepared: Values, memory: Values | None, round_: int) -> tuple[Values, Values]:
        """The shard's row [row] and its memory after it [memory].

        Raises:
            ValueError: they are not finite, or of another shape.
        """
        generator = row_generator(shard_key(self.secret, self.study, round_, shard.number))
        with precision(self.device, self.dtype):
            row, after = self.method.shard_row(self.base, self.query, prepared, memory, generator)
        return (
            _finite(row, self.method.row(self.pinned)),
            _finite(after, self.method.memory(self.pinned)),
        )


def _finite(values: Values, size: int | None = None) -> Values:
    found = np.asarray(values, dtype=np.float32)
    if not np.isfinite(found).all():
        raise ValueError("not all values are finite")
    if size is not None and found.shape != (size,):
        raise ValueError(f"{found.shape} in place of {size} values")
    return found


@dataclass(frozen=True)
class ShardRows:
    """The rows of one attempt, (round, number); `before` is the attempt whose memory it starts from, or None.

    `charged` are attempts that this site's ledger charges, `before` among them. `read` gives a shard's records with its
    own randomness; `log` is the site's.
    """

    worker: ShardWorker
    store: ShardStore
    attempt: tuple[int, int]
    before: tuple[int, int] | None
    charged: Collection[tuple[int, int]]
    read: Callable[[Shard], UnitRecords]
    log: Callable[[str], None]

    def begin(self, shards: Sequence[Shard], done: Collection[str]) -> set[str]:
        """Erase what was made of other records than stand in the shards now, and memory that no attempt starts from.

        All rows of an attempt begin with the memory of one attempt. Where another was charged since some of them were
        kept, none of these is used, nor what their shards remember: which they were depended on how far the work had
        come, and so on other shards. Memory after other attempts of this round stays, and that of the last one charged:
        any of them may be the one that the next round starts from.

        Args:
            shards: as they stand now.
            done: names of rows that are kept.

        Returns:
            Names of rows that may be used.
        """
        names = {shard.row_name(self._begins) for shard in shards}
        if not names.issuperset(done):
            self.store.drop_memory(*self.attempt)
        rounds = {self.attempt[0], self.before[0] if self.before else 0}
        here = {(self.attempt[0], number) for number in range(1, self.attempt[1] + 1)}
        self.store.erase_others(shards, here | {one for one in self.charged if one[0] in rounds})
        return names

    @cached_property
    def _begins(self) -> str:
        """Whose memory rows begin with, in a word."""
        if self.before is None or not self.store.memory:
            return "anew"
        return "{}-{}".format(*self.before) if self.store.has_memory(*self.before) else "anew"

    def run(
        self, shards: Sequence[Shard], done: set[str], keep: Callable[[list[tuple[str, Values]]], None], tell: Progress
    ) -> None:
        """Compute what is missing and keep it, some shards at a time; an empty shard's row is zero and not kept.

        Args:
            shards: all of them.
            done: names of rows that are kept.
            keep: stores rows durably, by name.
            tell: hears of shards that are done.

        Raises:
            FolderError: the site's own disk, whichever shard was to be read or written.
        """
        earlier, memory = self._memory_before(), self._memory()
        missing = [shard for shard in shards if shard.records and not self._is_done(shard, done, memory)]
        tell(len(shards) - len(missing))
        for start in range(0, len(missing), _AT_ONCE):
            block, rows = missing[start : start + _AT_ONCE], list[tuple[str, Values]]()
            for shard in block:
                before = None if earlier is None else earlier.of(shard)[1]
                row, after = self._row(shard, before)
                if memory is not None:
                    memory.put(shard, after)
                if (name := shard.row_name(self._begins)) not in done:
                    rows.append((name, row))
                tell(1)
            keep(rows)
        if memory is not None:
            memory.sync()

    def _memory_before(self) -> ShardMemory | None:
        """What the attempt starts from; None: every shard starts anew."""
        if self.before is None or not self.store.memory:
            return None
        if self._begins == "anew":
            self.log(f"the memory of shards after round {self.before[0]} is gone: it begins anew")
            return None
        return self.store.memory_after(*self.before)

    def _memory(self) -> ShardMemory | None:
        """Where this attempt's memory is kept; None where shards have none."""
        return self.store.memory_after(*self.attempt) if self.store.memory else None

    def _is_done(self, shard: Shard, done: set[str], memory: ShardMemory | None) -> bool:
        """A row is durable before its memory is: after a power cut memory may be missing, and is made again."""
        return shard.row_name(self._begins) in done and (memory is None or memory.of(shard)[0])

    def _row(self, shard: Shard, before: Values | None) -> tuple[Values, Values | None]:
        """A shard's row and its memory; a zero row, and the memory as it was, whatever went wrong (PRIVACY 17)."""
        try:
            prepared = self.store.prepared(shard)
            if prepared is None:
                prepared = self.worker.prepare(shard, self.read)
                self.store.keep_prepared(shard, prepared)
            return self.worker.row(shard, prepared, before, self.attempt[0])
        except FolderError:
            raise  # the site's own disk, whoever was to be read
        except Exception as error:  # noqa: BLE001 - as above
            self.log(f"zero row: shard {shard.number}: {type(error).__name__}: {error}")
        free_memory(self.worker.device)  # not in the handler: until it ends, the error's frames hold what was computed
        return np.zeros(self.worker.method.row(self.worker.pinned), dtype=np.float32), before
