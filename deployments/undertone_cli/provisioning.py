"""What a simulation decides for its sites, all of which are its own: keys, policy, data set and approval."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from undertone.core.bounds import EPSILON
from undertone.core.federation import Federation
from undertone.core.keys import public_hex
from undertone.models.pinned import files_digest
from undertone.study.plan import Plan
from undertone_client.approval.approvals import Approval, ApprovalDocument, keep_approval, utc_now
from undertone_client.site.datasets import DataSet
from undertone_client.site.folder import SiteDir
from undertone_client.site.policy import LONGEST_DAYS, Policy
from undertone_server.run_folder import RunFolder

_COORDINATOR, _DATA_SET, _OPERATOR = "simulation", "simulated", "undertone simulate"


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
        site.join(federation, signature)
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


def simulated_data_set(plan: Plan, site: str, images: Path) -> DataSet:
    """The data set of a simulated site."""
    return DataSet(
        name=_DATA_SET,
        folder=str(images),
        unit=plan.privacy.unit,
        unit_column=plan.data.unit_column,
        publish=plan.cohort.units[site],
        epsilon=EPSILON,
        delta=plan.privacy.delta,
    )


def approve_simulated(site: SiteDir, plan: Plan) -> None:
    """Approve a plan at a simulated site, in the simulation's own name."""
    now = utc_now()
    document = ApprovalDocument(
        site=site.config.site,
        digest=plan.digest,
        coordinator=_COORDINATOR,
        coordinator_key=site.policy.coordinators[_COORDINATOR],
        data_set=_DATA_SET,
        operator=_OPERATOR,
        until=(now + timedelta(days=LONGEST_DAYS)).date().isoformat(),
        page="",
    )
    approval = Approval(document=document, plan=plan.as_bytes().decode(), approved=f"{now:%Y-%m-%dT%H:%M:%SZ}")
    keep_approval(site, approval)
