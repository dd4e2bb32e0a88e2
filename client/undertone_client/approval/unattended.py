"""What a SITE_DIR gets that nobody looks after: those of a simulation and of a rehearsal, which hold their own images.

A hospital's SITE_DIR gets all of this from its operator.
"""

from collections.abc import Sequence
from pathlib import Path

from undertone.core.clock import utc_now
from undertone.data.records import RecordTable
from undertone.models.pinned import files_digest
from undertone.privacy.ledger import Ledger, Receipt
from undertone.study.plan import Plan
from undertone_client.approval.approving import approve
from undertone_client.approval.books import LedgerBooks
from undertone_client.approval.pending import keep_pending
from undertone_client.approval.proposing import propose
from undertone_client.site import budget
from undertone_client.site.datasets import DataSet, new_data_set
from undertone_client.site.enrol import enrol
from undertone_client.site.folder import SiteDir
from undertone_client.site.policy import LONGEST_DAYS, Policy

_DATA_SET = "data"


def narrowest_policy(plan: Plan, coordinator: str, key: str) -> Policy:
    """A policy under which this plan is allowed, and nothing that asks for more.

    Args:
        plan: the one that the site is for.
        coordinator: a name for its coordinator.
        key: the coordinator's public key.
    """
    central, patients = plan.privacy.noise == "central", plan.privacy.unit == "patient"
    secure = plan.aggregation.mode == "secagg"
    return Policy(
        coordinators={coordinator: key},
        methods=[plan.method.name],
        models=[files_digest(plan.model.files)],
        noise=[plan.privacy.noise],
        largest_sampling_rate=max(stage.sampling_rate for stage in plan.stages) if central else None,
        largest_rounds=plan.privacy.max_attempts if central else None,
        fewest_sites=plan.quorum,
        fewest_patients=sum(plan.patients.values()) if patients else 0,
        fewest_honest_shares=plan.noise_shares if secure else None,
        allow_free_rosters=plan.free_rosters,
        allow_plain=not secure,
        allow_filled_in_figures=any(
            one.cohort.units_origin != "published" for one in (plan, plan.ancestor) if one is not None
        ),
        longest_approval_days=LONGEST_DAYS,
    )


def give_data_set(site: SiteDir, plan: Plan, table: RecordTable, *, ids_as_written: bool) -> DataSet:
    """Give a site its one data set, with a cap that is what the plan takes, and what its ancestor took before.

    Its images are good, and its public figure is the plan's.

    Args:
        site: without a data set.
        plan: the one that the site is for.
        table: the site's records, which its metadata.csv lists.
        ids_as_written: whether unit ids that look alike are different people.

    Raises:
        InputError: no cap holds the plan.
    """
    data = new_data_set(
        name=_DATA_SET,
        folder=str(table.root),
        metadata="metadata.csv",
        unit=plan.privacy.unit,
        unit_column=plan.data.unit_column,
        ids_as_written=ids_as_written,
        publish=plan.patients[site.config.site],
        epsilon=budget.price(plan, before=plan.ancestor),
        delta=plan.privacy.delta,
    )
    enrol(site, data, table, budget)
    return data


def carry_over(site: SiteDir, plan: Plan, charges: Sequence[Receipt]) -> None:
    """Enter what an earlier simulation charged this site's data set for the plan's ancestor, and that it has ended.

    Args:
        site: with its data set, on which nothing has drawn.
        plan: that starts from the ancestor's release.
        charges: of the ancestor, as the ledger of that simulation's site has them.
    """
    if plan.ancestor is not None:
        with Ledger.open(site.ledger) as ledger:
            budget.carry_over(ledger, plan.ancestor, _DATA_SET, charges)


def approve_unattended(site: SiteDir, plan: Plan, signature: str, operator: str, start: Path | None = None) -> None:
    """Approve a plan, as an operator would who looks at nothing.

    Bad records were named before; from here on one is a zero row (PRIVACY 17).

    Args:
        site: with its data set.
        plan: the one that the site is for.
        signature: its coordinator's.
        operator: what the audit log names as the person.
        start: the folder of the release that the plan starts from, where it does.
    """
    now, books = utc_now(), LedgerBooks(site.ledger)
    digest = keep_pending(site, plan.as_bytes(), signature)
    proposal = propose(site, digest, _DATA_SET, operator, None, books, now, start)
    approve(site, proposal, books, now, say=lambda _line: None)
