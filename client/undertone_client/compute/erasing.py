"""Withdrawal of a unit and erasure of a study: what a site stops reading, deletes and keeps (PRIVACY 12, 13, 17).

A withdrawn unit's tombstone is durable before anything is deleted, and every reader asks for tombstones; so a death in
between leaves a unit that is not read, and the same command finishes. Ledger entries are never deleted: what was spent
was spent.
"""

from dataclasses import dataclass, replace

from undertone.core.durable import exclusively, storage_errors
from undertone.core.text import shown
from undertone.errors import FolderError
from undertone.privacy.ledger import Ledger
from undertone_client.compute.latent_files import erase_latents, latent_files
from undertone_client.compute.shard_store import erase_shards_of, forget_shards
from undertone_client.registration.stored import Registration, path_of, registrations, rewrite
from undertone_client.registration.units import Meaning, meanings
from undertone_client.site import tombstones
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.datasets import FOLDER
from undertone_client.site.folder import SiteDir

_SHORTEST = 8


@dataclass(frozen=True)
class Withdrawn:
    """What withdrawing a unit did, for the operator alone.

    Attributes:
        meaning: the unit, and the studies that had it registered.
        new: False where its tombstone stood before.
        files: of cached latents in which its records were zeroed.
        rows: of it, in attempts that were not answered yet, that are zero rows now; of its shard, that are made anew.
        sums: finished sums of such attempts; whose rows are in one cannot be told from it.
    """

    meaning: Meaning
    new: bool
    files: int
    rows: int
    sums: int


@dataclass(frozen=True)
class Forgotten:
    """What forgetting a study deleted, and how many charges of it stay in the ledger."""

    registration: Registration
    latents: bool
    attempts: int
    sessions: int
    charges: int


def withdraw_unit(site: SiteDir, name: str, text: str) -> Withdrawn:
    """Never read a unit again: its rows are zero from the next attempt on, and what was made of its records is deleted.

    Raises:
        DataError: the data set never had such a unit.
        InputError: there is no such data set.
        FolderError: something is damaged or cannot be written; say the same command again then.
    """
    with exclusively(site.folder / FOLDER), AttemptStore(site.attempt_store) as store:
        (meaning,) = meanings(site, text, name)
        AuditLog(site.folder).append("unit withdrawn", data_set=name)
        new = tombstones.withdraw(site, meaning.data, meaning.unit)
        files, rows, sums = 0, 0, 0
        for registration, places in meaning.held:
            table = registration.table
            files += erase_latents(site.cache / name, table, places)
            units = sorted({table.records[index].unit for index in places})
            shards = erase_shards_of(site, registration.plan_digest, units)
            more_rows, more_sums = store.withdraw(registration.plan_digest, units, shards)
            rows, sums = rows + more_rows, sums + more_sums
            gone = set(places)
            records = tuple(
                replace(record, columns={}) if index in gone else record for index, record in enumerate(table.records)
            )
            rewrite(site, registration, replace(table, records=records))
    return Withdrawn(meaning, new, files, rows, sums)


def study_called(site: SiteDir, digest: str) -> Registration:
    """The registered study of a digest, or of its beginning.

    Raises:
        FolderError: none is registered here, or several begin like this.
    """
    known = registrations(site)
    found = [item for item in known if item.plan_digest.startswith(digest) and len(digest) >= _SHORTEST]
    if len(found) != 1:
        there = ", ".join(f"{item.plan_digest[:16]} ({shown(item.study)})" for item in known) or "nothing"
        what = "no registered study begins" if not found else "more than one registered study begins"
        raise FolderError(
            f"{what} with {shown(digest)}; give its digest, {_SHORTEST} characters or more. Registered are: {there}"
        )
    return found[0]


def forget_study(site: SiteDir, digest: str) -> Forgotten:
    """Delete what the site keeps of a study: latents that no other study uses, coins, rows, sums, sessions, records.

    The registration goes last, so that what was interrupted can be said again. Nothing is taken out of the ledger.

    Raises:
        FolderError: no such study is registered; or something cannot be deleted: say the same command again then.
    """
    with exclusively(site.folder / FOLDER):
        registration = study_called(site, digest)
        digest = registration.plan_digest
        AuditLog(site.folder).append("study forgotten", digest=digest)
        with storage_errors(site.folder):
            sessions = list(site.sessions.glob(f"{digest[:16]}-*"))
            for path in sessions:
                path.unlink(missing_ok=True)
        with AttemptStore(site.attempt_store) as store:
            attempts = store.forget_study(digest)
        forget_shards(site, digest)
        with Ledger.open(site.ledger, read_only=True) as ledger:
            charges = len(ledger.charges(digest))
        latents = _forget_latents(site, registration)
        with storage_errors(site.folder):
            path_of(site, digest).unlink()
    return Forgotten(registration, latents, attempts, len(sessions), charges)


def _forget_latents(site: SiteDir, registration: Registration) -> bool:
    """Delete a study's latents, unless another one has the very same records; whether any were deleted."""
    cache = site.cache / registration.data.name
    files = set(latent_files(cache, registration.table))
    for other in registrations(site):
        if other.plan_digest != registration.plan_digest and other.data.name == registration.data.name:
            files -= set(latent_files(cache, other.table))
    with storage_errors(cache):
        for path in files:
            path.unlink(missing_ok=True)
    return bool(files)
