"""SITE_DIR: everything a node owns, in one folder.

node.toml       device, speed settings: none of it enters the plan
policy.toml     what the site allows: coordinators, methods, base models, the least of sites and patients, approvers
secret.key      the node's secret, from which rows draw their randomness (0600)
identity.key    the site's Ed25519 key: who it is to the other sites (0600)
flower.key      the site's key for Flower, ECDSA P-384: by it the SuperLink knows the SuperNode (0600)
federations/    a folder for each coordinator: federation.json, the other sites' public keys, pinned in policy.toml;
                federation.sig, its signature; ca.crt and connection.toml, by which its server is reached and known
sessions/       the open session of secure aggregation, until it ends
state.sqlite    coins and finished rows of attempts in progress
ledger.sqlite   what was spent on this site's data
node.log        refusals, and records that became zero rows; what is older is in node.log.1, and no more is kept
strangers.log   requests that were refused before the coordinator's signature was seen to hold; one older file too
audit/          what was decided here, when and by whom: hash-chained, never rewritten (`audit_log.py`)
shards/         what is made of the shards of a study, where rows are of shards, and what they remember
cache/          latents of the site's images, a folder for each data set
datasets/       for each data set where it lies, its unit, published figure and cap; and who was withdrawn
pending/        plans of known coordinators that wait for a person to approve them
approved/       for each approved plan what was approved, by whom and until when
rehearsal/      a SITE_DIR with drawn images for each rehearsal that a coordinator asked for; may be removed
run/            while the node serves: its socket, and the lock that makes it the only one
registered/     for each approved plan its records as they were found good
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undertone.core.clock import Clock, utc_now
from undertone.core.config import Section, parse_tables, read_tables
from undertone.core.durable import storage_errors, write_durable
from undertone.core.federation import Federation, read_federation
from undertone.core.federation_files import federation_files, write_federation
from undertone.core.flower_keys import create_flower_key
from undertone.core.keys import create_key, load_key, public_hex, write_secret
from undertone.core.settings_file import settings_toml
from undertone.core.text import shown
from undertone.errors import FolderError, NotApproved, StudyError
from undertone.models.pinned import files_digest
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger
from undertone_client.site.config import Connection, NodeConfig
from undertone_client.site.policy import Policy
from undertone_client.site.policy_file import with_tables

_ConfigT = TypeVar("_ConfigT", bound=Section)
_log = logging.getLogger("undertone.node")
# Nobody can fill the disk by being refused, or by what his records are called.
_LONGEST_LINE = 2000
_LARGEST_LOG = 16 << 20
_LARGEST_STRANGERS_LOG = 1 << 20


class SiteDir:
    """Paths and settings of one SITE_DIR."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _read(folder / "node.toml", NodeConfig)
        self.policy = _read(folder / "policy.toml", Policy)

    @property
    def attempt_store(self) -> Path:
        """state.sqlite."""
        return self.folder / "state.sqlite"

    @property
    def ledger(self) -> Path:
        """ledger.sqlite."""
        return self.folder / "ledger.sqlite"

    @property
    def cache(self) -> Path:
        """cache/."""
        return self.folder / "cache"

    @property
    def sessions(self) -> Path:
        """sessions/."""
        return self.folder / "sessions"

    def check_model(self, files: Mapping[str, str]) -> None:
        """Raise unless the site takes a base model with these files (PRIVACY 21).

        Raises:
            NotApproved: it is not among the models that policy.toml lists.
        """
        if files_digest(files) not in self.policy.models:
            raise NotApproved(
                f"{self.config.site} does not take the base model {files_digest(files)[:8]}; its operator adds the "
                "digest that `undertone model pin` prints to models in policy.toml"
            )

    def identity(self) -> Ed25519PrivateKey:
        """The site's signing key.

        Raises:
            FolderError: the file is missing or damaged.
        """
        return load_key(self.folder / "identity.key")

    def federation(self, coordinator: str, now: Clock = utc_now) -> Federation:
        """The federation manifest of this coordinator that the site approved, if it holds now and for this site.

        Args:
            coordinator: its name in policy.toml.
            now: the time.

        Raises:
            NotApproved: none was approved, the file is another, it has expired, is another coordinator's, or does not
                name this site with this identity.
        """
        federation = self.pinned_federation(coordinator)
        if federation.coordinator != self.policy.coordinators.get(coordinator):
            raise NotApproved(f"the federation manifest that is pinned for {coordinator} is another coordinator's")
        federation.check_current(now())
        federation.check_names(self.config.site, public_hex(self.identity()))
        return federation

    def pinned_federation(self, coordinator: str) -> Federation:
        """The manifest that is pinned for a coordinator, whether or not it holds now.

        Raises:
            NotApproved: none was approved, or the file is another.
        """
        pinned = self.policy.federations.get(coordinator)
        if pinned is None:
            raise NotApproved(
                f"{self.config.site} has approved no federation of {coordinator}: who the other sites are is not known"
            )
        try:
            data, signature = federation_files(self.federation_folder(coordinator))
        except FolderError:  # its text has a path of this machine, and this one is told to the coordinator
            raise NotApproved(f"{self.config.site} has no readable federation.json and federation.sig") from None
        return read_federation(data, signature, pinned)

    def federation_folder(self, coordinator: str) -> Path:
        """federations/NAME: what the site knows of the federation of a coordinator, by its name in policy.toml."""
        return self.folder / "federations" / coordinator

    def join(self, name: str, federation: Federation, signature: str) -> None:
        """Pin and write down the federation of a coordinator that this site approves.

        Pinned first: after a death in between the files are not those that are pinned, and nothing is answered until
        the same is done again.

        Args:
            name: the coordinator's, in policy.toml; its key there becomes the manifest's.
            federation: its manifest.
            signature: over the manifest.

        Raises:
            FolderError: policy.toml cannot be changed by a program, or a file cannot be written.
        """
        self.policy, text = self.policy_with(name, federation)
        write_durable(self.folder / "policy.toml", text)
        folder = self.federation_folder(name)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_federation(folder, federation, signature)

    def policy_with(self, name: str, federation: Federation) -> tuple[Policy, bytes]:
        """What `join` makes of policy.toml as it is there now; nothing is written.

        Only this coordinator's entries change; what a person wrote beside them stays.

        Raises:
            FolderError: the file is written in a way that a program should not touch; says which line to write.
        """
        path = self.folder / "policy.toml"
        before = _read(path, Policy)
        changes = {
            "coordinators": {**before.coordinators, name: federation.coordinator},
            "federations": {**before.federations, name: federation.digest},
        }
        policy = Policy.model_validate(before.model_copy(update=changes).model_dump())
        changed = [key for key in changes if getattr(policy, key) != getattr(before, key)]
        return policy, with_tables(path, policy, changed)

    def connection(self, coordinator: str) -> Connection:
        """Where and how this coordinator is reached.

        Raises:
            FolderError: the site has joined no federation of it, or connection.toml is wrong.
        """
        path = self.federation_folder(coordinator) / "connection.toml"
        if not path.is_file():
            raise FolderError(
                f"{path} is missing: this site does not know where {coordinator} is reached; give `undertone node "
                "join` the coordinator's welcome"
            )
        return _read(path, Connection)

    def root_certificate(self, coordinator: str) -> Path:
        """The CA certificate by which this coordinator's server is known."""
        return self.federation_folder(coordinator) / "ca.crt"

    @property
    def flower_key(self) -> Path:
        """flower.key."""
        return self.folder / "flower.key"

    @property
    def keys(self) -> tuple[Path, Path]:
        """identity.key and flower.key."""
        return self.folder / "identity.key", self.flower_key

    @property
    def next_keys(self) -> tuple[Path, Path]:
        """The keys that a request was written with and that do not hold yet, where there are any."""
        return self.folder / "identity.key.next", self.folder / "flower.key.next"

    def use_next_keys(self) -> None:
        """Let the next keys hold from now on, the one for Flower first: whoever dies in between does the same again."""
        for path, following in zip(reversed(self.keys), reversed(self.next_keys), strict=True):
            with storage_errors(path):
                if following.is_file():
                    following.replace(path)

    def log(self, text: str) -> None:
        """One line in node.log, for the site's own eyes.

        Never raises: a log that cannot be written would turn a record that is a zero row into a fault that the
        coordinator sees (PRIVACY 17). The line then goes to the process's own log.
        """
        self._append("node.log", text, _LARGEST_LOG)

    def log_stranger(self, text: str) -> None:
        """One line in strangers.log: whoever can reach the node writes there, and must not push out node.log."""
        self._append("strangers.log", text, _LARGEST_STRANGERS_LOG)

    def _append(self, name: str, text: str, most: int) -> None:
        """A line of bounded length in a log; a log of `most` bytes takes the place of the one before it."""
        path, line = self.folder / name, shown(text, _LONGEST_LINE)  # a file's name must not write lines of its own
        try:
            if path.is_file() and path.stat().st_size >= most:
                path.replace(path.with_name(f"{name}.1"))
            with path.open("a", encoding="utf-8") as stream:
                stream.write(f"{utc_now():%Y-%m-%dT%H:%M:%SZ} {line}\n")
        except OSError as error:
            _log.error("%s cannot be written (%s): %s", name, error.strerror, line)

    def secret(self) -> bytes:
        """The node's 32-byte secret.

        Raises:
            FolderError: the file is missing or damaged.
        """
        try:
            secret = (self.folder / "secret.key").read_bytes()
        except OSError:
            secret = b""
        if len(secret) != 32:
            raise FolderError(f"{self.folder / 'secret.key'} is missing or damaged; restore it from your backup")
        return secret


