"""The node: everything a hospital's side decides, in one class (PRIVACY 2-6, 12, 17).

`Node.handle` answers a request or refuses it. All state is in SITE_DIR; the transport around it can
be a function call, a Flower ClientApp or a socket.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from undertone import PROTOCOL
from undertone.core.canonical import sha256_hex
from undertone.core.code_digest import check_package
from undertone.core.keys import PLAN_DOMAIN, check_signature
from undertone.errors import (
    BudgetExceeded,
    LedgerRestored,
    NotApproved,
    PlanChanged,
    ProtocolError,
    ReplayedAttempt,
    SecureAggregationError,
    TooFewSites,
    UnderstatedClaim,
)
from undertone.privacy.entropy import Entropy, OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import MaskedVector
from undertone.secagg.prg import pack24
from undertone.study.claim import check_claim
from undertone.study.plan import Plan
from undertone.wire.hello import prove
from undertone.wire.messages import LARGEST_PLAN, SITE_FAULT, Reply, Request, Words
from undertone_client.round.attempt import Answer, SiteAttempt
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.folder import SiteDir
from undertone_client.site.rollback import ledger_head_of, refuse_older

# What a coordinator is told: facts of plan and protocol. Everything else stays in node.log.
_TOLD = (
    BudgetExceeded,
    LedgerRestored,
    NotApproved,
    PlanChanged,
    ProtocolError,
    ReplayedAttempt,
    SecureAggregationError,
    TooFewSites,
    UnderstatedClaim,
)


class Node:
    """One site's node. Construct it where its SITE_DIR is; it keeps nothing in memory between requests."""

    def __init__(self, folder: Path, entropy: Entropy | None = None) -> None:
        self.site = SiteDir(folder)
        self._entropy = entropy or OsEntropy()

    def handle(self, request: Request) -> Reply:
        """Answer or refuse; what a refusal says never depends on a record (PRIVACY 17)."""
        log = self.site.log_stranger
        try:
            signed = self._signed_digest(request)
            log = self.site.log
            answer, ledger_head = self._answer(request, signed)
        except _TOLD as error:
            blamed = error.blamed if isinstance(error, SecureAggregationError) else ""
            return replace(self._refusal(type(error).__name__, str(error), log), blamed=blamed)
        except Exception as error:  # noqa: BLE001 - its text may name a record: it stays in node.log
            log(f"{request.kind} failed: {type(error).__name__}: {error}")
            return self._refusal(SITE_FAULT, "the site cannot take part now; its operator finds why in node.log", log)
        return Reply(
            self.site.config.site, PROTOCOL, words=_on_wire(answer.vector), body=answer.body, ledger_head=ledger_head
        )

    def _refusal(self, code: str, message: str, log: Callable[[str], None]) -> Reply:
        log(f"refused: {code}: {message}")
        return Reply(self.site.config.site, PROTOCOL, error=code, message=message)

    def _signed_digest(self, request: Request) -> str:
        """The digest of the request's plan, signed by the coordinator that this site knows; "" with hello.

        Anyone who reaches the node can send what is looked at here: a length, a hash and a signature, nothing else.

        Raises:
            ProtocolError: another protocol, or a plan longer than any.
            NotApproved: the signature does not hold.
        """
        if request.protocol != PROTOCOL:
            raise ProtocolError(f"the coordinator speaks protocol {request.protocol}, this node protocol {PROTOCOL}")
        if request.kind == "hello":
            return ""
        if len(request.plan) > LARGEST_PLAN:
            raise ProtocolError(f"a plan of {len(request.plan)} bytes is not read; {LARGEST_PLAN} are enough")
        digest = sha256_hex(request.plan)
        check_signature(self.site.policy.coordinator, PLAN_DOMAIN, digest, request.signature)
        return digest

    def _answer(self, request: Request, signed: str) -> tuple[Answer, str]:
        """The answer, and this site's ledger head."""
        if request.kind == "hello":
            return Answer(body=prove(self.site.identity(), self.site.config.site, request.body)), ""
        plan, secret = self._approved_plan(request, signed), self.site.secret()
        with Ledger.open(self.site.ledger) as ledger, AttemptStore(self.site.attempt_store) as store:
            refuse_older(ledger, secret, request.ledger_heads.get(self.site.config.site, ""))
            if request.kind in ("prepare", "plain_input", "masked_input"):
                _refuse_replay(ledger, plan, request)
            attempt = SiteAttempt(self.site, plan, request, ledger, store, self._entropy)
            answer = attempt.plain() if plan.aggregation.mode == "plain" else attempt.secure()
            return answer, ledger_head_of(secret, ledger.head)

    def _approved_plan(self, request: Request, digest: str) -> Plan:
        """The request's plan of this signed digest, once everything about it is what this site approved.

        Raises:
            NotApproved, PlanChanged: names what differs.
            UnderstatedClaim: it claims less than it costs.
        """
        policy = self.site.policy
        if digest not in policy.approved:
            raise NotApproved(f"plan {digest[:8]} is not approved at {self.site.config.site}")
        plan = Plan.from_bytes(request.plan)
        plan.check_version()
        check_package(plan.package_sha256)
        self.site.check_model(plan.model.files)
        if self.site.config.site not in plan.cohort.units:
            raise NotApproved(f"{self.site.config.site} is not on the roster of plan {plan.digest[:8]}")
        if plan.aggregation.mode == "plain" and not policy.allow_plain:
            raise NotApproved(
                f"{self.site.config.site} allows no plain aggregation, in which the coordinator sees each site's sum"
            )
        if plan.free_rosters and not policy.allow_free_rosters:
            raise NotApproved(
                f"{self.site.config.site} allows no free survivor lists (aggregation.rosters), from whose sums a "
                "coordinator that lies can learn the difference"
            )
        if not (1 <= request.round <= plan.privacy.rounds and 1 <= request.attempt <= plan.privacy.max_attempts):
            raise PlanChanged(f"round {request.round}, attempt {request.attempt} is not in the plan")
        check_claim(plan)
        return plan


def _on_wire(vector: MaskedVector | None) -> Words | None:
    """A vector as it travels: 4 bytes a word, or the low 3."""
    if vector is None or vector.wire_bits == 32:
        return None if vector is None else vector.words
    return pack24(vector.words)


def _refuse_replay(ledger: Ledger, plan: Plan, request: Request) -> None:
    """Each (study, round, attempt) is answered once; at p = 1 with free survivor lists each round once (PRIVACY 12).

    Raises:
        ReplayedAttempt: the site's ledger has it already.
    """
    for charge in ledger.charges(plan.digest):
        again = charge.round == request.round
        if again and charge.attempt == request.attempt:
            raise ReplayedAttempt(f"round {request.round}, attempt {request.attempt} was answered before")
        if again and plan.once_per_round:
            raise ReplayedAttempt(
                f"round {request.round} was answered in attempt {charge.attempt}; with sampling rate 1 and free "
                "survivor lists the rows repeat, and two sums of different sites would reveal one site: the study "
                "must be planned anew"
            )
