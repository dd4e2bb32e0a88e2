"""A data set's folder moves: the records of approved plans follow once somebody has looked at the new place.

What moves is where a plan's records are read; each still counts only with the bytes that were registered.
"""

from dataclasses import replace
from pathlib import Path

from undertone.core.durable import exclusively
from undertone.data.records import metadata_of
from undertone.errors import DataError
from undertone_client.registration.stored import Registration, registrations, write_registration
from undertone_client.site.datasets import FOLDER, data_set
from undertone_client.site.enrol import Found, update_data_set
from undertone_client.site.folder import SiteDir


def update(site: SiteDir, name: str) -> Found:
    """Let new records join a data set, and the records of its approved plans follow to where it lies now.

    A death in between leaves plans that the node refuses; the same command finishes.

    Raises:
        InputError, DataError, SharedRecords, UnitChanged: as `update_data_set`; nothing was changed.
    """
    found = update_data_set(site, name)
    with exclusively(site.folder / FOLDER):
        for registration in registrations(site):
            root, metadata = registration.data.places(site.folder)
            looked_at = (root, metadata or found.table.source) == (found.table.root, found.table.source)
            if registration.data.name == name and registration.moved and looked_at:
                _move(site, registration, found.table.source)
    return found


def follow(site: SiteDir, digest: str) -> Registration:
    """The registration of a plan that is approved anew, moved to where its data set lies now.

    Raises:
        DataError: there is no such folder, or it has two metadata files.
        FolderError: it cannot be written.
    """
    with exclusively(site.folder / FOLDER):
        (registration,) = [item for item in registrations(site) if item.plan_digest == digest]
        root, metadata = registration.data.places(site.folder)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder")
        return _move(site, registration, metadata_of(root, metadata))


def _move(site: SiteDir, registration: Registration, source: Path | None) -> Registration:
    data = data_set(site.folder, registration.data.name)
    table = replace(registration.table, root=data.places(site.folder)[0], source=source)
    there = replace(registration, folder=data.folder, metadata=data.metadata, table=table)
    write_registration(site, there)
    return there
