"""The node: everything a hospital's side decides, in one class (PRIVACY 2-6, 12, 17).

`Node.handle` answers a request or refuses it. All state is in SITE_DIR; the transport around it can
be a function call, a Flower ClientApp or a socket.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path

from undertone import PROTOCOL
from undertone.core.canonical import sha256_hex
from undertone.core.clock import Clock, utc_now
from undertone.errors import (
    BudgetExceeded,
    FolderError,
    LedgerRestored,
    NotApproved,
    NotPrepared,
    PlanChanged,
    ProtocolError,
    Refused,
    ReplayedAttempt,
    SecureAggregationError,
    TimingRevealed,
    TooFewSites,
    UnderstatedClaim,
    UndertoneError,
)
from undertone.privacy.entropy import Entropy, OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import MaskedVector
from undertone.secagg.prg import pack24
from undertone.study.plan import Plan
from undertone.study.rehearsal import rehearsal_plan
from undertone.wire.hello import prove
from undertone.wire.messages import LARGEST_PLAN, SITE_FAULT, Reply, Request, Words
from undertone.wire.vectors import LARGEST_HEADER
from undertone_client.approval.approvals import approval_of, check_approval, check_started
from undertone_client.approval.approving import free_expired
from undertone_client.approval.books import LedgerBooks
from undertone_client.approval.checks import check_asked, check_data_set, check_plan
from undertone_client.approval.pending import keep_pending
from undertone_client.rehearsal.rehearsing import rehearsal_site
from undertone_client.round.attempt import Answer, SiteAttempt
from undertone_client.round.readiness import AtOnce, Preparations
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.budget import holds
from undertone_client.site.folder import SiteDir
from undertone_client.site.rollback import ledger_head_of, newest_told, refuse_older

# What a coordinator is told: facts of plan and protocol. Everything else stays in node.log.
_TOLD = (
    BudgetExceeded,
    LedgerRestored,
    NotApproved,
    NotPrepared,
    PlanChanged,
    ProtocolError,
    ReplayedAttempt,
    SecureAggregationError,
    TimingRevealed,
    TooFewSites,
    UnderstatedClaim,
)

_LARGEST_REHEARSED = 1 << 30  # bytes of a model state


class Node:
    """One site's node. Construct it where its SITE_DIR is; it keeps nothing in memory between requests.

    Only `preparations` may: where requests come to a node that stays, rows are made behind the answers.
    """

    def __init__(
        self,
        folder: Path,
        entropy: Entropy | None = None,
        now: Clock = utc_now,
        preparations: Preparations | None = None,
    ) -> None:
        self.site = SiteDir(folder)
        self._entropy = entropy or OsEntropy()
        self._now = now
        self._preparations = preparations or AtOnce()

    def handle(self, request: Request) -> Reply:
        """Answer or refuse; what a refusal says never depends on a record (PRIVACY 17).

        Settings and policy are read anew: what the operator changed a moment ago holds for this request. Several
        threads may ask at once.
        """
        return copy(self)._handle(request)

    def _handle(self, request: Request) -> Reply:
        """As `handle`, in a copy that belongs to this request."""
        log = self.site.log_stranger
        try:
            self.site = SiteDir(self.site.folder)
            signed = self._signed(request)
            log = self.site.log
            rehearsal = self._rehearsal(request, *signed)
            if rehearsal is not None:
                return rehearsal.handle(request)
            answer, ledger_head = self._answer(request, *signed)
        except _TOLD as error:
            blamed = error.blamed if isinstance(error, SecureAggregationError) else ""
            return replace(self._refusal(type(error).__name__, str(error), log), blamed=blamed)
        except Exception as error:  # noqa: BLE001 - its text may name a record: it stays in node.log
            log(f"{request.kind} failed: {type(error).__name__}: {error}")
            return self._refusal(SITE_FAULT, "the site cannot take part now; its operator finds why in node.log", log)
        return Reply(
            self.site.config.site, PROTOCOL, words=_on_wire(answer.vector), body=answer.body, ledger_head=ledger_head
        )

    def state_due(self, request: Request) -> int:
        """The most bytes of a model state that is taken in for this request, before it is handled; 0 for a stranger.

        0 also for a plan that is not approved here: whatever its state is, it is refused. Nobody has approved a
        rehearsal's figures, so its state has a bound of its own.
        """
        try:
            current = copy(self)
            current.site = SiteDir(self.site.folder)
            digest = current._signed(request)[0]
            rehearsal = None if current.site.config.rehearsal else rehearsal_plan(request.plan)
            if rehearsal is not None:
                check_asked(current.site, rehearsal)
                return min(rehearsal.state_size * 4, _LARGEST_REHEARSED) + LARGEST_HEADER
            approved = digest and approval_of(current.site, digest) is not None
            return Plan.from_bytes(request.plan).state_size * 4 + LARGEST_HEADER if approved else 0
        except UndertoneError:
            return 0

    def _refusal(self, code: str, message: str, log: Callable[[str], None]) -> Reply:
        log(f"refused: {code}: {message}")
        return Reply(self.site.config.site, PROTOCOL, error=code, message=message)

    def _signed(self, request: Request) -> tuple[str, str]:
        """The digest of the request's plan, and which coordinator of the policy signed it; "" and "" with hello.

        Anyone who reaches the node can send what is looked at here: a length, a hash and a signature, nothing else.

        Raises:
            ProtocolError: another protocol, or a plan longer than any.
            NotApproved: the signature does not hold.
        """
        if request.protocol != PROTOCOL:
            raise ProtocolError(f"the coordinator speaks protocol {request.protocol}, this node protocol {PROTOCOL}")
        if request.kind == "hello":
            return "", ""
        if len(request.plan) > LARGEST_PLAN:
            raise ProtocolError(f"a plan of {len(request.plan)} bytes is not read; {LARGEST_PLAN} are enough")
        digest = sha256_hex(request.plan)
        return digest, self.site.policy.coordinator_of(digest, request.signature)

    def _rehearsal(self, request: Request, digest: str, coordinator: str) -> "Node | None":
        """The node of a SITE_DIR with drawn images, if that is what a known coordinator asks for.

        Raises:
            NotApproved, PlanChanged, UnderstatedClaim: as for a study, or too many were begun.
        """
        plan = rehearsal_plan(request.plan) if digest and not self.site.config.rehearsal else None
        if plan is None:
            return None
        folder = rehearsal_site(self.site, plan, request.signature, coordinator, self._entropy)
        return Node(folder, self._entropy, self._now, self._preparations)

    def _answer(self, request: Request, digest: str, coordinator: str) -> tuple[Answer, str]:
        """The answer, and this site's ledger head."""
        if request.kind == "hello":
            return Answer(body=prove(self.site.identity(), self.site.config.site, request.body)), ""
        (plan, data_set), secret = self._approved_plan(request, digest, coordinator), self.site.secret()
        with Ledger.open(self.site.ledger) as ledger, AttemptStore(self.site.attempt_store) as store:
            refuse_older(ledger, secret, request.ledger_heads.get(self.site.config.site, ""))
            _refuse_unreserved(ledger, digest, self.site.config.site)
            if request.kind in ("prepare", "plain_input", "masked_input"):
                _refuse_replay(ledger, plan, request)
            attempt = SiteAttempt(
                self.site,
                plan,
                request,
                ledger,
                store,
                self._entropy,
                data_set,
                self._preparations,
                lambda: Node(self.site.folder, now=self._now)._check_again(request, digest, coordinator),
            )
            answer = attempt.plain() if plan.aggregation.mode == "plain" else attempt.secure()
            return answer, ledger_head_of(secret, newest_told(ledger))

    def _approved_plan(self, request: Request, digest: str, coordinator: str) -> tuple[Plan, str]:
        """The request's plan and its data set, once everything about it is what this site approved and allows.

        Raises:
            NotApproved, PlanChanged: names what differs.
            UnderstatedClaim: it claims less than it costs.
        """
        approval = approval_of(self.site, digest)
        if approval is None:
            self._keep_pending(request)
            raise NotApproved(f"plan {digest[:8]} is not approved at {self.site.config.site}")
        if approval.expired(self._now()):
            self._free_expired()
        check_approval(self.site, approval, coordinator, self._now())
        plan = Plan.from_bytes(request.plan)
        check_plan(self.site, plan)
        check_started(approval, plan)
        self._preparations.check_plan(plan)
        check_data_set(self.site, plan, approval.document.data_set)
        in_plan = 1 <= request.round <= plan.privacy.rounds
        if not (in_plan and 1 <= request.attempt <= plan.stage_of(request.round).max_attempts):
            raise PlanChanged(f"round {request.round}, attempt {request.attempt} is not in the plan")
        return plan, approval.document.data_set

    def _check_again(self, request: Request, digest: str, coordinator: str) -> None:
        """Before work that has waited begins: the plan holds still, and the attempt was not answered meanwhile.

        Raises:
            NotApproved, PlanChanged, UnderstatedClaim: as when it was asked for.
            ReplayedAttempt: the site's ledger has it by now.
        """
        plan, _ = self._approved_plan(request, digest, coordinator)
        with Ledger.open(self.site.ledger) as ledger:
            _refuse_replay(ledger, plan, request)

    def _keep_pending(self, request: Request) -> None:
        """Keep a plan for a person to look at, if there is room; the request is refused in any case."""
        try:
            keep_pending(self.site, request.plan, request.signature)
        except (FolderError, NotApproved) as error:
            self.site.log(f"a plan was not kept: {error}")

    def _free_expired(self) -> None:
        """Free what approvals whose time is over have not charged; the request is refused in any case."""
        try:
            free_expired(self.site, LedgerBooks(self.site.ledger), self._now())
        except (FolderError, Refused) as error:
            self.site.log(f"the budget of expired approvals is not freed yet: {error}")


