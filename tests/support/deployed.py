"""Flower deployed on this machine's loopback, as real processes that are ended whatever happens."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import undertone_cli
from undertone_cli.processes import free_port

ROOT = Path(undertone_cli.__file__).parents[2]
BIN = Path(sys.executable).parent


def wait_until(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not happen; says what.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


class Processes:
    """Named processes, each with its output in FOLDER/NAME.log."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = {**os.environ, **environment}
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, words: Sequence[object]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as out:
            self._started[name] = subprocess.Popen(
                [str(word) for word in words],
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        return self._started[name]

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def says(self, name: str, pattern: str, seconds: float = 60.0) -> str:
        """Wait until a process has said something; what it said."""
        with suppress(TimeoutError):
            wait_until(
                lambda: re.search(pattern, self.log(name)) or self._started[name].poll() is not None, "", seconds
            )
        found = re.search(pattern, self.log(name))
        if found is None:
            raise TimeoutError(f"{name} did not say {pattern!r}, but:\n{self.log(name)[-4000:]}")
        return found[0]

    def end(self) -> None:
        """End all of them and whatever they started, and wait for that."""
        found: list[psutil.Process] = []
        for process in reversed(self._started.values()):
            try:
                found += [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            process.terminate()
        _, alive = psutil.wait_procs(found, timeout=10)
        for left in alive:
            left.kill()
        psutil.wait_procs(alive, timeout=10)
        for process in self._started.values():
            process.wait(timeout=10)


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
    started = Processes(folder, switched_off | here | environment)
    try:
        yield started
    finally:
        started.end()


def start_superlink(world: Processes) -> int:
    """A SuperLink without TLS on loopback, known to `flwr` as "test"; its port."""
    port = free_port()
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
