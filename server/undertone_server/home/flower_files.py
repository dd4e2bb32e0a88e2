"""How Flower's own programs run at a coordinator: flags of the SuperLink, environment and connection of the CLI."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from undertone.core.loopback import with_loopback
from undertone.core.quoting import toml_text

CONNECTION = "undertone"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def superlink_argv(*, port: int, health_port: int, certificate: Path, key: Path, ca: Path, database: Path) -> list[str]:
    """`flower-superlink` on loopback, with TLS and node authentication.

    It never installs what a submitted app asks for: studies run the code that is installed and hashed.
    """
    return [
        program("flower-superlink"),
        "--host=127.0.0.1",
        f"--port={port}",
        f"--health-server-address=127.0.0.1:{health_port}",
        f"--ssl-certfile={certificate}",
        f"--ssl-keyfile={key}",
        f"--ssl-ca-certfile={ca}",
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        f"--database={database}",
    ]


def program(name: str) -> str:
    """A program of this Python installation, by its path where it stands beside the interpreter."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else name


def environment(flower_home: Path, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of Flower's programs.

    They ask nobody outside (telemetry and the check for updates are off), find one another on PATH, and no proxy stands
    between them and loopback.
    """
    here, path = str(Path(sys.executable).parent), base.get("PATH", "")
    without = with_loopback(base.get("NO_PROXY", base.get("no_proxy", "")))
    return {
        **base,
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": without,
        "no_proxy": without,
        "PATH": path if here in path.split(os.pathsep) else os.pathsep.join([here, path]).rstrip(os.pathsep),
    }


def connection_toml(port: int, ca: Path) -> bytes:
    """Flower's config.toml: the one connection, to the SuperLink on loopback.

    Raises:
        ValueError: the path cannot be written as TOML.
    """
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n'
        f"root-certificates = {toml_text(str(ca))}\n"
    ).encode()
