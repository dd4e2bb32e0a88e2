"""A release as a start: verified and pinned by whoever plans; verified and held against the pins by all others."""

from pathlib import Path

from undertone.core.bounds import MANIFEST_BYTES, PLAN_BYTES, SIGNATURE_BYTES
from undertone.core.canonical import sha256_hex
from undertone.core.durable import read_bytes, storage_errors, write_durable
from undertone.errors import NotVerified, UnfitStart
from undertone.release.manifest import MANIFEST, read_part
from undertone.release.verify import Verified, verify
from undertone.study.plan import Plan
from undertone.study.schema import Study
from undertone.study.start import START_IMAGES, START_STEPS, PlannedStart


def start_of(study: Study) -> PlannedStart | None:
    """The release that a study starts from, verified and pinned; None where it starts from the base.

    Raises:
        UnfitStart: it does not verify.
        FolderError: there is no such folder.
    """
    wanted = study.model
    if wanted.start is None:
        return None
    return pinned_start(Path(wanted.start), wanted.start_images or START_IMAGES, wanted.start_steps or START_STEPS)


def pinned_start(folder: Path, images: int = START_IMAGES, steps: int = START_STEPS) -> PlannedStart:
    """As `start_of`, of a release folder."""
    manifest = _manifest(folder)
    found = _verified(folder, None)
    return PlannedStart(
        manifest=manifest,
        coordinator=found.coordinator,
        plan=read_part(folder, "plan.json", PLAN_BYTES).decode(),
        signature=bytes.fromhex(read_part(folder, "plan.sig", SIGNATURE_BYTES).decode()).hex(),
        images=images,
        steps=steps,
    )


def check_start(plan: Plan, folder: Path) -> Verified:
    """Insist that a folder holds the very release that a plan starts from, and that it verifies.

    Args:
        plan: with a start.
        folder: of a release.

    Raises:
        UnfitStart: it is another, does not verify, or the plan starts from the base.
        FolderError: there is no such folder.
    """
    start = plan.start
    if start is None:
        raise UnfitStart(f"plan {plan.digest[:8]} starts from its base; it needs no release")
    manifest = _manifest(folder)
    if manifest != start.manifest:
        raise UnfitStart(
            f"{folder} is another release (manifest {manifest[:8]}) than plan {plan.digest[:8]} starts from (manifest "
            f"{start.manifest[:8]}); ask the coordinator for that one"
        )
    found = _verified(folder, start.coordinator)
    if read_part(folder, "plan.json", PLAN_BYTES) != start.plan.encode():
        raise UnfitStart(f"plan {plan.digest[:8]} says that {folder} had another plan than it has")
    return found


def copy_start(plan: Plan, folder: Path | None, to: Path) -> None:
    """Copy the release that a plan starts from to a folder that does not exist yet.

    Raises:
        UnfitStart: no folder was named, or it holds another release.
        FolderError: it cannot be read or written.
    """
    if folder is None:
        raise UnfitStart(f"plan {plan.digest[:8]} starts from a release; name its folder")
    check_start(plan, folder)
    with storage_errors(to):
        to.mkdir()
        for path in sorted(folder.iterdir()):
            write_durable(to / path.name, read_bytes(path))
    check_start(plan, to)


def _manifest(folder: Path) -> str:
    try:
        return sha256_hex(read_part(folder, MANIFEST, MANIFEST_BYTES))
    except NotVerified as error:
        raise UnfitStart(f"{folder} is no release that a study could start from: {error}") from None


def _verified(folder: Path, coordinator: str | None) -> Verified:
    try:
        return verify(folder, coordinator)
    except NotVerified as error:
        raise UnfitStart(f"{folder} does not verify, so no study starts from it: {error}") from None
