"""Which attempt: what the gate, the charge and the round loop need of it, without the sites that answer it."""

from dataclasses import dataclass

from undertone.privacy.ledger import Ledger, Receipt
from undertone.study.plan import Plan
from undertone.study.stage import Stage
from undertone_server.run_folder import RunFolder


@dataclass(frozen=True)
class AttemptRef:
    """Attempt `number` at round `round` of a plan: where it is charged, and where it becomes durable."""

    plan: Plan
    ledger: Ledger
    run: RunFolder
    round: int
    number: int

    @property
    def stage(self) -> Stage:
        """What a round of this kind is checked against (PRIVACY 25)."""
        return self.plan.stage_of(self.round)

    def receipt(self) -> Receipt | None:
        """The receipt of this attempt, if it was charged."""
        return self.ledger.receipt(self.plan.digest, self.round, self.number)
