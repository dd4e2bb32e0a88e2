"""`undertone node serve` as a process: it answers, it is alone, it stops when it is told to, and it comes back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from undertone import PROTOCOL
from undertone.privacy.entropy import OsEntropy
from undertone.wire.messages import Request
from undertone_client.service.client import NodeClient
from undertone_client.service.place import socket_of
from undertone_client.site.config import NodeConfig
from undertone_client.site.folder import SiteDir, create_site
from undertone_client.site.policy import Policy

COMMAND = [sys.executable, "-c", "from undertone_cli.main import cli; cli()", "node", "serve"]
SECONDS = 120.0


@pytest.fixture
def site(tmp_path: Path) -> SiteDir:
    return create_site(tmp_path / "site", NodeConfig(site="north"), Policy(coordinators={}), OsEntropy())


@contextmanager
def node(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of the command, once it answers."""
    command = [*COMMAND, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_served(socket: Path, process: subprocess.Popen[str]) -> None:
    with NodeClient(socket) as client:
        deadline = time.monotonic() + SECONDS
        while not client.serves(1.0):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        reply = client.ask(Request("hello", PROTOCOL, body=os.urandom(32)), SECONDS)
        assert (reply.site, len(reply.body)) == ("north", 64)


def test_a_node_serves_is_alone_is_killed_comes_back_and_stops(site: SiteDir) -> None:
    socket = socket_of(site.folder)
    with node(site.folder) as first:
        wait_until_served(socket, first)
        with node(site.folder, "--socket", site.folder / "run" / "other.sock") as second:
            out, errors = second.communicate(timeout=SECONDS)
        assert (second.returncode, out) == (2, "")
        assert "another node serves" in errors
        first.kill()
        first.communicate()
    assert socket.exists()  # nobody took it away
    with node(site.folder) as again:
        wait_until_served(socket, again)
        again.send_signal(signal.SIGTERM)
        out, errors = again.communicate(timeout=SECONDS)
    assert (again.returncode, out) == (0, "")
    assert errors == f"north answers at {socket}\n"
    assert not socket.exists()
