"""Where a site's coordinators are reached. Read here alone, and without what only a node has installed."""

from dataclasses import dataclass
from pathlib import Path

from undertone.core.config import read_tables
from undertone.core.text import shown
from undertone.errors import FolderError, InputError, StudyError

_SCHEME = "https://"


@dataclass(frozen=True)
class Connection:
    """One coordinator of a site.

    Attributes:
        name: as policy.toml has it.
        superlink: HOST:PORT, over TLS.
        root_certificate: by which its server is known.
        flower_key: by which it knows this site's SuperNode.
    """

    name: str
    superlink: str
    root_certificate: Path
    flower_key: Path


def read_connections(site_dir: Path, chosen: tuple[str, ...] = ()) -> list[Connection]:
    """The coordinators whose federations a site has joined, or those of them that are chosen.

    Raises:
        InputError: there is none, or one of the chosen is not among them.
        FolderError: there is no SITE_DIR, or a file is missing or wrong.
    """
    if not (site_dir / "node.toml").is_file():
        raise FolderError(f"{site_dir} is no SITE_DIR: it has no node.toml; `undertone node init` makes one")
    found = {path.parent.name: path for path in sorted((site_dir / "federations").glob("*/connection.toml"))}
    names = chosen or tuple(found)
    if not names:
        raise InputError(f"{site_dir} has joined no federation: `undertone node join` takes a coordinator's welcome")
    for name in names:
        if name not in found:
            raise InputError(f'"{shown(name)}" is no coordinator of this site; there are: {", ".join(found) or "none"}')
    return [_read(site_dir, name, found[name]) for name in names]


def _read(site_dir: Path, name: str, path: Path) -> Connection:
    try:
        fleet = read_tables(path).get("fleet")
    except StudyError as error:
        raise FolderError(f"{error}; `undertone node join` writes the file anew") from None
    if not isinstance(fleet, str) or not fleet.startswith(_SCHEME):
        raise FolderError(f'{path}: fleet = "https://HOST:PORT" is missing; `undertone node join` writes the file anew')
    made = Connection(name, fleet.removeprefix(_SCHEME), path.with_name("ca.crt"), site_dir / "flower.key")
    for needed in (made.root_certificate, made.flower_key):
        if not needed.is_file():
            raise FolderError(f"{needed} is missing: restore it, or join the federation of {name} anew")
    return made
