"""The node: everything a hospital's side decides, in one class (DESIGN 5, PRIVACY 2-6, 12, 17).

`Node.handle` answers a request or refuses it. All state is in SITE_DIR; the transport around it can
be a function call, a Flower ClientApp or a socket.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone import PROTOCOL
from undertone.canonical import digest_of, sha256_hex
from undertone.captions import fill_caption
from undertone.errors import (
    BudgetExceeded,
    NotApproved,
    PlanChanged,
    ProtocolError,
    ReplayedAttempt,
)
from undertone.keys import PLAN_DOMAIN, check_signature
from undertone.messages import Reply, Request
from undertone.methods.protocol import UnitRecords
from undertone.methods.registry import planned_method
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import check_pins, pin
from undertone.package import package_sha256
from undertone.plan import Plan
from undertone.privacy.entropy import Entropy, OsEntropy, poisson_sample
from undertone.privacy.ledger import Ledger, commit_to_sum
from undertone.privacy.quantise import site_sum
from undertone.privacy.rows import row_generator, row_key
from undertone.progress import reporter
from undertone.secagg.plain import mask
from undertone.stages import Contributions, MaskedVector
from undertone_client.latents import cached_latents
from undertone_client.records import RecordTable, read_records
from undertone_client.site import SiteDir
from undertone_client.slots import in_slots
from undertone_client.state import Attempt, NodeState

Row = NDArray[np.float32]
RecordsOf = Callable[[str], UnitRecords | None]
RowMaker = Callable[[list[UnitRecords]], NDArray[np.float32]]

# What a coordinator is told: facts of plan and protocol. Everything else stays in node.log.
_TOLD = (BudgetExceeded, NotApproved, PlanChanged, ProtocolError, ReplayedAttempt)


class Node:
    """One site's node. Construct it where its SITE_DIR is; it keeps nothing in memory between requests."""

    def __init__(self, folder: Path, entropy: Entropy | None = None) -> None:
        self.site = SiteDir(folder)
        self._entropy = entropy or OsEntropy()

    def handle(self, request: Request) -> Reply:
        """Answer or refuse; what a refusal says never depends on a record (PRIVACY 17)."""
        try:
            words = self._answer(request)
        except _TOLD as error:
            return self._refusal(type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001 - its text may name a record: it stays in node.log
            self.site.note(f"{request.kind} failed: {type(error).__name__}: {error}")
            return self._refusal("SiteFault", "the site cannot take part now; its operator finds why in node.log")
        return Reply(self.site.config.site, PROTOCOL, words=None if words is None else words.words)

    def _refusal(self, code: str, message: str) -> Reply:
        self.site.note(f"refused: {code}: {message}")
        return Reply(self.site.config.site, PROTOCOL, error=code, message=message)

    def _answer(self, request: Request) -> MaskedVector | None:
        if request.protocol != PROTOCOL:
            raise ProtocolError(f"the coordinator speaks protocol {request.protocol}, this node protocol {PROTOCOL}")
        if request.kind == "hello":
            return None
        plan, state = self._approved_plan(request), request.state
        if state is None or state.shape != (plan.method.dimension,):
            raise ProtocolError(f"the model state is not a vector of {plan.method.dimension} values")
        with Ledger.open(self.site.ledger) as ledger, NodeState(self.site.state) as memory:
            _refuse_replay(ledger, plan, request)
            if request.kind == "prepare":
                self._prepare(plan, request, state, memory)
                return None
            return self._contribute(plan, request, state, memory, ledger)

    def _approved_plan(self, request: Request) -> Plan:
        """The request's plan, once everything about it is what this site approved.

        Raises:
            NotApproved, PlanChanged: names what differs.
        """
        plan, policy = Plan.from_bytes(request.plan), self.site.policy
        check_signature(policy.coordinator, PLAN_DOMAIN, plan.digest, request.signature)
        if plan.digest not in policy.approved:
            raise NotApproved(f"plan {plan.digest[:8]} is not approved at {self.site.config.site}")
        plan.check_version()
        if plan.package_sha256 != package_sha256():
            raise NotApproved(f"{self.site.config.site} runs other code than the plan names; install that version")
        if self.site.config.site not in plan.cohort.units:
            raise NotApproved(f"{self.site.config.site} is not on the roster of plan {plan.digest[:8]}")
        if not (1 <= request.round <= plan.privacy.rounds and 1 <= request.attempt <= plan.privacy.max_attempts):
            raise PlanChanged(f"round {request.round}, attempt {request.attempt} is not in the plan")
        return plan

    def _prepare(self, plan: Plan, request: Request, state: NDArray[np.float32], memory: NodeState) -> None:
        """Draw the coins once, then compute every sampled unit's row that is not on disk yet."""
        attempt, table = _attempt(plan, request), self._table(plan)
        pinned = pin(plan.model.base, plan.model.revision)
        # Before the coins: whether a site can take part must not depend on how they fell.
        check_pins(pinned, plan.model.files)
        method, units = planned_method(plan, pinned), table.units()
        chosen = memory.sampled(attempt, _sha256(state))
        if chosen is None:
            coins = poisson_sample(self._entropy, len(units), plan.privacy.sampling_rate)
            chosen = [unit for unit, coin in zip(units, coins, strict=True) if coin]
            memory.keep_sample(attempt, _sha256(state), chosen)
        done = memory.rows(attempt).keys()
        missing = [unit for unit in chosen if unit not in done]
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
                    lambda unit: self._records(plan, attempt, unit, table, units.get(unit, []), latents),
                    lambda slots: method.rows(base, state, slots, lambda _steps: None),
                )
                memory.keep_rows(attempt, [(unit, found.get(unit, zero)) for unit in block])
                progress(len(block))

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

    def _contribute(
        self, plan: Plan, request: Request, state: NDArray[np.float32], memory: NodeState, ledger: Ledger
    ) -> MaskedVector:
        """Clip, quantise, sum, clamp, mask; charge durably; only then answer (PRIVACY 4, 12)."""
        attempt = _attempt(plan, request)
        chosen, rows = memory.sampled(attempt, _sha256(state)), memory.rows(attempt)
        if chosen is None or set(chosen) != set(rows):
            raise ProtocolError(f"round {request.round}, attempt {request.attempt} was not prepared")
        stacked = np.array([rows[unit] for unit in chosen], dtype=np.float32).reshape(
            len(chosen), plan.method.dimension
        )
        masked = mask(site_sum(Contributions(stacked), plan.grid.as_grid()))
        # The site's own secret is the salt: a plain hash of a sum could be tested by guessing one unit.
        commitment = commit_to_sum(masked.words.astype(np.int64), self.site.secret())
        once = plan.privacy.sampling_rate == 1
        ledger.charge(*attempt, plan.event, commitment, plan.privacy.max_attempts, once_per_round=once)
        if not self.site.config.keep_rows:
            memory.forget(attempt)
        return masked

    def _table(self, plan: Plan) -> RecordTable:
        config, data = self.site.config, plan.data
        metadata = self.site.folder / config.metadata if config.metadata else None
        # A file that went missing after approval must not show outside: it becomes a zero row (PRIVACY 17).
        root = self.site.folder / config.data
        return read_records(root, plan.privacy.unit, data.unit_column, data.caption, metadata, missing_files=True)

    def _records(
        self,
        plan: Plan,
        attempt: Attempt,
        unit: str,
        table: RecordTable,
        positions: list[int],
        latents: NDArray[np.float32],
    ) -> UnitRecords | None:
        """One unit's readable records with randomness of its own; None where no record can be read."""
        readable = [index for index in positions if np.isfinite(latents[index]).all()]
        if not readable:
            return None
        token = str(plan.method.options.get("token", ""))
        captions = [fill_caption(plan.data.caption, token, table.records[index].columns) for index in readable]
        key = row_key(self.site.secret(), *attempt, unit)
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


def _refuse_replay(ledger: Ledger, plan: Plan, request: Request) -> None:
    """Each (study, round, attempt) is answered once; at p = 1 each round once (PRIVACY 12).

    Raises:
        ReplayedAttempt: the site's ledger has it already.
    """
    for charge in ledger.charges(plan.digest):
        again = charge.round == request.round
        if again and charge.attempt == request.attempt:
            raise ReplayedAttempt(f"round {request.round}, attempt {request.attempt} was answered before")
        if again and plan.privacy.sampling_rate == 1:
            raise ReplayedAttempt(
                f"round {request.round} was answered in attempt {charge.attempt}; with sampling rate 1 the rows "
                "repeat, and two sums of different sites would reveal one site: the study must be planned anew"
            )


def _attempt(plan: Plan, request: Request) -> Attempt:
    return plan.digest, request.round, request.attempt


def _sha256(state: NDArray[np.float32]) -> str:
    return sha256_hex(state.astype("<f4").tobytes())


def _blocks(units: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(units), size):
        yield units[start : start + size]
