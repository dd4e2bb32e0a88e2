"""The command lines of a site's processes. Under systemd three units say the same."""

import shutil
import sys
from pathlib import Path

from undertone.errors import InputError
from undertone_client.supervise.connections import Connection


def node_words(site_dir: Path, socket: Path) -> list[str]:
    """The node, which computes."""
    return [*_UNDERTONE, "serve", str(site_dir), "--socket", str(socket)]


def relay_words(site_dir: Path, coordinator: str, port: int, secret: Path, socket: Path) -> list[str]:
    """The relay to one coordinator's SuperNode."""
    named = ["--coordinator", coordinator, "--runtime-api", f"127.0.0.1:{port}", "--secret", str(secret)]
    return [*_UNDERTONE, "relay", str(site_dir), *named, "--socket", str(socket)]


def supernode_words(to: Connection, port: int, secret: Path) -> list[str]:
    """Flower's SuperNode, which leaves every message to the relay and trusts one SuperLink.

    Raises:
        InputError: Flower's program is not there.
    """
    beside = Path(sys.executable).with_name("flower-supernode")
    program = str(beside) if beside.is_file() else shutil.which("flower-supernode")
    if program is None:
        raise InputError(f"flower-supernode is not beside {sys.executable}: install undertone-federated anew")
    return [
        program,
        f"--superlink={to.superlink}",
        f"--root-certificates={to.root_certificate}",
        f"--auth-supernode-private-key={to.flower_key}",
        "--isolation=process",
        f"--superexec-auth-secret-file={secret}",
        "--host=127.0.0.1",
        f"--port={port}",
    ]


_UNDERTONE = (sys.executable, "-m", "undertone_cli.main", "node")
