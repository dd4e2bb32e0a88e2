"""Preparing an attempt: the coins, each sampled unit's row, durable block by block, their sum (PRIVACY 2-4, 17).

The long part of a round. It can be interrupted and asked for again: coins fall once, finished rows stay,
and nothing that depends on a record leaves the site.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import digest_of
from undertone.core.captions import fill_caption
from undertone.core.failpoints import reached
from undertone.core.progress import reporter
from undertone.errors import NotApproved, PlanChanged
from undertone.methods.protocol import (
    Method,
    MethodStage,
    PreparedMethod,
    Progress,
    ShardedMethod,
    SummingMethod,
    UnitRecords,
    sent_by,
    settled,
    stages_of,
)
from undertone.models.base import LoadedBase, load_base
from undertone.models.devices import Dtype, check_dtype, choose
from undertone.models.layout import state_sha256
from undertone.models.pinned import PinnedBase, check_pins, pin
from undertone.privacy.entropy import Entropy, poisson_sample
from undertone.privacy.ledger import Ledger
from undertone.privacy.shards import shard_of
from undertone.privacy.unit_randomness import KEY_BYTES
from undertone.study.plan import Plan
from undertone.study.planned import planned_stage
from undertone.study.stage import Stage
from undertone_client.compute.kept_rows import sum_of_kept_rows
from undertone_client.compute.reading import Reader, reader
from undertone_client.compute.row_worker import Row, RowWorker
from undertone_client.compute.shard_rows import ShardRows, ShardWorker
from undertone_client.compute.shard_store import Shard, ShardStore
from undertone_client.compute.splitting import split
from undertone_client.compute.sum_worker import Sum, SumMaker, SumWorker
from undertone_client.compute.summing import AttemptSum
from undertone_client.compute.workers import side_by_side, turns
from undertone_client.registration.registered import withdrawn_units
from undertone_client.registration.stored import Registration, registration_of
from undertone_client.site.attempt_store import AttemptKey, AttemptStore
from undertone_client.site.folder import SiteDir

State = NDArray[np.float32]
_Place = tuple[str, Dtype, LoadedBase, Callable[[str], None]]
# A grid on which the clip norm is 1; which one it is costs no memory.
_DRY_SCALE = 1 << 20


@dataclass(frozen=True)
class Preparation:
    """One attempt of a plan at one site; `state` is what the coordinator sent, w and what stands behind it, float32.

    `data_set` is the approval's.
    """

    site: SiteDir
    plan: Plan
    attempt: AttemptKey
    state: State
    store: AttemptStore
    entropy: Entropy
    data_set: str

    def run(self) -> None:
        """Draw the coins once, compute every sampled unit's row that is not on disk yet, and sum them.

        Everything that takes longer with more units is done here: what comes after `ready` says nothing of how many
        there were (PRIVACY 26).
        """
        plan, registration = self.plan, self._registered()
        pinned = pin(plan.model.base, plan.model.revision)
        # Before the coins: whether a site can take part must not depend on how they fell.
        check_pins(pinned, plan.model.files)
        if self.store.finished_sum(self.attempt, self._state_sha256, self._stage.dimension) is None:
            self._sum(planned_stage(plan, pinned, self.attempt[1]), pinned, registration)
        if not self.site.config.keep_rows:
            self.store.forget_parts(self.attempt)

    def _sum(self, asked: MethodStage, pinned: PinnedBase, registration: Registration) -> None:
        """The finished sum over the sampled units; anew, with the coins that fell, whenever somebody withdraws."""
        asked.check(self.state)
        method, units, files = asked.method, registration.table.units(), digest_of(dict(pinned.files))
        if isinstance(method, ShardedMethod):
            method.check_query(pinned, self.state, self.attempt[1])
            where = self._places(method, files)[0]
            while not self._sum_shards(method, where, registration, pinned):
                pass
        elif isinstance(method, SummingMethod) and method.sums(pinned):
            adding = self._sum_workers(method, files)
            chosen = self._sampled(units)
            while not self._sum_rows(
                chosen, adding, registration, self._reader(chosen, method, registration, pinned, adding[0].base)
            ):
                pass
        else:
            workers = self._row_workers(method, files)
            chosen = self._sampled(units)
            done = self.store.finished(self.attempt)
            missing = [unit for unit in chosen if unit not in done]
            if missing:
                self._keep_rows(missing, workers, self._reader(missing, method, registration, pinned, workers[0].base))
            while not self._sum_kept_rows(registration):
                pass

    def _sum_shards(self, method: ShardedMethod, where: _Place, registration: Registration, pinned: PinnedBase) -> bool:
        """The finished sum over all shards, whose rows take no coins (PRIVACY 15); whether nobody withdrew meanwhile.

        On one device: rows of shards are made one at a time.
        """
        device, dtype, base, log = where
        digest, round_, number = self.attempt
        worker = ShardWorker(method, pinned, device, dtype, base, self.state, digest, self.site.secret())
        worker.check()
        if self.store.sampled(self.attempt, self._state_sha256) is None:
            self.store.keep_sample(self.attempt, self._state_sha256, [])
        kept = ShardStore.of(self.site, digest, method.shards, method.memory(pinned))
        read, shards = self._read_shards(method, registration, pinned, base, kept)
        charged = self._charged()
        before = next((one for one in reversed(charged) if one[0] != round_), None)
        rows = ShardRows(worker, kept, (round_, number), before, charged, read.shard, log)
        self.store.keep_only(self.attempt, rows.begin(shards, self.store.finished(self.attempt)))
        with reporter().task(f"{self.site.config.site}: {method.name}", len(shards)) as progress:
            rows.run(shards, self.store.finished(self.attempt), self._keep, progress)
        return self._sum_kept_rows(registration, read.withdrawn)

    def _read_shards(
        self, method: ShardedMethod, registration: Registration, pinned: PinnedBase, base: LoadedBase, kept: ShardStore
    ) -> tuple[Reader, list[Shard]]:
        """The shards as they stand now; latents of those that are not prepared yet are held against their seals."""
        secret, units, checked = self.site.secret(), registration.table.units(), set[str]()
        while True:
            read = self._reader(sorted(checked), method, registration, pinned, base)
            shards = split(
                secret, self.attempt[0], method.shards, units, read.entering_once, read.said, read.standing()
            )
            new = {shard.number for shard in shards if shard.records and kept.prepared(shard) is None}
            unchecked = {unit for unit in units if new and shard_of(secret, unit, method.shards) in new} - checked
            if not unchecked:
                return read, shards
            checked |= unchecked

    def _charged(self) -> list[tuple[int, int]]:
        """The attempts that this site's own ledger charges; what shards remember is from the last of another round."""
        with Ledger.open(self.site.ledger, read_only=True) as ledger:
            return [(one.round, one.attempt) for one in ledger.charges(self.plan.digest)]

    def _keep(self, rows: Sequence[tuple[str, Row]]) -> None:
        """Make rows durable, by the name of their unit or shard."""
        reached("preparing/rows computed")
        self.store.keep_rows(self.attempt, rows)
        reached("preparing/rows durable")

    def _sum_kept_rows(self, registration: Registration, gone: frozenset[str] | None = None) -> bool:
        """Sum the rows that are kept, each cut to integers; whether nobody withdrew meanwhile.

        Whoever was withdrawn while rows were computed is a zero row too. `gone`: those without whom rows of shards were
        made; if there are more by now, these rows are not used.
        """
        if gone is None:
            gone = withdrawn_units(self.site, registration)
            self.store.zero_rows(self.attempt, sorted(gone))
        total = sum_of_kept_rows(self.plan, self.attempt, self.store)
        reached("preparing/rows summed")
        finished = self.store.finish(
            self.attempt, self._state_sha256, total, gone=lambda: withdrawn_units(self.site, registration) != gone
        )
        if finished:
            reached("preparing/sum durable")
        return finished

    @property
    def _state_sha256(self) -> str:
        return state_sha256(self.state)

    @property
    def _stage(self) -> Stage:
        """What the round is checked against (PRIVACY 25)."""
        return self.plan.stage_of(self.attempt[1])

    def _registered(self) -> Registration:
        """The records as they were when a person approved the plan; a request alone registers nothing (PRIVACY 17).

        Raises:
            NotApproved: none were, or those of another data set than was approved.
            DataSetMoved: the data set's file names another place than was approved.
        """
        registration = registration_of(self.site, self.plan)
        if registration is None:
            raise NotApproved(f"{self.site.config.site} has registered no records for this plan; approve it again")
        if registration.data.name != self.data_set:
            raise NotApproved(
                f"{self.site.config.site} has registered another data set for plan {self.plan.digest[:8]} than it "
                "approved; its operator forgets the study, and approves it again"
            )
        registration.check_not_moved()
        return registration

    def _keep_rows(self, missing: list[str], workers: list[RowWorker], read: Reader) -> None:
        """Each unit's row, block by block."""

        def work(worker: RowWorker, block: Sequence[str]) -> dict[str, Row | None]:
            records = {unit: found for unit in block if (found := read.unit(unit)) is not None}
            return dict.fromkeys(block) | dict(zip(records, worker.rows(list(records.values())), strict=True))

        with reporter().task(f"{self.site.config.site}: {self.plan.method.name}", len(missing)) as progress:
            for turn in turns(workers, missing):
                for rows in side_by_side(workers, turn, work):
                    self._keep([(unit, self._or_zero(unit, row, read.withdrawn)) for unit, row in rows.items()])
                    progress(len(rows))

    def _sum_rows(self, chosen: list[str], workers: list[SumWorker], registration: Registration, read: Reader) -> bool:
        """The sum of all rows, batch by batch; whether nobody who was registered withdrew meanwhile."""
        dimension = self._stage.dimension
        with reporter().task(f"{self.site.config.site}: {self.plan.method.name}", len(chosen)) as progress:
            making = AttemptSum(workers, self.attempt, self._state_sha256, dimension, self.store, self.site.log)
            gone_now = partial(withdrawn_units, self.site, registration)
            return making.run(chosen, read.unit, progress, read.withdrawn, gone_now)

    def _row_workers(self, method: Method, files: str) -> list[RowWorker]:
        """One worker for each device, for rows at w that are kept."""
        workers = [RowWorker(*where, make=partial(_rows, method, self.state)) for where in self._places(method, files)]
        for worker in workers:
            worker.lighter = [
                (advice, replace(worker, make=partial(_rows, less, self.state))) for advice, less in method.lighter()
            ]
            self._settle(worker, method)
        return workers

    def _sum_workers(self, method: SummingMethod, files: str) -> list[SumWorker]:
        """One worker for each device, for integer sums at w and on the plan's grid."""
        grid = self._stage.grid

        def make(of: SummingMethod) -> SumMaker:
            return partial(_clipped_sum, of, self.state, grid.scale, grid.clip_units)

        workers = [SumWorker(*where, make=make(method)) for where in self._places(method, files)]
        for worker in workers:
            worker.lighter = [
                (advice, replace(worker, make=make(less)))
                for advice, less in method.lighter()
                if isinstance(less, SummingMethod)
            ]
            self._settle(worker, method)
        return workers

    def _places(self, method: Method, files: str) -> "list[_Place]":
        """Each of the site's devices with its own copy of the base; what rows need besides is made here."""
        config, model, name = self.site.config, self.plan.model, method.name
        devices = choose(config.device)
        for device in devices:
            check_dtype(device, config.dtype)
        bases = [_loaded(model.base, model.revision, device, files, name) for device in devices]
        if isinstance(method, PreparedMethod):
            method.prepare(bases[0].pinned, bases[0])
        return [(device, config.dtype, base, self.site.log) for device, base in zip(devices, bases, strict=True)]

    def _settle(self, worker: RowWorker | SumWorker, method: Method) -> None:
        """Settle the size of a worker's batches, before an image is read."""
        plan, config, stage = self.plan, self.site.config, self._stage
        worker.caption = fill_caption(plan.data.caption, method.token, {})
        expected = ceil(stage.sampling_rate * plan.cohort.units[config.site])
        worker.settle(f"{method.name} {method.options!r} {stage.name} {stage.dimension}", config.micro_batch, expected)

    def _sampled(self, units: dict[str, list[int]]) -> list[str]:
        """The sampled units; draws the coins where they have not fallen."""
        digest = self._state_sha256
        chosen = self.store.sampled(self.attempt, digest)
        if chosen is None:
            coins = poisson_sample(self.entropy, len(units), self._stage.sampling_rate)
            chosen = [unit for unit, coin in zip(units, coins, strict=True) if coin]
            reached("preparing/coins drawn")
            self.store.keep_sample(self.attempt, digest, chosen)
            reached("preparing/coins durable")
        return chosen

    def _reader(
        self, needed: list[str], method: Method, registration: Registration, pinned: PinnedBase, base: LoadedBase
    ) -> Reader:
        return reader(self.site, self.plan, self.attempt, needed, method, registration, pinned, base)

    def _or_zero(self, unit: str, row: Row | None, withdrawn: frozenset[str]) -> Row:
        """The row; a zero row and a log line for a unit that has none (PRIVACY 17), no line for one that withdrew."""
        if row is not None and np.isfinite(row).all():
            return row
        if unit not in withdrawn:
            self.site.log(f"zero row: {unit} has no finite row, or could not be computed")
        return np.zeros(self._stage.dimension, dtype=np.float32)


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
    method: Method, state: State, base: LoadedBase, batch: Sequence[UnitRecords], progress: Progress
) -> NDArray[np.float32]:
    return method.rows(base, state, batch, progress)


