"""SITE_DIR/rehearsal/DIGEST: a SITE_DIR in which a site rehearses one plan of a coordinator that its policy names.

It is made as a simulation's is: a ledger of its own, drawn images, approved at once. Of the site it has the name, the
identity key, the manifest and the device. The site's policy must allow the plan; its ledger and images are not touched.
Rehearsals are bounded: in number, in units and in rounds, so a coordinator can use up little of a site's time and disk.
"""

import shutil
import time
from pathlib import Path

from undertone.core.durable import exclusively, storage_errors, write_durable
from undertone.core.federation_files import federation_files
from undertone.core.keys import public_hex
from undertone.errors import NotApproved
from undertone.models.pinned import check_pins, pin
from undertone.privacy.entropy import Entropy
from undertone.study.plan import Plan
from undertone.study.rehearsal import drawn_units
from undertone_client.approval.approvals import approval_of
from undertone_client.approval.checks import check_asked
from undertone_client.approval.unattended import approve_unattended, give_data_set, narrowest_policy
from undertone_client.rehearsal.drawn import draw_records
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.folder import SiteDir, create_site

FOLDER = "rehearsal"
MOST = 8
_HOUR = 3600.0
_FAILED = ".failed"
_OPERATOR = "rehearsal"


def rehearsal_site(site: SiteDir, plan: Plan, signature: str, coordinator: str, entropy: Entropy) -> Path:
    """The SITE_DIR of a rehearsal, made when its plan is first asked about.

    Args:
        site: the hospital's.
        plan: a rehearsal's, whose signature was checked.
        signature: the coordinator's.
        coordinator: its name in policy.toml.
        entropy: for the secrets of a new SITE_DIR.

    Raises:
        NotApproved: the site's policy does not allow the plan, or too many rehearsals were begun in the last hour.
        PlanChanged, UnderstatedClaim: as for any plan.
        ModelError, FolderError: the base is not here, or nothing can be written.
    """
    check_asked(site, plan)
    place = site.folder / FOLDER
    with storage_errors(place):
        place.mkdir(mode=0o700, exist_ok=True)
    folder = place / plan.digest
    if _is_whole(folder, plan.digest) and not _lags(site, SiteDir(folder), coordinator):
        return folder  # without the lock: the messages of two rehearsals come at once
    with exclusively(place):
        if not _is_whole(folder, plan.digest):
            shutil.rmtree(folder, ignore_errors=True)
            _make_room(place, site.config.site)
            failed = place / f"{time.time_ns()}{_FAILED}"
            write_durable(failed, b"")  # counts, until it is made: a base that fails is not hashed again and again
            _make(site, folder, plan, signature, coordinator, entropy)
            failed.unlink()
        _join(site, SiteDir(folder), coordinator)
    return folder


def _is_whole(folder: Path, digest: str) -> bool:
    """Whether it was made to the end, of which the approval is the last step."""
    return folder.is_dir() and (folder / "node.toml").is_file() and approval_of(SiteDir(folder), digest) is not None


def _make_room(place: Path, name: str) -> None:
    """Remove rehearsals that were begun long ago, the oldest first, where there are as many as there may be.

    One that could not be made counts too.
    """
    begun = sorted((path.stat().st_ctime, path) for path in place.iterdir() if path.is_dir() or path.suffix == _FAILED)
    for then, path in begun[: max(0, len(begun) - MOST + 1)]:
        if time.time() - then < _HOUR:
            raise NotApproved(f"{MOST} rehearsals were begun at {name} in the last hour; try again later")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _make(site: SiteDir, folder: Path, plan: Plan, signature: str, coordinator: str, entropy: Entropy) -> None:
    base = pin(plan.model.base, plan.model.revision)
    check_pins(base, plan.model.files)
    policy = narrowest_policy(plan, coordinator, site.policy.coordinators[coordinator])
    made = create_site(folder, site.config.model_copy(update={"rehearsal": True}), policy, entropy)
    with storage_errors(folder):
        (folder / "identity.key").unlink()
        (folder / "identity.key").symlink_to(Path("..", "..", "identity.key"))  # who it is to the others, however long
    AuditLog(folder).append("site made", key=public_hex(made.identity()))
    table = draw_records(folder, plan, drawn_units(plan, site.config.site), base.image_size)
    give_data_set(made, plan, table, ids_as_written=False)
    _join(site, made, coordinator)
    approve_unattended(SiteDir(folder), plan, signature, _OPERATOR)


def _join(site: SiteDir, rehearsal: SiteDir, coordinator: str) -> None:
    """Let the rehearsal have the manifest that the site has pinned now."""
    if not _lags(site, rehearsal, coordinator):
        return
    signature = federation_files(site.federation_folder(coordinator))[1]
    rehearsal.join(coordinator, site.pinned_federation(coordinator), signature)


def _lags(site: SiteDir, rehearsal: SiteDir, coordinator: str) -> bool:
    """Whether the site has pinned another manifest than the rehearsal."""
    pinned = site.policy.federations.get(coordinator)
    return pinned is not None and rehearsal.policy.federations.get(coordinator) != pinned
