"""Where a node's socket lies: SITE_DIR/run/node.sock, unless the operator names another place."""

import os
import stat
from pathlib import Path

from undertone.core.durable import storage_errors
from undertone.errors import FolderError

_LONGEST = 107  # bytes, without the zero behind them (unix(7))
FOLDER_MODE, SOCKET_MODE = 0o750, 0o600


def socket_of(site_dir: Path, named: Path | None = None) -> Path:
    """The path of the socket, absolute.

    Args:
        site_dir: the SITE_DIR.
        named: where the operator wants it; None for the place inside SITE_DIR.

    Raises:
        FolderError: it is longer than a socket's path may be; says which option helps.
    """
    path = (site_dir / "run" / "node.sock" if named is None else named).absolute()
    if len(os.fsencode(path)) > _LONGEST:
        raise FolderError(
            f"{path} is too long for a Unix socket: {_LONGEST} bytes are the most. Name a shorter place with "
            "--socket PATH, such as /run/undertone/node.sock, for the node and its relay alike"
        )
    return path


def make_folder(socket: Path) -> None:
    """Make the socket's folder, if it is not there, for its owner and group alone.

    Raises:
        FolderError: it cannot be made, or others may write there and could put a socket of their own in its place.
    """
    folder = socket.parent
    with storage_errors(folder):
        try:
            folder.mkdir(mode=FOLDER_MODE)
        except FileExistsError:
            found = folder.stat()
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise FolderError(
                    f"others may write in {folder}, and could put a socket of their own there; take the right away "
                    f"(chmod 750 {folder}), or name another folder with --socket"
                ) from None
        else:
            folder.chmod(FOLDER_MODE)  # whatever the umask says