def _clipped_sum(
    method: SummingMethod,
    state: State,
    scale: int,
    clip_units: int,
    base: LoadedBase,
    batch: Sequence[UnitRecords | None],
) -> Sum:
    return method.clipped_sum(base, state, batch, scale=scale, clip_units=clip_units)


def dry_run(site: SiteDir, pinned: PinnedBase, method: Method) -> None:
    """One step of one unit of no one's on each of the site's devices, without coins, records or a plan.

    Raises:
        ModelError: a device is not there, or one unit does not fit; the message says what would.
    """
    config, files = site.config, digest_of(dict(pinned.files))
    method, _ = settled(method, pinned, "")
    # The stage of the longest rows: whatever else is computed takes less.
    longest = max(stages_of(method, pinned), key=lambda stage: stage.row)
    state, method = method.initial_state(pinned)[: sent_by(method, pinned)], longest.method
    for device in choose(config.device):
        check_dtype(device, config.dtype)
        base = _loaded(pinned.reference, pinned.revision, device, files, method.name)
        if isinstance(method, PreparedMethod):
            method.prepare(pinned, base)
        where = (device, config.dtype, base, _unheard)
        if isinstance(method, ShardedMethod):
            query = method.query(base, method.initial_state(pinned))
            ShardWorker(method, pinned, device, config.dtype, base, query, "", bytes(KEY_BYTES)).check()
        elif isinstance(method, SummingMethod) and method.sums(pinned):
            sums = SumWorker(*where, make=partial(_clipped_sum, method, state, _DRY_SCALE, _DRY_SCALE))
            sums.lighter = [
                (advice, replace(sums, make=partial(_clipped_sum, less, state, _DRY_SCALE, _DRY_SCALE)))
                for advice, less in method.lighter()
                if isinstance(less, SummingMethod)
            ]
            sums.insist_on_one()
        else:
            rows = RowWorker(*where, make=partial(_rows, method, state))
            rows.lighter = [
                (advice, replace(rows, make=partial(_rows, less, state))) for advice, less in method.lighter()
            ]
            rows.insist_on_one()


def _unheard(_text: str) -> None:
    """A dry run writes no line in node.log."""
