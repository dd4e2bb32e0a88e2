"""Preparing an attempt: the coins, then each sampled unit's row, durable block by block (PRIVACY 2, 3, 17).

The long part of a round. It can be interrupted and asked for again: coins fall once, finished rows stay,
and nothing that depends on a record leaves the site.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil

import numpy as np
from numpy.typing import NDArray

from undertone.canonical import digest_of
from undertone.captions import fill_caption
from undertone.errors import NotApproved, PlanChanged
from undertone.failpoints import reached
from undertone.layout import state_sha256
from undertone.methods.protocol import Method, Progress, SummingMethod, UnitRecords
from undertone.methods.registry import lighter, planned_method
from undertone.models.base import LoadedBase, load_base
from undertone.models.devices import check_dtype, choose
from undertone.models.pinned import PinnedBase, check_pins, pin
from undertone.plan import Plan
from undertone.privacy.entropy import Entropy, poisson_sample
from undertone.privacy.rows import row_generator, row_key
from undertone.privacy.slots import place, sum_clip_norm
from undertone.progress import reporter
from undertone_client.lanes import Lane, Row, rows_by_lane
from undertone_client.latents import Latents, cached_latents
from undertone_client.notes import few
from undertone_client.records import RecordTable
from undertone_client.registration import present, registered
from undertone_client.site import SiteDir
from undertone_client.state import Attempt, NodeState
from undertone_client.summing import ClippedSums, Slots, SlotSums, as_rows, summing_lane


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
        plan, table = self.plan, self._registered()
        pinned = pin(plan.model.base, plan.model.revision)
        # Before the coins: whether a site can take part must not depend on how they fell.
        check_pins(pinned, plan.model.files)
        method, units = planned_method(plan, pinned), table.units()
        lanes = self._lanes(method, digest_of(dict(pinned.files)))
        placed = self._placed(units)
        if plan.privacy.slots:
            self._sum_slots(placed, method, lanes, table, pinned)
        else:
            self._compute_rows(placed, lanes, table, pinned)

    def _registered(self) -> RecordTable:
        """The records as they were when a person approved the plan; a request alone registers nothing (PRIVACY 17).

        Raises:
            NotApproved: none were.
        """
        table = registered(self.site, self.plan)
        if table is None:
            raise NotApproved(f"{self.site.config.site} has registered no records for this plan; approve it again")
        return table

    def _compute_rows(
        self, placed: list[str | None], lanes: list[Lane], table: RecordTable, pinned: PinnedBase
    ) -> None:
        """Each sampled unit's row, block by block."""
        done, units = self.memory.finished(self.attempt), table.units()
        missing = [unit for unit in placed if unit is not None and unit not in done]
        if not missing:
            return
        latents = self._latents(table, [index for unit in missing for index in units[unit]], pinned, lanes[0].base)
        with reporter().task(f"{self.site.config.site}: {self.plan.method.name}", len(missing)) as progress:
            for rows in rows_by_lane(lanes, missing, lambda unit: self._records(unit, table, units[unit], latents)):
                reached("preparing/rows computed")
                self.memory.keep_rows(self.attempt, [(unit, self._or_zero(unit, row)) for unit, row in rows.items()])
                reached("preparing/rows durable")
                progress(len(rows))

    def _sum_slots(
        self, placed: list[str | None], method: Method, lanes: list[Lane], table: RecordTable, pinned: PinnedBase
    ) -> None:
        """The sum of all slots, micro-batch by micro-batch."""
        plan, units = self.plan, table.units()
        needed = [index for unit in placed if unit is not None for index in units[unit]]
        latents = self._latents(table, needed, pinned, lanes[0].base)

        def records(unit: str) -> UnitRecords | None:
            found = self._records(unit, table, units[unit], latents)
            if found is None:
                self.site.note(f"zero row: {unit} has no readable record")
            return found

        grid, sums = plan.grid.as_grid(), self._sums(method)
        with reporter().task(f"{self.site.config.site}: {method.name}", len(placed)) as progress:
            SlotSums(lanes, sums, grid, self.attempt, plan.method.dimension, self.memory, self.site.note).run(
                placed, records, progress
            )

    def _sums(self, method: Method) -> ClippedSums:
        """The method's clipped sums at w and C (1 - eta)."""
        if not isinstance(method, SummingMethod):
            raise PlanChanged(f"{method.name} does not sum its rows, and the plan has slots for it")
        return partial(_clipped_sum, method, self.state, sum_clip_norm(self.plan.grid.as_grid()))

    def _lanes(self, method: Method, files: str) -> list[Lane]:
        """One lane for each of the site's devices, their slots settled before an image is read (see lanes.py)."""
        config, plan, lanes = self.site.config, self.plan, []
        for device in choose(config.device):
            check_dtype(device, config.dtype)
            base = _loaded(plan.model.base, plan.model.revision, device, files, plan.method.name)
            expected = ceil(plan.privacy.sampling_rate * plan.cohort.units[config.site])
            if plan.privacy.slots:
                clip_norm, expected = sum_clip_norm(plan.grid.as_grid()), plan.privacy.slots[config.site]
                lane = summing_lane(device, config.dtype, base, self._sums(method), clip_norm, self.site.note)
                lane.lighter = [(advice, as_rows(self._sums(less))) for advice, less in lighter(method)]
            else:
                lane = Lane(device, config.dtype, base, partial(_rows, method, self.state), self.site.note)
                lane.lighter = [(advice, partial(_rows, less, self.state)) for advice, less in lighter(method)]
            lane.settle(plan.digest, config.micro_batch, expected)
            lanes.append(lane)
        return lanes

    def _placed(self, units: dict[str, list[int]]) -> list[str | None]:
        """The sampled units, in their slots where there are any; draws the coins where they have not fallen."""
        plan, digest = self.plan, state_sha256(self.state)
        placed = self.memory.placed(self.attempt, digest)
        if placed is None:
            coins = poisson_sample(self.entropy, len(units), plan.privacy.sampling_rate)
            chosen = [unit for unit, coin in zip(units, coins, strict=True) if coin]
            slots = plan.privacy.slots.get(self.site.config.site)
            placed = place(self.entropy, chosen, slots) if slots else list(chosen)
            reached("preparing/coins drawn")
            self.memory.keep_sample(self.attempt, digest, placed)
            reached("preparing/coins durable")
        return placed

    def _or_zero(self, unit: str, row: Row | None) -> Row:
        """The row; a zero row and a log line for a unit that has none (PRIVACY 17)."""
        if row is not None and np.isfinite(row).all():
            return row
        self.site.note(f"zero row: {unit} has no finite row, or does not fit into memory")
        return np.zeros(self.plan.method.dimension, dtype=np.float32)

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


@lru_cache(maxsize=8)  # one copy for each device
def _loaded(reference: str, revision: str | None, device: str, files: str, _method: str) -> LoadedBase:
    """The base model, loaded once for all requests (and, in simulation, all sites) of a process.

    `files`, the digest of its pins, is part of the key: other files are another model. So is the method: those that
    learn a word lengthen the tokenizer.
    """
    pinned = pin(reference, revision)
    if digest_of(dict(pinned.files)) != files:
        raise PlanChanged(f"{reference} changed after its files were checked; restore the version that the plan names")
    return load_base(pinned, device)


def _rows(
    method: Method, state: NDArray[np.float32], base: LoadedBase, slots: Sequence[UnitRecords], progress: Progress
) -> NDArray[np.float32]:
    return method.rows(base, state, slots, progress)


def _clipped_sum(
    method: SummingMethod, state: NDArray[np.float32], clip_norm: float, base: LoadedBase, slots: Slots
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return method.clipped_sum(base, state, slots, clip_norm)
