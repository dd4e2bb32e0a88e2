"""The secret by which a SuperNode knows its relay: without it any user of the machine could answer for the site."""

from pathlib import Path

from undertone.core.keys import write_secret
from undertone.core.text import shown
from undertone.core.unit import is_site_name
from undertone.errors import FolderError, InputError
from undertone.privacy.entropy import OsEntropy
from undertone_client.service.place import make_folder

_BYTES = 32


def secret_of(site_dir: Path, coordinator: str) -> Path:
    """SITE_DIR/run/superexec-NAME.secret, made with mode 0600 if it is not there.

    Args:
        site_dir: the site's folder.
        coordinator: what policy.toml calls the coordinator to whom the SuperNode connects.

    Raises:
        InputError: that cannot be a coordinator's name.
        FolderError: there is no SITE_DIR, or nothing can be made in it.
    """
    if not is_site_name(coordinator):
        raise InputError(f'"{shown(coordinator)}" cannot be the name of a coordinator in policy.toml')
    if not (site_dir / "node.toml").is_file():
        raise FolderError(f"{site_dir} is no SITE_DIR: it has no node.toml; `undertone node init` makes one")
    path = site_dir / "run" / f"superexec-{coordinator}.secret"
    make_folder(path)
    if not path.exists():
        write_secret(path, OsEntropy().bytes(_BYTES))
    return path


def read_secret(path: Path) -> bytes:
    """The secret, as it stands in the file.

    Raises:
        FolderError: it is missing, empty or open to others.
    """
    try:
        secret, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}; `undertone node start` makes it") from None
    if mode & 0o077:
        raise FolderError(f"{path} is open to others than its owner: remove it, and start SuperNode and relay anew")
    if not secret:
        raise FolderError(f"{path} is empty: remove it, and start SuperNode and relay anew")
    return secret
