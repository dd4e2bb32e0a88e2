"""What a simulation decides for its sites, all of which are its own: keys, policy, data set and approval."""

from collections.abc import Iterable
from pathlib import Path

from undertone.core.clock import utc_now
from undertone.core.federation import Federation
from undertone.core.keys import public_hex
from undertone.data.records import RecordTable
from undertone.models.pinned import files_digest
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
from undertone_server.run_folder import RunFolder

_COORDINATOR, _DATA_SET, _OPERATOR = "simulation", "data", "undertone simulate"


def federate(run: RunFolder, folders: Iterable[Path]) -> Federation:
    """Sign a manifest of the sites' public keys and let each site pin it: in a simulation all sites are ours.

    Args:
        run: the coordinator's RUN, which keeps the manifest.
        folders: each site's SITE_DIR.
    """
    sites = [SiteDir(folder) for folder in folders]
    keys = {site.config.site: public_hex(site.identity()) for site in sites}
    federation = Federation(run.plan().study, public_hex(run.key()), keys)
    signature = run.keep_federation(federation)
    for site in sites:
        site.join(site.policy.name_of(federation.coordinator) or _COORDINATOR, federation, signature)
    return federation


def narrowest_policy(plan: Plan, coordinator: str) -> Policy:
    """The policy of a simulated site: this plan is allowed, and nothing that asks for more.

    Args:
        plan: of the simulation.
        coordinator: the public key of its coordinator.
    """
    central, patients = plan.privacy.noise == "central", plan.privacy.unit == "patient"
    secure = plan.aggregation.mode == "secagg"
    return Policy(
        coordinators={_COORDINATOR: coordinator},
        methods=[plan.method.name],
        models=[files_digest(plan.model.files)],
        noise=[plan.privacy.noise],
        largest_sampling_rate=plan.privacy.sampling_rate if central else None,
        largest_rounds=plan.privacy.max_attempts if central else None,
        fewest_sites=plan.quorum,
        fewest_patients=sum(plan.cohort.units.values()) if patients else 0,
        fewest_honest_shares=plan.noise_shares if secure else None,
        allow_free_rosters=plan.free_rosters,
        allow_plain=not secure,
        longest_approval_days=LONGEST_DAYS,
    )


def give_data_set(site: SiteDir, plan: Plan, table: RecordTable, *, ids_as_written: bool) -> DataSet:
    """Give a simulated site its one data set, with a cap that is what the plan takes.

    Its images were checked for the whole folder, and its public figure is the plan's.

    Args:
        site: of the simulation.
        plan: of the simulation.
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
        publish=plan.cohort.units[site.config.site],
        epsilon=budget.price(plan),
        delta=plan.privacy.delta,
    )
    enrol(site, data, table, budget)
    return data


def approve_simulated(site: SiteDir, plan: Plan, signature: str) -> None:
    """Approve a plan at a simulated site, as its operator would who looks at nothing.

    Bad records were named for the whole folder; from here on one is a zero row (PRIVACY 17).

    Args:
        site: with its data set.
        plan: of the simulation.
        signature: its coordinator's.
    """
    now, books = utc_now(), LedgerBooks(site.ledger)
    digest = keep_pending(site, plan.as_bytes(), signature)
    proposal = propose(site, digest, _DATA_SET, _OPERATOR, None, books, now)
    approve(site, proposal, books, now, say=lambda _line: None)
