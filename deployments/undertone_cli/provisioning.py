"""Making the sites of a simulated study: known to each other by a signed manifest, each with a budget for its plan."""

from collections.abc import Iterable
from pathlib import Path

from undertone.core.federation import Federation
from undertone.core.keys import public_hex
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone_client.site.budget import price, register_cap, reserve
from undertone_client.site.datasets import DataSet
from undertone_client.site.folder import SiteDir
from undertone_server.run_folder import RunFolder

# The one data set of a simulated site.
DATA_SET = "images"


def give_budget(site: SiteDir, plan: Plan) -> None:
    """Register a simulated site's data set with a cap that is what the plan takes, and reserve it for the plan.

    Raises:
        InputError: no cap holds the plan.
    """
    data = DataSet(
        name=DATA_SET,
        folder=site.config.data,
        metadata=site.config.metadata,
        unit=plan.privacy.unit,
        unit_column=plan.data.unit_column,
        ids_as_written=site.config.ids_as_written,
        publish=plan.cohort.units[site.config.site],
        epsilon=price(plan),
        delta=plan.privacy.delta,
    )
    with Ledger.open(site.ledger) as ledger:
        register_cap(ledger, data)
        reserve(ledger, plan, DATA_SET)


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
