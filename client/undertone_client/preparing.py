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
from undertone.methods.protocol import UnitRecords
from undertone.methods.registry import planned_method
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import check_pins, pin
from undertone.plan import Plan
from undertone.privacy.entropy import Entropy, poisson_sample
from undertone.privacy.rows import row_generator, row_key
from undertone.progress import reporter
from undertone_client.latents import cached_latents
from undertone_client.records import RecordTable, read_records
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
        plan, table = self.plan, self._table()
        pinned = pin(plan.model.base, plan.model.revision)
        # Before the coins: whether a site can take part must not depend on how they fell.
        check_pins(pinned, plan.model.files)
        method, units = planned_method(plan, pinned), table.units()
        missing = self._unfinished(units)
        if not missing:
            return
        base = _loaded(plan.model.base, plan.model.revision, self.site.config.device, digest_of(dict(pinned.files)))
        with reporter().task(f"{self.site.config.site}: reading images", len(table.records)) as progress:
            latents = cached_latents(self.site.cache, table, pinned, base, self.site.note, progress)
        with reporter().task(f"{self.site.config.site}: {method.name}", len(missing)) as progress:
            zero = np.zeros(plan.method.dimension, dtype=np.float32)
            size = self.site.config.micro_batch
            for block in _blocks(missing, size):
                found = self._rows(
                    block,
                    size,
                    lambda unit: self._records(unit, table, units.get(unit, []), latents),
                    lambda slots: method.rows(base, self.state, slots, lambda _steps: None),
                )
                self.memory.keep_rows(self.attempt, [(unit, found.get(unit, zero)) for unit in block])
                progress(len(block))

    def _unfinished(self, units: dict[str, list[int]]) -> list[str]:
        """The sampled units whose rows are not on disk; draws the coins where they have not fallen."""
        plan, digest = self.plan, state_sha256(self.state)
        chosen = self.memory.sampled(self.attempt, digest)
        if chosen is None:
            coins = poisson_sample(self.entropy, len(units), plan.privacy.sampling_rate)
            chosen = [unit for unit, coin in zip(units, coins, strict=True) if coin]
            self.memory.keep_sample(self.attempt, digest, chosen)
        done = self.memory.rows(self.attempt).keys()
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

    def _table(self) -> RecordTable:
        config, data = self.site.config, self.plan.data
        metadata = self.site.folder / config.metadata if config.metadata else None
        # A file that went missing after approval must not show outside: it becomes a zero row (PRIVACY 17).
        root = self.site.folder / config.data
        return read_records(root, self.plan.privacy.unit, data.unit_column, data.caption, metadata, missing_files=True)

    def _records(
        self,
        unit: str,
        table: RecordTable,
        positions: list[int],
        latents: NDArray[np.float32],
    ) -> UnitRecords | None:
        """One unit's readable records with randomness of its own; None where no record can be read."""
        readable = [index for index in positions if np.isfinite(latents[index]).all()]
        if not readable:
            return None
        token = str(self.plan.method.options.get("token", ""))
        captions = [fill_caption(self.plan.data.caption, token, table.records[index].columns) for index in readable]
        key = row_key(self.site.secret(), *self.attempt, unit)
        return UnitRecords(latents[readable], tuple(captions), row_generator(key))


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
