"""SITE_DIR: everything a node owns, in one folder (DESIGN 5).

node.toml       where the data lie, device, speed settings: none of it enters the plan
policy.toml     what the site allows: coordinator key, approved plans
secret.key      the node's secret, from which rows draw their randomness (0600)
state.sqlite    coins and finished rows of attempts in progress
ledger.sqlite   what was spent on this site's data
node.log        refusals, and records that became zero rows
cache/          latents of the site's images
registered/     for each approved plan its records as they were found good
"""

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from undertone.durable import write_durable
from undertone.errors import FolderError
from undertone.keys import write_secret
from undertone.privacy.entropy import Entropy
from undertone.privacy.ledger import Ledger
from undertone.shown import shown
from undertone.study import Section, SiteName

_ConfigT = TypeVar("_ConfigT", bound=Section)


class NodeConfig(Section):
    """node.toml: facts about this machine. Changing them cannot change privacy."""

    site: SiteName
    data: str
    metadata: str | None = None
    device: str = "cpu"
    micro_batch: int = Field(default=32, ge=1)
    keep_rows: bool = False


class Policy(Section):
    """policy.toml: what the site allows; anything absent is refused."""

    coordinator: str = Field(pattern=r"^[0-9a-f]{64}$")
    approved: list[str] = Field(default_factory=list)


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

    def note(self, text: str) -> None:
        """One line in node.log, for the site's own eyes."""
        with (self.folder / "node.log").open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {shown(text, 2000)}\n")

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
        FolderError: the folder is there already.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise FolderError(f"{folder} exists already; a node's folder is never overwritten") from None
    (folder / "cache").mkdir()
    write_secret(folder / "secret.key", entropy.bytes(32))
    write_durable(folder / "node.toml", _toml(config))
    write_durable(folder / "policy.toml", _toml(policy))
    Ledger.create(folder / "ledger.sqlite", {"role": "node", "site": config.site}).close()
    return SiteDir(folder)


def _toml(section: Section) -> bytes:
    """Flat settings as TOML; JSON spells strings, numbers, booleans and lists of strings the same way."""
    values = section.model_dump(mode="json", exclude_none=True)
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()).encode()


def _read(path: Path, model: type[_ConfigT]) -> _ConfigT:
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # of tomllib and pydantic, too
        raise FolderError(f"{path} cannot be used: {shown(str(error).splitlines()[0])}") from None
