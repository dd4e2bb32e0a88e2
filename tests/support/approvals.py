"""Policies, data sets and approvals that tests begin with, and a site's books in memory."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from undertone.core.clock import utc_now
from undertone.errors import BudgetExceeded, NotApproved
from undertone.models.pinned import files_digest
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone_client.approval.approvals import Approval, ApprovalDocument, keep_approval
from undertone_client.approval.books import Standing
from undertone_client.site.budget import price, register_cap, reserve
from undertone_client.site.datasets import DataSet
from undertone_client.site.enrol import describe_data_set, read_table
from undertone_client.site.folder import SiteDir
from undertone_client.site.policy import Policy

HUB, DATA, OPERATOR = "hub", "data", "A. Operator"
NOON = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
FOR_EVER = date(9999, 12, 31)
CAP = 10.0


def wide_policy(plan: Plan, coordinator: str) -> Policy:
    """A policy that allows the plan, and most others of its method and model; `coordinator` is a public key."""
    return Policy(
        coordinators={HUB: coordinator},
        methods=[plan.method.name],
        models=[files_digest(plan.model.files)],
        noise=["central", "distributed"],
        largest_sampling_rate=1.0,
        largest_rounds=1_000_000,
        fewest_sites=2,
        fewest_patients=0,
        fewest_honest_shares=2,
        allow_free_rosters=True,
        allow_plain=True,
        allow_filled_in_figures=True,
        longest_approval_days=90,
    )


def data_set_for(plan: Plan, site: str, folder: Path) -> DataSet:
    """The data set that a plan counts on at a site."""
    return DataSet(
        name=DATA,
        folder=str(folder),
        unit=plan.privacy.unit,
        unit_column=plan.data.unit_column,
        publish=plan.patients[site],
        epsilon=price(plan),
        delta=plan.privacy.delta,
    )


def give_budget(site: SiteDir, plan: Plan, folder: Path) -> None:
    """The data set, with a cap that is just what the plan takes, and its reservation."""
    data = data_set_for(plan, site.config.site, folder)
    describe_data_set(site, data, read_table(site, data)[0])
    with Ledger.open(site.ledger) as ledger:
        register_cap(ledger, data)
        reserve(ledger, plan, data.name)


def approved(site: SiteDir, plan: Plan, until: date = FOR_EVER, data_set: str = DATA) -> None:
    """Approve a plan whatever it says, without page, budget or questions: what nodes check again is tested so."""
    document = ApprovalDocument(
        site=site.config.site,
        digest=plan.digest,
        coordinator=HUB,
        coordinator_key=site.policy.coordinators[HUB],
        data_set=data_set,
        operator=OPERATOR,
        until=until.isoformat(),
        price=CAP,
        before=Standing(0.0, 0.0, CAP),
        after=Standing(0.0, CAP, 0.0),
        federation=site.policy.federations.get(HUB),
        registered_before=False,
        start=None if plan.start is None else plan.start.manifest,
        page="not shown",
    )
    keep_approval(
        site, Approval(document=document, plan=plan.as_bytes().decode(), approved=f"{utc_now():%Y-%m-%dT%H:%M:%SZ}")
    )


@dataclass
class MemoryBooks:
    """Budgets in memory that add up plain prices, and say in `calls` what was asked of them."""

    cap: float = CAP
    prices: dict[str, float] = field(default_factory=dict)
    reserved: dict[str, float] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    rounds: dict[str, frozenset[int]] = field(default_factory=dict)

    def price(self, plan: Plan, data: DataSet) -> float:
        del data
        return self.prices.get(plan.digest, 1.25)

    def standing(self, data: DataSet, plan: Plan | None = None, *, reserved: bool = True) -> Standing:
        others = sum(value for digest, value in self.reserved.items() if plan is None or digest != plan.digest)
        committed = others + (self.price(plan, data) if plan is not None and reserved else 0.0)
        if committed > self.cap:
            raise BudgetExceeded(f"{committed} is above the cap of {self.cap}")
        return Standing(0.0, committed, self.cap - committed)

    def reserve(self, plan: Plan, data_set: str) -> None:
        self.calls.append(("reserve", plan.digest))
        if sum(self.reserved.values()) + 1.25 > self.cap and plan.digest not in self.reserved:
            raise BudgetExceeded(f"{data_set} has nothing left")
        self.reserved[plan.digest] = self.prices.get(plan.digest, 1.25)

    def holds(self, digest: str) -> bool:
        return digest in self.reserved

    def charged(self, digest: str) -> frozenset[int]:
        return self.rounds.get(digest, frozenset())

    def free(self, digest: str, reason: str) -> bool:
        self.calls.append((reason, digest))
        if ("reserve", digest) not in self.calls:
            raise NotApproved(f"plan {digest[:8]} has reserved nothing")
        return self.reserved.pop(digest, None) is not None
