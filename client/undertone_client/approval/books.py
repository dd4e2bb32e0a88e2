"""What an approval asks of the site's ledger, and the ledger that answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone_client.site import budget
from undertone_client.site.datasets import DataSet


@dataclass(frozen=True)
class Standing:
    """What is gone of a data set's budget; epsilons at the cap's delta, which do not add up.

    Attributes:
        spent: by all charges.
        committed: by all charges, and by what approved plans may still charge.
        left: what one more plan may claim by RDP.
    """

    spent: float
    committed: float
    left: float


class Books(Protocol):
    """What an approval asks of the site's ledger."""

    def price(self, plan: Plan, data: DataSet) -> float:
        """The epsilon of a cap that the plan takes alone, by RDP, at the cap's delta."""

    def standing(self, data: DataSet, plan: Plan | None = None, *, reserved: bool = True) -> Standing:
        """The budget of a data set; with `plan` as it is with that plan's reservation, or without it.

        Raises:
            BudgetExceeded: the plan does not fit.
        """

    def reserve(self, plan: Plan, data_set: str) -> None:
        """Reserve all that the plan may charge, durably; a reservation that it holds already stays as it is.

        Raises:
            BudgetExceeded: it does not fit.
        """

    def holds(self, digest: str) -> bool:
        """Whether a plan has a reservation that was not given back."""

    def charged(self, digest: str) -> frozenset[int]:
        """The rounds of a plan that the ledger charges, whatever became of the plan."""

    def free(self, digest: str, reason: str) -> bool:
        """Give back what a plan has not charged, durably; a second time changes nothing, and is False.

        Raises:
            NotApproved: it never reserved anything.
        """


@dataclass(frozen=True)
class LedgerBooks:
    """The books of ledger.sqlite at `path`, which is opened for each call."""

    path: Path

    def price(self, plan: Plan, data: DataSet) -> float:
        """As `Books.price`."""
        return budget.price(plan, data.delta)

    def standing(self, data: DataSet, plan: Plan | None = None, *, reserved: bool = True) -> Standing:
        """As `Books.standing`."""
        with Ledger.open(self.path, read_only=True) as ledger:
            found = budget.Budget.of(ledger, data, plan, reserved=reserved)
        return Standing(found.spent, found.committed, found.left)

    def reserve(self, plan: Plan, data_set: str) -> None:
        """As `Books.reserve`."""
        with Ledger.open(self.path) as ledger:
            budget.reserve(ledger, plan, data_set)

    def holds(self, digest: str) -> bool:
        """As `Books.holds`."""
        with Ledger.open(self.path, read_only=True) as ledger:
            return budget.holds(ledger, digest)

    def charged(self, digest: str) -> frozenset[int]:
        """As `Books.charged`."""
        with Ledger.open(self.path, read_only=True) as ledger:
            return frozenset(charge.round for charge in ledger.charges(digest))

    def free(self, digest: str, reason: str) -> bool:
        """As `Books.free`."""
        with Ledger.open(self.path) as ledger:
            return budget.free(ledger, digest, reason)