def _on_wire(vector: MaskedVector | None) -> Words | None:
    """A vector as it travels: 4 bytes a word, or the low 3."""
    if vector is None or vector.wire_bits == 32:
        return None if vector is None else vector.words
    return pack24(vector.words)


def _refuse_unreserved(ledger: Ledger, digest: str, site: str) -> None:
    """An approval alone is not enough: what a clock that was ahead took for expired may have been given back.

    Raises:
        NotApproved: the plan holds no reservation in the site's ledger.
    """
    if not holds(ledger, digest):
        raise NotApproved(
            f"plan {digest[:8]} holds no reservation at {site}: what it had not charged was given back, or the ledger "
            "is another; where it goes on, its operator receives and approves it once more"
        )


def _refuse_replay(ledger: Ledger, plan: Plan, request: Request) -> None:
    """Each (study, round, attempt) is answered once; at p = 1 with free survivor lists each round once (PRIVACY 12).

    Raises:
        ReplayedAttempt: the site's ledger has it already.
    """
    for charge in ledger.charges(plan.digest):
        again = charge.round == request.round
        if again and charge.attempt == request.attempt:
            raise ReplayedAttempt(f"round {request.round}, attempt {request.attempt} was answered before")
        if again and plan.stage_of(request.round).once_per_round:
            raise ReplayedAttempt(
                f"round {request.round} was answered in attempt {charge.attempt}; with sampling rate 1 and free "
                "survivor lists the rows repeat, and two sums of different sites would reveal one site: the study "
                "must be planned anew"
            )
