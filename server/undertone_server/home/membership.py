"""Who is in the federation: requests that were accepted, and the manifest and welcome that follow from them.

Every change makes a new manifest, which names the one before; it is signed and written before anybody is told.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from undertone import PROTOCOL
from undertone.core.canonical import sha256_hex
from undertone.core.clock import time_text
from undertone.core.durable import exclusively, read_bytes, storage_errors, sync, write_durable
from undertone.core.federation import Federation, sign_federation
from undertone.core.joining import SiteRequest, Welcome, ca_sha256
from undertone.core.keys import public_hex
from undertone.core.text import shown
from undertone.core.unit import is_site_name
from undertone.errors import FolderError, InputError, NotApproved
from undertone_server.home.folder import Home

_FEWEST = 2
_RETIRED = "retired"


@dataclass(frozen=True)
class Change:
    """What a change of membership made.

    Attributes:
        federation: the new manifest; None: there are fewer than two sites, so there is none yet.
        welcome: the file to send to every site of it.
    """

    federation: Federation | None
    welcome: Path | None


def accepted(home: Home) -> dict[str, SiteRequest]:
    """The request of each site that is in, by its name.

    Raises:
        FolderError: a file of sites/ is damaged.
    """
    found: dict[str, SiteRequest] = {}
    for path in sorted(home.sites.glob("*.json")):
        try:
            request = SiteRequest.read(read_bytes(path))
        except (InputError, NotApproved) as error:
            raise FolderError(f"{path} is damaged: {error}; restore it, or ask the site for a new request") from None
        if request.site != path.stem:
            raise FolderError(f"{path} is the request of {request.site}; restore it")
        found[request.site] = request
    return found


def alone(home: Home) -> AbstractContextManager[None]:
    """Within, no other command changes who is in, or which keys and certificates hold.

    Two at once would announce two manifests of one number, and no site could tell which comes next.
    """
    return exclusively(home.manifests)


def add_sites(home: Home, requests: Sequence[bytes], now: datetime, *, replace: bool = False) -> Change:
    """Accept requests and make the manifest that names these sites too.

    A request that is in already changes nothing; so the same command again finishes one that was interrupted.

    Args:
        home: the COORDINATOR_DIR.
        requests: the request files' bytes.
        now: the time.
        replace: whether a site that is in may have other keys now.

    Raises:
        InputError: a file is no request.
        NotApproved: a signature does not hold; a site is in with other keys; a key is already another site's.
    """
    with alone(home):
        sites_before = accepted(home)
        sites = dict(sites_before)
        for data in requests:
            request = SiteRequest.read(data)
            before = sites.get(request.site)
            if before is not None and before != request and not replace:
                raise NotApproved(
                    f"{request.site} is in already, with other keys. If they were replaced, and the site itself has "
                    "told you so, say --replace; if this is another site, it needs a name of its own"
                )
            if before != request:
                _refuse_retired_keys(home, request, sites_before.get(request.site))
            sites[request.site] = request
            _refuse_shared_keys(home, sites)
        for data in requests:
            request = SiteRequest.read(data)
            path = home.sites / f"{request.site}.json"
            if sites_before.get(request.site, request) != request:
                _retire(path)
            write_durable(path, data)
        return next_manifest(home, now)


def remove_site(home: Home, site: str, now: datetime) -> Change:
    """Take a site out: the new manifest does not name it, and the SuperLink is to forget its key.

    A site that is out already changes nothing; so the same command again finishes one that was interrupted.

    Raises:
        InputError: no such site is in, nor was.
        NotApproved: fewer than two sites would be left, which no manifest can name.
    """
    with alone(home):
        sites, newest = accepted(home), home.newest_manifest()
        named = set() if newest is None else set(newest.sites)
        if not is_site_name(site) or site not in sites.keys() | named | {request.site for request in _retired(home)}:
            raise InputError(f"{shown(site)} is not in; the sites are {', '.join(sites) or 'none yet'}")
        if len(sites.keys() - {site}) < _FEWEST and newest is not None:
            raise NotApproved(
                f"without {site} fewer than two sites are left, and no manifest can say so: the one that names {site} "
                "would go on to hold. Add another site first, or stop the SuperLink and end this federation"
            )
        if site in sites:
            path = home.sites / f"{site}.json"
            _retire(path)
            with storage_errors(path):
                path.unlink()
                sync(home.sites)
        return next_manifest(home, now)


def issue(home: Home, now: datetime, *, anew: bool = False) -> Change:
    """Make the manifest of the sites that are in, where the newest does not say the same.

    Args:
        home: the COORDINATOR_DIR.
        now: the time.
        anew: whether to make one although nothing but its expiry changes.

    Raises:
        FolderError: a file of COORDINATOR_DIR is damaged, or another command is at work there.
    """
    with alone(home):
        return next_manifest(home, now, anew=anew)


def next_manifest(home: Home, now: datetime, *, anew: bool = False) -> Change:
    """As `issue`, within `alone`."""
    sites = {name: request.identity for name, request in accepted(home).items()}
    before = home.newest_manifest()
    if len(sites) < _FEWEST:
        return Change(None, None)
    fingerprint = ca_sha256(read_bytes(home.ca).decode("ascii", "replace"))
    if before is not None and not anew and _same(before, home, sites, fingerprint):
        return Change(before, write_welcome(home, before))
    federation = Federation(
        home.settings.name,
        public_hex(home.key()),
        sites,
        serial=1 if before is None else before.serial + 1,
        predecessor="" if before is None else before.digest,
        expires=time_text(now + timedelta(days=home.settings.manifest_days)),
        ca_sha256=fingerprint,
    )
    signature = sign_federation(federation, home.key())
    path = manifest_path(home, federation.serial)
    write_durable(path.with_suffix(".sig"), signature.encode())
    write_durable(path, federation.to_bytes())  # last: what has no signature is no manifest
    return Change(federation, write_welcome(home, federation))


def manifest_path(home: Home, serial: int) -> Path:
    """federation/NNNN.json."""
    return home.manifests / f"{serial:04d}.json"


def write_welcome(home: Home, federation: Federation) -> Path:
    """Write what every site of a manifest is sent, and say where."""
    path = manifest_path(home, federation.serial)
    welcome = Welcome(
        protocol=PROTOCOL,
        coordinator=federation.coordinator,
        fleet=home.settings.fleet,
        ca=read_bytes(home.ca).decode("ascii"),
        manifest=federation.to_bytes().decode(),
        manifest_signature=read_bytes(path.with_suffix(".sig")).decode("ascii"),
    )
    written = path.with_suffix(".welcome")
    write_durable(written, welcome.signed(home.key(), home.key_before()))
    return written


def _refuse_retired_keys(home: Home, request: SiteRequest, before: SiteRequest | None) -> None:
    """Raise NotApproved where a site asks with a key that was taken back.

    A key that it has now was not, although an earlier request of its own may name it beside one that was.
    """
    retired = {key for old in _retired(home) for key in (old.identity, old.flower)}
    held = set() if before is None else {before.identity, before.flower}
    if (retired - held) & {request.identity, request.flower}:
        raise NotApproved(
            f"{request.site} asks with a key that was taken back: neither the SuperLink nor other sites take it again. "
            "Its operator makes new ones with `undertone node request --new-keys`"
        )


def _retire(path: Path) -> None:
    """Keep the request of a site that is about to lose it, so that its keys never come back."""
    folder, data = path.parent / _RETIRED, read_bytes(path)
    with storage_errors(folder):
        folder.mkdir(exist_ok=True, mode=0o700)
    write_durable(folder / f"{sha256_hex(data)}.json", data)


def _retired(home: Home) -> list[SiteRequest]:
    """Every request that was taken back, or was about to be."""
    return [SiteRequest.read(read_bytes(path)) for path in (home.sites / _RETIRED).glob("*.json")]


def _same(before: Federation, home: Home, sites: Mapping[str, str], fingerprint: str) -> bool:
    return (before.name, before.coordinator, dict(before.sites), before.ca_sha256) == (
        home.settings.name,
        public_hex(home.key()),
        dict(sites),
        fingerprint,
    )


def _refuse_shared_keys(home: Home, sites: Mapping[str, SiteRequest]) -> None:
    """Raise NotApproved where two sites have one key, or one has the coordinator's."""
    owners = {public_hex(home.key()): "this coordinator"}
    for name, request in sites.items():
        for key in (request.identity, request.flower):
            if key in owners:
                raise NotApproved(
                    f"{name} has the same key as {owners[key]}: each site makes keys of its own with `undertone node "
                    "init`, and no key is ever copied"
                )
            owners[key] = name