def create_site(folder: Path, config: NodeConfig, policy: Policy, entropy: Entropy) -> SiteDir:
    """Make a SITE_DIR with a fresh secret, a fresh identity and an empty ledger; node.toml comes last.

    An empty folder, such as a volume that was mounted for it, is filled; nothing is ever overwritten.

    Raises:
        FolderError: something is there already, or cannot be written; or a setting cannot be written as TOML.
    """
    settings, allowed = settings_toml(config), settings_toml(policy)
    mounted = _is_empty(folder)
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=mounted)
        folder.chmod(0o700)
    except FileExistsError:
        raise FolderError(
            f"{folder} exists already, and a node's folder is never overwritten; name another. Where making it was "
            "interrupted it has no node.toml: then remove it first"
        ) from None
    except OSError as error:
        raise FolderError(f"{folder} cannot be made: {error.strerror}; make room or fix the rights") from None
    try:
        _fill(folder, config.site, settings, allowed, entropy)
    except BaseException:
        if not mounted:  # nobody else can have written here: the folder was made in this call
            shutil.rmtree(folder)
        raise
    return SiteDir(folder)


def _is_empty(folder: Path) -> bool:
    """Whether a folder is there with nothing in it, such as a volume that was mounted."""
    with storage_errors(folder):
        return folder.is_dir() and next(folder.iterdir(), None) is None


def _fill(folder: Path, site: str, settings: bytes, allowed: bytes, entropy: Entropy) -> None:
    with storage_errors(folder):  # a second process in the same empty folder ends here
        for name in ("cache", "datasets"):
            (folder / name).mkdir(mode=0o700)
    write_secret(folder / "secret.key", entropy.bytes(32))
    create_key(folder / "identity.key")
    create_flower_key(folder / "flower.key")
    Ledger.create(folder / "ledger.sqlite", {"role": "node", "site": site}).close()
    write_durable(folder / "policy.toml", allowed)
    write_durable(folder / "node.toml", settings)


def _read(path: Path, model: type[_ConfigT]) -> _ConfigT:
    if not path.is_file():
        raise FolderError(
            f"{path.parent} is no SITE_DIR: it has no {path.name}. A SITE_DIR is a node's own folder, which `undertone "
            "node init` makes, or RUN/sites/NAME of a simulation; the images lie where its data sets say"
        )
    try:
        return parse_tables(model, read_tables(path), str(path))
    except StudyError as error:
        raise FolderError(str(error)) from None
