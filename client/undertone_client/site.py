"""SITE_DIR: everything a node owns, in one folder (DESIGN 5).

node.toml       where the data lie, device, speed settings: none of it enters the plan
policy.toml     what the site allows: coordinator key, approved plans
secret.key      the node's secret, from which rows draw their randomness (0600)
identity.key    the site's Ed25519 key: who it is to the other sites (0600)
federation.json the other sites' public keys, federation.sig the coordinator's signature; pinned in policy.toml
sessions/       the open session of secure aggregation, until it ends
state.sqlite    coins and finished rows of attempts in progress
ledger.sqlite   what was spent on this site's data
node.log        refusals, and records that became zero rows
cache/          latents of the site's images
registered/     for each approved plan its records as they were found good
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, PositiveInt

from undertone.durable import storage_errors, write_durable
from undertone.errors import FolderError, NotApproved, StudyError
from undertone.keys import create_key, load_key, write_secret
from undertone.models.devices import AUTO, Dtype
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger
from undertone.secagg.federation import Federation, read_federation
from undertone.shown import shown
from undertone.study import Section, SiteName, parse_tables, read_tables

_ConfigT = TypeVar("_ConfigT", bound=Section)
_log = logging.getLogger("undertone.node")


class NodeConfig(Section):
    """node.toml: facts about this machine. Changing them cannot change privacy."""

    site: SiteName
    data: str
    metadata: str | None = None
    # "auto", "cpu", "cuda:0", "mps", or a list of devices, between which the units are divided.
    device: str | list[str] = AUTO
    # Of the frozen model's forward pass; rows stay float32.
    dtype: Dtype = "float32"
    # How many units at a time; "auto" finds out by a dry run on random data.
    micro_batch: Literal["auto"] | PositiveInt = "auto"
    keep_rows: bool = False


class Policy(Section):
    """policy.toml: what the site allows; anything absent is refused."""

    coordinator: str = Field(pattern=r"^[0-9a-f]{64}$")
    approved: list[str] = Field(default_factory=list)
    federation: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    # Sums that the coordinator sees site by site need the site's consent in so many words.
    allow_plain: bool = False
    # So do sums over lists of sites that may differ by one, where the coordinator adds the noise (PRIVACY 12).
    allow_free_rosters: bool = False


class SiteDir:
    """Paths and settings of one SITE_DIR."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _read(folder / "node.toml", NodeConfig)
        self.policy = _read(folder / "policy.toml", Policy)

    @property
    def state(self) -> Path:
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

    def identity(self) -> Ed25519PrivateKey:
        """The site's signing key.

        Raises:
            FolderError: the file is missing or damaged.
        """
        return load_key(self.folder / "identity.key")

    def federation(self) -> Federation:
        """The federation manifest that this site approved.

        Raises:
            NotApproved: none was approved, or the file is another.
        """
        if self.policy.federation is None:
            raise NotApproved(f"{self.config.site} has approved no federation: who the other sites are is not known")
        try:
            data = (self.folder / "federation.json").read_bytes()
            signature = (self.folder / "federation.sig").read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            raise NotApproved(f"{self.config.site} has no readable federation.json and federation.sig") from None
        return read_federation(data, signature, self.policy.federation)

    def join(self, federation: Federation, signature: str) -> None:
        """Write down and pin the federation that this site approves."""
        write_durable(self.folder / "federation.json", federation.to_bytes())
        write_durable(self.folder / "federation.sig", signature.encode())
        self.policy = self.policy.model_copy(update={"federation": federation.digest})
        write_durable(self.folder / "policy.toml", _toml(self.policy))

    def note(self, text: str) -> None:
        """One line in node.log, for the site's own eyes.

        Never raises: a log that cannot be written would turn a record that is a zero row into a fault that the
        coordinator sees (PRIVACY 17). The line then goes to the process's own log.
        """
        line = shown(text, 2000)  # a file's name must not write lines of its own
        try:
            with (self.folder / "node.log").open("a", encoding="utf-8") as stream:
                stream.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n")
        except OSError as error:
            _log.error("node.log cannot be written (%s): %s", error.strerror, line)

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
    """Make a SITE_DIR with a fresh secret and an empty ledger.

    Raises:
        FolderError: the folder is there already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise FolderError(f"{folder} exists already; a node's folder is never overwritten") from None
    except OSError as error:
        raise FolderError(f"{folder} cannot be made: {error.strerror}; make room or fix the rights") from None
    with storage_errors(folder):
        (folder / "cache").mkdir()
    write_secret(folder / "secret.key", entropy.bytes(32))
    create_key(folder / "identity.key")
    write_durable(folder / "node.toml", _toml(config))
    write_durable(folder / "policy.toml", _toml(policy))
    Ledger.create(folder / "ledger.sqlite", {"role": "node", "site": config.site}).close()
    return SiteDir(folder)


def _toml(section: Section) -> bytes:
    """Flat settings as TOML; JSON spells strings, numbers, booleans and lists of strings the same way."""
    values = section.model_dump(mode="json", exclude_none=True)
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()).encode()


def _read(path: Path, model: type[_ConfigT]) -> _ConfigT:
    if not path.is_file():
        raise FolderError(
            f"{path.parent} is no SITE_DIR: it has no {path.name}. A SITE_DIR is a node's own folder, such as "
            "RUN/sites/NAME of a simulation; the images lie where its node.toml says"
        )
    try:
        return parse_tables(model, read_tables(path), str(path))
    except StudyError as error:
        raise FolderError(str(error)) from None
