"""A coordinator's servers and sites' SuperNodes as real processes on loopback; none is left behind."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.runs import spawn
from undertone_cli.processes import free_ports
from undertone_client.site.folder import SiteDir
from undertone_server.home.flower_files import environment, program
from undertone_server.home.folder import Home


def eventually(what: Callable[[], object], seconds: float) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Servers:
    """`undertone coordinator start`, up and ready."""

    def __init__(self, home: Home, *options: str) -> None:
        self.said: list[str] = []
        self.process = spawn("coordinator", "start", "--home", home.folder, *options)
        self._readers = [
            threading.Thread(target=self._read, args=(stream,)) for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Iterator[str]) -> None:
        self.said.extend(line.rstrip() for line in stream)

    def ready(self) -> bool:
        return any(line.startswith("ready: ") for line in self.said)

    def stop(self) -> int:
        """End it as systemd does; its exit code, when no process of it is left."""
        family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        try:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(40)
        finally:
            self.process.kill()
            for child in psutil.wait_procs(family, 5)[1]:
                child.kill()
        for reader in self._readers:
            reader.join(10)
        return code


@contextmanager
def servers(home: Home, *options: str) -> Iterator[Servers]:
    """Within, the coordinator's servers run."""
    running = Servers(home, *options)
    try:
        up = eventually(lambda: running.ready() or running.process.poll() is not None, 90)
        assert up, running.said
        assert running.process.poll() is None, running.said
        yield running
    finally:
        running.stop()


@contextmanager
def supernode(site: SiteDir, address: str, ca: Path, key: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Within, a site's SuperNode runs, with its key or another."""
    argv = [
        program("flower-supernode"),
        f"--superlink={address}",
        f"--root-certificates={ca}",
        f"--auth-supernode-private-key={key or site.flower_key}",
        "--isolation=process",
        "--host=127.0.0.1",
        f"--port={free_ports(1)[0]}",
    ]
    log = (site.folder / "supernode.log").open("wb")
    process = subprocess.Popen(
        argv, env=environment(site.folder / "flower", os.environ), stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()
