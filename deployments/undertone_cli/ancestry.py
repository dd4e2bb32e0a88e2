"""A simulation that starts from the release of another: its sites are those of that one, and were charged there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from undertone.core.progress import reporter
from undertone.data.identical import with_digests
from undertone.data.records import RecordTable
from undertone.errors import AncestorNotCharged, DataError
from undertone.privacy.ledger import Ledger, Receipt
from undertone.study.plan import Plan
from undertone_cli.split import SiteData
from undertone_client.registration.stored import registered
from undertone_client.site.folder import SiteDir


def earlier_charges(plan: Plan, start: Path | None, shares: Mapping[str, SiteData]) -> dict[str, Sequence[Receipt]]:
    """What the ledgers of an ancestor's simulated sites charge for it, by site; empty without a start.

    A site that is not on the ancestor's roster has none.

    Args:
        plan: of the simulation that is about to begin.
        start: the folder of the release that it starts from.
        shares: who holds what in it.

    Raises:
        AncestorNotCharged: the release lies in no RUN of a simulation, so nothing is known of its sites.
        DataError: a site holds other images, or other patients' ones, than it held there.
    """
    ancestor = plan.ancestor
    if ancestor is None or start is None:
        return {}
    sites = start.resolve().parent / "sites"
    both = [site for site in shares if site in ancestor.cohort.units]
    lacking = [site for site in both if not (sites / site / "ledger.sqlite").is_file()]
    if lacking:
        raise AncestorNotCharged(
            f"{start} was made with the images of {', '.join(lacking)}, and no folder of theirs lies in {sites}: a "
            "simulation that starts from a release goes on with what its sites were charged. Say model.start = "
            f"RUN/{start.name} in the RUN of the simulation that made it, or simulate {ancestor.study} here first"
        )
    return {site: _of_site(SiteDir(sites / site), ancestor, shares[site].training) for site in both}


def _of_site(site: SiteDir, ancestor: Plan, table: RecordTable) -> Sequence[Receipt]:
    """The charges of one site for its ancestor, once it holds now what it held then."""
    then, name = registered(site, ancestor), site.config.site
    with reporter().task(f"{name}: comparing files with those of {ancestor.study}", len(table.records)) as progress:
        now = with_digests(table, progress)
    if then is None or _held(then) != _held(now):
        raise DataError(
            f"{name} holds other images, or another part of them, than in the simulation of {ancestor.study}: what it "
            "was charged there would be of other people. Use the same --data, --split-by or --sites, and --holdout, or "
            f"simulate {ancestor.study} anew on these"
        )
    with Ledger.open(site.ledger, read_only=True) as ledger:
        return ledger.charges(ancestor.digest)


def _held(table: RecordTable) -> set[tuple[str, str]]:
    """Whose image has which bytes."""
    return {(record.unit, record.sha256) for record in table.records}
