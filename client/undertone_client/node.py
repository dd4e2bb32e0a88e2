"""The node: everything a hospital's side decides, in one class (DESIGN 5, PRIVACY 2-6, 12, 17).

`Node.handle` answers a request or refuses it. All state is in SITE_DIR; the transport around it can
be a function call, a Flower ClientApp or a socket.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone import PROTOCOL
from undertone.errors import (
    BudgetExceeded,
    NotApproved,
    PlanChanged,
    ProtocolError,
    ReplayedAttempt,
)
from undertone.failpoints import reached
from undertone.keys import PLAN_DOMAIN, check_signature
from undertone.messages import Reply, Request
from undertone.package import package_sha256
from undertone.plan import Plan
from undertone.privacy.entropy import Entropy, OsEntropy
from undertone.privacy.ledger import Ledger, commit_to_sum
from undertone.secagg.plain import mask
from undertone.stages import MaskedVector
from undertone_client.contribution import site_total
from undertone_client.preparing import Preparation, state_sha256
from undertone_client.site import SiteDir
from undertone_client.state import Attempt, NodeState

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
                Preparation(self.site, plan, _attempt(plan, request), state, memory, self._entropy).run()
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

    def _contribute(
        self, plan: Plan, request: Request, state: NDArray[np.float32], memory: NodeState, ledger: Ledger
    ) -> MaskedVector:
        """Clip, quantise, sum, clamp, mask; charge durably; only then answer (PRIVACY 4, 12)."""
        attempt = _attempt(plan, request)
        masked = mask(site_total(plan, attempt, state_sha256(state), memory))
        # The site's own secret is the salt: a plain hash of a sum could be tested by guessing one unit.
        commitment = commit_to_sum(masked.words.astype(np.int64), self.site.secret())
        once = plan.privacy.sampling_rate == 1
        reached("node/before charge")
        ledger.charge(*attempt, plan.event, commitment, plan.privacy.max_attempts, once_per_round=once)
        reached("node/charge durable")
        if not self.site.config.keep_rows:
            memory.forget(attempt)
        reached("node/before answer")
        return masked


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
