"""The round loop: the algorithm of docs/ARCHITECTURE.md, each step durable before the next (PRIVACY 11)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import Json
from undertone.core.failpoints import reached
from undertone.core.progress import reporter
from undertone.errors import AttemptVoid, BudgetExceeded, MechanismViolation
from undertone.methods.protocol import Method, ShardedMethod
from undertone.models.interface import Base
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import Sum
from undertone.study.plan import Plan
from undertone_server.attempt_ref import AttemptRef
from undertone_server.collect import plain_round, secure_round
from undertone_server.collect.attempt import Attempt
from undertone_server.collect.gathering import BRIEF, Patience
from undertone_server.collect.sites import Sites
from undertone_server.collect.waiting import USUAL, Waiting
from undertone_server.gate import charge_unmasking, noised_before, pass_gate, pass_with_noise_shares
from undertone_server.run_folder import RunFolder
from undertone_server.status import tell
from undertone_server.telemetry import Telemetry
from undertone_server.update import update

SALT_BYTES = 32


def no_base() -> Base:
    """Where nobody said how to load one.

    Raises:
        MechanismViolation: always.
    """
    raise MechanismViolation("a step goes through the base, and nobody has said how to load it")


@dataclass
class Coordinator:
    """One study in progress: the plan, the method of each stage, the sites, and where things become durable.

    `base` loads the base, once, for methods that ask it: most need none here.
    """

    plan: Plan
    methods: Sequence[Method]
    run: RunFolder
    sites: Sites
    ledger: Ledger
    telemetry: Telemetry
    entropy: Entropy
    patience: Patience = BRIEF
    patience_at_start: Patience = BRIEF
    waiting: Waiting = USUAL
    base: Callable[[], Base] = no_base

    def run_rounds(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the initial public state to the last; goes on where an earlier process stopped.

        A state begins with what sites get: w, and in some plans what their rows follow from beside it. Behind it lies
        what the method's step remembers.
        """
        rounds = self.plan.privacy.rounds
        with reporter().task(f"rounds, epsilon {self.plan.privacy.epsilon:.4g} in all", rounds) as progress:
            for round_ in range(1, rounds + 1):
                state = self._round(round_, state)
                progress(1)
        return state

    def _round(self, round_: int, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """One round of the mechanism. What an earlier process made durable is used, and never made twice.

        Steps 1 to 4 happen at each node, which the coordinator asks in step 5 (undertone_client/round/attempt.py):

            1. rows       x_u = f(w, records of unit u)
            2. clip       x_u * min(1, C / |x_u|)
            3. quantise   q_u = trunc(s * x_u)
            4. site sum   Q_i = clamp(sum of q_u, -B, B)
        """
        noised = noised_before(self.plan, self.ledger, self.run, round_)
        kept = self.run.kept_state(round_)
        if noised is not None and kept is not None:
            return kept
        if noised is None and self.plan.privacy.noise == "central":
            # 5. secure     Q = sum of Q_i mod 2^b, durable
            attempt, total, salt = self._secure_sum(round_, state)
            # 6. charge     a receipt, durable
            # 7. noise      V = Q + Z, durable; one call with 6, so that Z is drawn from a receipt alone
            noised = pass_gate(attempt, total, salt, self.entropy)
        elif noised is None:
            # 5. to 7. where the sites add the noise: Q + Z is what is opened, so 6, the charge, precedes the unmasking
            attempt = self._next_attempt(round_, state)
            noised_total = secure_round.collect_with_noise_shares(
                attempt, self.run.federation(), lambda signatures: charge_unmasking(attempt, signatures)
            )
            self._say_who_is_missing(round_)
            noised = pass_with_noise_shares(attempt, noised_total, attempt.receipt())
        # 8. update     w <- step(w, V / (s * p * sum of N_i)), durable
        sent = self._sent(round_, state)
        updated = update(self._method(round_), self.plan, round_, state, sent, noised, self.base)
        reached("rounds/updated")
        self.run.keep_state(round_, updated)
        reached("rounds/state durable")
        self.telemetry.round_done(round_, self.ledger.events(self.plan.digest), updated[: self.plan.method.dimension])
        return updated

    def _secure_sum(self, round_: int, state: NDArray[np.float32]) -> tuple[AttemptRef, Sum, bytes]:
        """Step 5: Q of the sites that answer, durable with its salt; or the Q that survived a crash.

        An attempt that is void is followed by another while the plan has attempts left.

        Raises:
            AttemptVoid, BudgetExceeded: the plan has none left.
        """
        asked = self.run.attempts_asked(round_)
        kept = self.run.kept_sum(round_, asked[-1], self.plan.stage_of(round_).sensitivity) if asked else None
        if kept is not None:
            return AttemptRef(self.plan, self.ledger, self.run, round_, asked[-1]), *kept
        while True:
            attempt = self._next_attempt(round_, state)
            try:
                if self.plan.aggregation.mode == "plain":
                    total = plain_round.collect(attempt)
                else:
                    begun = self.run.kept_survivors() is not None
                    patience = self.patience if begun else self.patience_at_start
                    total = secure_round.collect(attempt, self.run.federation(), patience)
                break
            except AttemptVoid as void:
                reporter().line(f"round {round_}, attempt {attempt.number} is void: {void}")
                if self._attempts_used(round_) >= self.plan.stage_of(round_).max_attempts:
                    self._append_voids(round_)
                    raise
        reached("rounds/answered")
        self._say_who_is_missing(round_)
        salt = self.entropy.bytes(SALT_BYTES)
        self.run.keep_sum(round_, attempt.number, total, salt)
        return attempt, total, salt

    def _next_attempt(self, round_: int, state: NDArray[np.float32]) -> Attempt:
        """The next attempt at a round; one that was asked for and left no Q is void and counts.

        Raises:
            BudgetExceeded: the plan allows no more.
        """
        self._append_voids(round_)
        most = self.plan.stage_of(round_).max_attempts
        if self._attempts_used(round_) >= most:
            raise BudgetExceeded(
                f"round {round_}: the plan's {most} attempts are used up (one that was "
                "interrupted while sites answered counts); plan the study anew"
            )
        if self.sites.missing:
            self.sites.find()  # whoever was away in an earlier round may be back
        number = max(self.run.attempts_asked(round_), default=0) + 1
        tell(self.run, "running", self.sites.missing, round_=round_, attempt=number)
        sent = self._sent(round_, state)
        return Attempt(self.plan, self.ledger, self.run, round_, number, self.sites, sent, self.waiting)

    def _append_voids(self, round_: int) -> None:
        """Each attempt that was asked for and left no Q stands in the ledger once, however often we come by."""
        entered = [entry.body for entry in self.ledger.entries() if entry.kind == "void"]
        for attempt in self.run.attempts_asked(round_):
            void: dict[str, Json] = {"digest": self.plan.digest, "round": round_, "attempt": attempt}
            if void not in entered:
                self.ledger.append("void", void)
                reached("rounds/void durable")

    def _attempts_used(self, round_: int) -> int:
        """How many attempts sites were asked for, in this round and those before it in its stage."""
        stage = self.plan.stage_of(round_)
        return sum(len(self.run.attempts_asked(past)) for past in range(stage.rounds.start, round_ + 1))

    def _sent(self, round_: int, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The head of the state; or a query in place of it, made once for a round: sites may have rows at it already.

        Raises:
            MechanismViolation: the query is not as long as the plan says.
        """
        method = self._method(round_)
        if not isinstance(method, ShardedMethod):
            return state[: self.plan.state_size]
        kept = self.run.kept_query(round_)
        if kept is not None:
            return kept
        query = np.asarray(method.query(self.base(), state), dtype=np.float32)
        if query.shape != (self.plan.state_size,):
            raise MechanismViolation(f"a query of {query.shape} in place of {self.plan.state_size} values")
        self.run.keep_query(round_, query)
        return query

    def _method(self, round_: int) -> Method:
        return self.methods[self.plan.stages.index(self.plan.stage_of(round_))]

    def _say_who_is_missing(self, round_: int) -> None:
        for site, reason in self.sites.missing.items():
            reporter().line(f"round {round_}: {site} is missing: {reason}")
