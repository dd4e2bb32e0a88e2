"""Flower deployed on this machine's loopback, as real processes that are ended whatever happens."""

import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import undertone_cli
from tests.support.superlink import eventually
from undertone_cli.loopback.processes import Processes
from undertone_cli.processes import free_ports

ROOT = Path(undertone_cli.__file__).parents[2]
BIN = Path(sys.executable).parent


def wait_until(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not happen; says what.
    """
    if not eventually(holds, seconds):
        raise TimeoutError(what)


@contextmanager
def processes(folder: Path, **environment: str) -> Iterator[Processes]:
    """Processes that run this working tree's code and are ended with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    tops = [ROOT, *(ROOT / top for top in ("common", "client", "server", "deployments"))]
    switched_off = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    here = {
        "PYTHONPATH": os.pathsep.join(map(str, tops)),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(folder / "flower"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with Processes(folder, switched_off | here | environment) as started:
        yield started


def start_superlink(world: Processes) -> int:
    """A SuperLink without TLS on loopback, known to `flwr` as "test"; its port."""
    (port,) = free_ports(1)
    (world.folder / "flower").mkdir()
    (world.folder / "flower" / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n\n[superlink.test]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    world.start("superlink", ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", port])
    return port


def dummy_app(folder: Path) -> Path:
    """The packaged app, but for its ServerApp, which knows the dummy method."""
    shutil.copytree(ROOT / "deployments" / "flower", folder)
    path = folder / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    ours = tomllib.loads(text)["tool"]["flwr"]["app"]["components"]["serverapp"]
    path.write_text(text.replace(ours, "tests.support.deployed_app:app"), encoding="utf-8")
    return folder


def submit(world: Processes, app: Path, run: Path) -> None:
    """`flwr run`."""
    words = ["flwr", "run", app, "test", "-c", f'run-dir="{run}"']
    assert world.start("flwr-run", words).wait(timeout=60) == 0, world.log("flwr-run")
