"""What a simulation decides for its sites, all of which are its own: their keys, and who the others are."""

from collections.abc import Iterable
from pathlib import Path

from undertone.core.federation import Federation
from undertone.core.keys import public_hex
from undertone_client.site.folder import SiteDir
from undertone_server.run_folder import RunFolder

COORDINATOR, OPERATOR = "simulation", "undertone simulate"


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
        site.join(site.policy.name_of(federation.coordinator) or COORDINATOR, federation, signature)
    return federation
