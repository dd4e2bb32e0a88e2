"""The round loop: the algorithm of docs/ARCHITECTURE.md, each step durable before the next (PRIVACY 11)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.canonical import Json
from undertone.errors import AttemptVoid, BudgetExceeded
from undertone.failpoints import reached
from undertone.methods.protocol import Method
from undertone.plan import Plan
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger
from undertone.progress import reporter
from undertone.stages import NoisedSum, Sum
from undertone_server import plain_round, secure_round
from undertone_server.attempt import Attempt
from undertone_server.gate import charge_opening, pass_gate, pass_shared, reopen
from undertone_server.gathering import BRIEF, Patience
from undertone_server.run import RunFolder
from undertone_server.sites import Sites
from undertone_server.telemetry import Telemetry
from undertone_server.update import update

SALT_BYTES = 32


@dataclass
class Coordinator:
    """One study in progress: the plan, the method, the sites, and where things become durable."""

    plan: Plan
    method: Method
    run: RunFolder
    sites: Sites
    ledger: Ledger
    telemetry: Telemetry
    entropy: Entropy
    patience: Patience = BRIEF

    def run_rounds(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the initial public state to the last; goes on where an earlier process stopped.

        A state begins with w [d], which is all that sites get; behind it lies what the method's step remembers.
        """
        rounds = self.plan.privacy.rounds
        with reporter().task(f"rounds, epsilon {self.plan.privacy.epsilon:.4g} in all", rounds) as progress:
            for round_ in range(1, rounds + 1):
                state = self._round(round_, state)
                progress(1)
        return state

    def _round(self, round_: int, state: NDArray[np.float32]) -> NDArray[np.float32]:
        noised = reopen(self.plan, self.ledger, self.run, round_)
        kept = self.run.kept_state(round_)
        if noised is not None and kept is not None:
            return kept
        if noised is None:
            noised = self._noised_sum(round_, state)
        updated = update(self.method, self.plan, state, noised)
        reached("rounds/updated")
        self.run.keep_state(round_, updated)
        reached("rounds/state durable")
        self.telemetry.round_done(round_, len(self.ledger.charges(self.plan.digest)), self._w(updated))
        return updated

    def _noised_sum(self, round_: int, state: NDArray[np.float32]) -> NoisedSum:
        """A new V, by the party that the plan lets add the noise."""
        asked = self.run.attempts_asked(round_)
        if self.plan.privacy.noise == "distributed":
            return self._noised_by_sites(round_, self._next_attempt(round_, asked), state)
        return self._noised_here(round_, asked, state)

    def _noised_here(self, round_: int, asked: list[int], state: NDArray[np.float32]) -> NoisedSum:
        """Central noise: from a Q that survived a crash, or from the sites."""
        kept = self.run.kept_sum(round_, asked[-1], self.plan.sensitivity) if asked else None
        if kept is not None:
            total, salt, attempt = *kept, asked[-1]
        else:
            attempt, total = self._answered(round_, asked, state)
            salt = self.entropy.bytes(SALT_BYTES)
            self.run.keep_sum(round_, attempt, total, salt)
        return pass_gate(total, salt, self.plan, self.ledger, self.run, round_, attempt, self.entropy)

    def _answered(self, round_: int, asked: list[int], state: NDArray[np.float32]) -> tuple[int, Sum]:
        """The next attempt and its Q; one that is void is followed by another while the plan has attempts left.

        Raises:
            AttemptVoid: the plan has none left.
        """
        while True:
            attempt = self._next_attempt(round_, asked)
            try:
                return attempt, self._ask_sites(round_, attempt, state)
            except AttemptVoid as void:
                reporter().line(f"round {round_}, attempt {attempt} is void: {void}")
                asked = self.run.attempts_asked(round_)
                if self._attempts_used(round_) >= self.plan.privacy.max_attempts:
                    self._note_voids(round_, asked)
                    raise

    def _noised_by_sites(self, round_: int, attempt: int, state: NDArray[np.float32]) -> NoisedSum:
        """Distributed noise: charged before the sum is opened, which is then V itself."""
        total = secure_round.collect_shared(
            self._attempt(round_, attempt, state),
            self.run.federation(),
            lambda confirmed: charge_opening(confirmed, self.plan, self.ledger, round_, attempt),
        )
        self._say_who_is_missing(round_)
        receipt = self.ledger.receipt(self.plan.digest, round_, attempt)
        return pass_shared(total, receipt, self.plan, self.run, attempt)

    def _note_voids(self, round_: int, asked: list[int]) -> None:
        """Each attempt that was asked for and left no Q stands in the ledger once, however often we come by."""
        noted = [entry.body for entry in self.ledger.entries() if entry.kind == "void"]
        for attempt in asked:
            void: dict[str, Json] = {"digest": self.plan.digest, "round": round_, "attempt": attempt}
            if void not in noted:
                self.ledger.note("void", void)
                reached("rounds/void noted")

    def _next_attempt(self, round_: int, asked: list[int]) -> int:
        """The attempt's number; one that was asked for and left no Q is void and counts.

        Raises:
            BudgetExceeded: the plan allows no more.
        """
        self._note_voids(round_, asked)
        if self._attempts_used(round_) >= self.plan.privacy.max_attempts:
            raise BudgetExceeded(
                f"round {round_}: the plan's {self.plan.privacy.max_attempts} attempts are used up (one that was "
                "interrupted while sites answered counts); plan the study anew"
            )
        return asked[-1] + 1 if asked else 1

    def _attempts_used(self, round_: int) -> int:
        """How many attempts sites were asked for, in this round and those before."""
        return sum(len(self.run.attempts_asked(past)) for past in range(1, round_ + 1))

    def _ask_sites(self, round_: int, attempt: int, state: NDArray[np.float32]) -> Sum:
        """Q of those that answered; who is missing is said."""
        one = self._attempt(round_, attempt, state)
        plain = self.plan.aggregation.mode == "plain"
        total = plain_round.collect(one) if plain else secure_round.collect(one, self.run.federation(), self.patience)
        reached("rounds/answered")
        self._say_who_is_missing(round_)
        return total

    def _attempt(self, round_: int, attempt: int, state: NDArray[np.float32]) -> Attempt:
        if self.sites.missing:
            self.sites.find()  # whoever was away in an earlier round may be back
        return Attempt(self.plan, self.run, self.sites, self.ledger, round_, attempt, self._w(state))

    def _w(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        return state[: self.plan.method.dimension]

    def _say_who_is_missing(self, round_: int) -> None:
        for site, reason in self.sites.missing.items():
            reporter().line(f"round {round_}: {site} is missing: {reason}")
