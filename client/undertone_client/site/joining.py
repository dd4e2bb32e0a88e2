"""A coordinator's welcome, held against what the site knows; a person looks at it, then it is pinned.

Nothing is changed at the site before `Joining.pin`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from undertone.core.durable import exclusively, storage_errors, write_durable
from undertone.core.federation import Federation
from undertone.core.joining import ReadWelcome
from undertone.core.keys import load_key, public_hex
from undertone.core.settings_file import settings_toml
from undertone.core.text import shown
from undertone.core.unit import is_site_name, name_advice
from undertone.errors import InputError, NotApproved
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.config import Connection
from undertone_client.site.folder import SiteDir


@dataclass(frozen=True)
class Joining:
    """A welcome that this site may take.

    Attributes:
        site: the SITE_DIR.
        name: the coordinator's, in policy.toml.
        read: the welcome.
        before: the manifest that is pinned now; None: there is none, or it is this one.
        known: whether policy.toml has the coordinator's key already.
        handed_over: whether the key is new, and the one before signed for it.
        new_keys: whether it names the keys that this site asked for last, and that do not hold yet.
        given: the name that a person gave the coordinator, if any.
        now: when the welcome was held against what the site knows.
    """

    site: SiteDir = field(compare=False)
    name: str
    read: ReadWelcome
    before: Federation | None
    known: bool
    handed_over: bool
    new_keys: bool
    given: str | None
    now: datetime

    def summary(self) -> Iterator[tuple[str, str]]:
        """What a person compares with what the coordinator and the other sites say: (what, value)."""
        federation = self.read.federation
        yield "federation", f"{federation.name}, manifest {federation.serial}, until {federation.expires}"
        yield "digest", federation.digest
        yield f"coordinator {self.name}", f"{federation.coordinator}{self._about_the_key()}"
        yield "its address", self.read.address.url
        yield "its CA certificate, SHA-256", federation.ca_sha256
        for site, key in sorted(federation.sites.items()):
            yield f"site {site}", f"{key}{self._about(site, key)}"
        if self.before is not None:
            for gone in sorted(self.before.sites.keys() - federation.sites.keys()):
                yield f"site {gone}", "no longer takes part"

    def pin(self) -> None:
        """Take it: pin the manifest in policy.toml, keep address and CA, and say so in the audit log.

        A person takes his time, and meanwhile another command may pin another manifest: what the site knows is read
        anew while no other command pins, and must be what was shown.

        Raises:
            NotApproved: what was shown holds no longer.
            FolderError: policy.toml cannot be changed by a program, a file cannot be written, or another command pins.
        """
        with exclusively(self.site.folder / "federations"):
            site = SiteDir(self.site.folder)
            if _held(site, self.read, self.given, self.now) != self:
                raise NotApproved(
                    f"what this site knows of {self.name} changed after this was shown; nothing was pinned. Give the "
                    "same command again, and compare again"
                )
            self._pin(site)

    def _pin(self, site: SiteDir) -> None:
        """Take it, and pin it when all else is there; whoever dies in between does the same again."""
        welcome, federation = self.read.welcome, self.read.federation
        site.policy_with(self.name, federation)  # where a person must write it, nothing changes before that
        folder = site.federation_folder(self.name)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durable(folder / "ca.crt", welcome.ca.encode())
        write_durable(folder / "connection.toml", settings_toml(Connection(fleet=welcome.fleet)))
        if self.new_keys:
            site.use_next_keys()
        site.join(self.name, federation, welcome.manifest_signature)
        facts = {"coordinator": federation.coordinator, "digest": federation.digest, "serial": federation.serial}
        AuditLog(site.folder).append("federation joined", **facts)

    def _about_the_key(self) -> str:
        if self.known:
            return ""
        return " (new: signed by the key before)" if self.handed_over else " (new to this site)"

    def _about(self, site: str, key: str) -> str:
        if site == self.site.config.site:
            return " (this site, with its new keys)" if self.new_keys else " (this site)"
        before = None if self.before is None else self.before.sites.get(site)
        if self.before is None or before == key:
            return ""
        return " (new)" if before is None else " (its key was another)"


def joining(site: SiteDir, welcome: bytes, name: str | None, now: datetime) -> Joining:
    """Hold a welcome against what the site knows. Nothing is changed.

    Args:
        site: the SITE_DIR.
        welcome: the coordinator's file.
        name: what policy.toml calls, or will call, this coordinator; None: as it does, or as the federation is called.
        now: the time.

    Raises:
        InputError: it is no welcome, or the name cannot name a coordinator.
        NotApproved: a signature does not hold, it has expired, does not name this site with its key, is older than the
            manifest that is pinned or does not follow it, or its key is another than policy.toml has for the name.
    """
    return _held(site, ReadWelcome(welcome), name, now)


def _held(site: SiteDir, read: ReadWelcome, name: str | None, now: datetime) -> Joining:
    """As `joining`, of a welcome that was read."""
    federation = read.federation
    federation.check_current(now)
    new_keys = _names_next_keys(site, federation)
    if not new_keys:
        federation.check_names(site.config.site, public_hex(site.identity()))
    called, handed_over = _called(site, read, name)
    before = _before(site, called, federation)
    known = site.policy.coordinators.get(called) == federation.coordinator
    return Joining(site, called, read, before, known, handed_over, new_keys, name, now)


def _names_next_keys(site: SiteDir, federation: Federation) -> bool:
    """Whether a manifest names this site with the identity that it asked for last."""
    following, _ = site.next_keys
    return following.is_file() and federation.sites.get(site.config.site) == public_hex(load_key(following))


def _called(site: SiteDir, read: ReadWelcome, given: str | None) -> tuple[str, bool]:
    """What policy.toml calls this coordinator, and whether its key before signed for the new one."""
    if given is not None and not is_site_name(given):
        raise InputError(f"--name {shown(given)} cannot name a coordinator: {name_advice(given)}")
    key, known = read.federation.coordinator, site.policy.coordinators
    named = site.policy.name_of(key)
    if named is not None:
        if given not in (None, named):
            raise InputError(f"policy.toml calls this coordinator {named}; leave --name out")
        return named, False
    for name, before in known.items():
        if read.handed_over_by(before) and given in (None, name):
            return name, True
    name = given or read.federation.name
    if name in known:
        raise NotApproved(
            f"policy.toml knows {name} by the key {known[name][:16]}, the welcome is signed by {key[:16]}. If this is "
            "another coordinator, give it a name of its own with --name; if its key was replaced and you have that "
            "from the coordinator itself, write the new key into policy.toml"
        )
    return name, False


def _before(site: SiteDir, name: str, federation: Federation) -> Federation | None:
    """The manifest that this one takes the place of, if the order is right.

    Raises:
        NotApproved: the pinned one is newer, is another of the same serial, or is not what this one says it follows.
    """
    pinned = site.policy.federations.get(name)
    if pinned is None or pinned == federation.digest:
        return None
    try:
        before = site.pinned_federation(name)
    except NotApproved as error:
        raise NotApproved(
            f"the manifest that is pinned now cannot be read, so nobody can say which is newer: {error}; restore "
            f"federations/{name} from your backup, or join the welcome of manifest {pinned[:8]} again"
        ) from None
    if federation.name != before.name:
        raise NotApproved(f"this is a manifest of {federation.name}; {name} is the coordinator of {before.name}")
    if federation.serial <= before.serial:
        raise NotApproved(
            f"this is manifest {federation.serial} of {federation.name}, and this site has pinned manifest "
            f"{before.serial}: an older one, or another of the same number, is never taken"
        )
    if federation.serial == before.serial + 1 and federation.predecessor != before.digest:
        raise NotApproved(
            f"manifest {federation.serial} of {federation.name} does not follow the manifest that this site has pinned "
            f"({before.digest[:8]}) but {federation.predecessor[:8]}: the coordinator has shown its sites different "
            "manifests; ask the other sites which they have"
        )
    return before
