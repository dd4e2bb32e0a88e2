"""Preparing an attempt: the coins, then each sampled unit's row, durable block by block (PRIVACY 2, 3, 17).

The long part of a round. It can be interrupted and asked for again: coins fall once, finished rows stay,
and nothing that depends on a record leaves the site.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from undertone.canonical import digest_of, sha256_hex
from undertone.captions import fill_caption
from undertone.failpoints import reached
from undertone.methods.protocol import UnitRecords
from undertone.methods.registry import planned_method
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, check_pins, pin
from undertone.plan import Plan
from undertone.privacy.entropy import Entropy, poisson_sample
from undertone.privacy.rows import row_generator, row_key
from undertone.progress import reporter
from undertone_client.latents import Latents, cached_latents
from undertone_client.notes import few
from undertone_client.records import RecordTable
from undertone_client.registration import present, register
from undertone_client.site import SiteDir
from undertone_client.slots import in_slots
from undertone_client.state import Attempt, NodeState

Row = NDArray[np.float32]
RecordsOf = Callable[[str], UnitRecords | None]
RowMaker = Callable[[list[UnitRecords]], NDArray[np.float32]]


@dataclass(frozen=True)
class Preparation:
    """One attempt of a plan at one site; `state` is the public w, [d] float32."""

    site: SiteDir
    plan: Plan
    attempt: Attempt
    state: NDArray[np.float32]
    memory: NodeState
    entropy: Entropy

    def run(self) -> None:
        """Draw the coins once, then compute every sampled unit's row that is not on disk yet."""
        plan, table = self.plan, register(self.site, self.plan)  # once: later calls find the registration
        pinned = pin(plan.model.base, plan.model.revision)
        # Before the coins: whether a site can take part must not depend on how they fell.
        check_pins(pinned, plan.model.files)
        method, units = planned_method(plan, pinned), table.units()
        missing = self._unfinished(units)
        if not missing:
            return
        base = _loaded(plan.model.base, plan.model.revision, self.site.config.device, digest_of(dict(pinned.files)))
        latents = self._latents(table, [index for unit in missing for index in units[unit]], pinned, base)
        with reporter().task(f"{self.site.config.site}: {method.name}", len(missing)) as progress:
            zero = np.zeros(plan.method.dimension, dtype=np.float32)
            size = self.site.config.micro_batch
            for block in _blocks(missing, size):
                found = self._rows(
                    block,
                    size,
                    lambda unit: self._records(unit, table, units[unit], latents),
                    lambda slots: method.rows(base, self.state, slots, lambda _steps: None),
                )
                reached("preparing/rows computed")
                self.memory.keep_rows(self.attempt, [(unit, found.get(unit, zero)) for unit in block])
                reached("preparing/rows durable")
                progress(len(block))

    def _unfinished(self, units: dict[str, list[int]]) -> list[str]:
        """The sampled units whose rows are not on disk; draws the coins where they have not fallen."""
        plan, digest = self.plan, state_sha256(self.state)
        chosen = self.memory.sampled(self.attempt, digest)
        if chosen is None:
            coins = poisson_sample(self.entropy, len(units), plan.privacy.sampling_rate)
            chosen = [unit for unit, coin in zip(units, coins, strict=True) if coin]
            reached("preparing/coins drawn")
            self.memory.keep_sample(self.attempt, digest, chosen)
            reached("preparing/coins durable")
        done = self.memory.finished(self.attempt)
        return [unit for unit in chosen if unit not in done]

    def _rows(self, block: list[str], size: int, records_of: RecordsOf, compute: RowMaker) -> dict[str, Row]:
        """Unit -> row of those that have one; a unit without becomes a zero row and a log line (PRIVACY 17).

        Every call computes `size` slots, dummies where no unit is, so that no unit can change another's row,
        not even in the last bit (`slots.py`). Where memory runs out, which depends on the shapes and not on
        records, the same units are computed again in half as many slots.
        """
        prepared = {unit: records_of(unit) for unit in block}
        readable = {unit: found for unit, found in prepared.items() if found is not None}
        try:
            rows = compute(in_slots(list(readable.values()), size)) if readable else np.zeros((0, 0), np.float32)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if size == 1:
                self.site.note(f"zero row: {block[0]} does not fit into memory")
                return {}
            halves = _blocks(block, size // 2)
            return {k: row for half in halves for k, row in self._rows(half, size // 2, records_of, compute).items()}
        found = dict(zip(readable, rows, strict=False))
        for unit in block:
            if unit not in found or not np.isfinite(found[unit]).all():
                self.site.note(f"zero row: {unit} has no finite row")
        return found

    def _latents(self, table: RecordTable, needed: list[int], pinned: PinnedBase, base: LoadedBase) -> Latents:
        """The latents of the records that are still what was registered; the others have none (PRIVACY 17)."""
        plan, checked = self.plan, np.zeros(len(table.records), dtype=np.bool_)
        checked[needed] = True
        label = f"{self.site.config.site}: reading images"
        with few(self.site.note) as note, reporter().task(label, len(table.records)) as progress:
            listed = present(table, plan.privacy.unit, plan.data.unit_column, note)
            for index in np.flatnonzero(~listed):
                note(f"zero row: {table.source} no longer lists {table.records[index].file} with its unit")
            return cached_latents(self.site.cache, table, listed, checked, pinned, base, note, progress)

    def _records(
        self,
        unit: str,
        table: RecordTable,
        positions: list[int],
        latents: Latents,
    ) -> UnitRecords | None:
        """One unit's readable records with randomness of its own; None where no record can be read."""
        readable = [index for index in positions if latents.readable[index]]
        if not readable:
            return None
        token = str(self.plan.method.options.get("token", ""))
        captions = [fill_caption(self.plan.data.caption, token, table.records[index].columns) for index in readable]
        key = row_key(self.site.secret(), *self.attempt, unit)
        return UnitRecords(latents.of(readable), tuple(captions), row_generator(key))


@lru_cache(maxsize=1)
def _loaded(reference: str, revision: str | None, device: str, _files: str) -> LoadedBase:
    """The base model, loaded once for all requests (and, in simulation, all sites) of a process.

    `_files`, the digest of its pins, is part of the key: other files are another model.
    """
    return load_base(pin(reference, revision), device)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so in a RuntimeError's text alone on CPUs."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


def state_sha256(state: NDArray[np.float32]) -> str:
    """SHA-256 of a public state w [d], as hexadecimal."""
    return sha256_hex(state.astype("<f4").tobytes())


def _blocks(units: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(units), size):
        yield units[start : start + size]
