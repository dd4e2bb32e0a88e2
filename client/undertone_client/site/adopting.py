"""After a restore whose newest copies are gone for good: the files that are there become the newest."""

from undertone.core.durable import exclusively
from undertone_client.site import tombstones, unit_index
from undertone_client.site.datasets import FOLDER
from undertone_client.site.folder import SiteDir
from undertone_client.site.newest import adopt


def adopt_files(site: SiteDir) -> list[str]:
    """Enter each index, and the tombstones, as they are now; names those that the ledger did not know so.

    Whoever was withdrawn, and what joined a data set, after these versions must be withdrawn and updated again.

    Raises:
        FolderError: a file is damaged, or not this node's.
    """
    folder = site.folder / FOLDER
    with exclusively(folder):
        there = [(path, unit_index.domain_of(path.stem)) for path in sorted(folder.glob("*.index"))]
        news = [path.name for path, domain in there if adopt(site, path, domain)]
        return [*news, tombstones.path_of(site).name] if tombstones.adopt_tombstones(site) else news
