"""`undertone node start` for real: node, SuperNode and relay under one account, at a SuperLink that knows its sites."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.deployed import Processes, processes, wait_until
from tests.support.federating import Hub, welcome_of
from tests.support.superlink import servers
from undertone_cli.processes import free_ports
from undertone_client.service.client import NodeClient
from undertone_client.service.place import socket_of
from undertone_server.home.fleet import connections, synchronise
from undertone_server.home.folder import Home
from undertone_server.home.settings import Settings


class Started:
    """A coordinator's servers and one site's processes."""

    def __init__(self, made: Hub, running: Processes) -> None:
        self.made, self.running, self.site = made, running, made.sites["north"]
        words = [sys.executable, "-m", "undertone_cli.main", "node", "start", self.site]
        self.process = running.start("start", words)

    def status(self) -> str:
        return connections(self.made.home).get("north", "")

    def says(self, pattern: str, seconds: float = 90.0) -> str:
        return self.running.says("start", pattern, seconds)

    def child(self, what: str) -> psutil.Process:
        """The process of this name that runs now."""
        found = [one for one in psutil.Process(self.process.pid).children() if what in " ".join(one.cmdline())]
        assert len(found) == 1, found
        return found[0]

    def count(self, text: str) -> int:
        return self.running.log("start").count(text)


@contextmanager
def started(folder: Path) -> Iterator[Started]:
    superlink, health, fleet = free_ports(3)
    settings = Settings(name="hub", fleet=f"https://localhost:{fleet}", superlink_port=superlink, health_port=health)
    folder.mkdir()
    made = Hub(folder, Home.create(folder / "home", settings))
    made.join("north", welcome_of(made.add("north", "east", "south")))
    # Straight to the SuperLink: nginx is a Debian package.
    place = made.sites["north"] / "federations" / "hub" / "connection.toml"
    place.write_text(f'fleet = "https://127.0.0.1:{superlink}"\n', encoding="utf-8")
    with servers(made.home), processes(folder / "logs") as running:
        yield Started(made, running)


@pytest.mark.slow
def test_one_command_brings_a_site_to_its_coordinator_and_leaves_no_process(tmp_path: Path) -> None:
    with started(tmp_path / "hub") as site:
        site.says(r"hub/relay \| .*the SuperNode knows this relay", 120)
        wait_until(lambda: site.status() == "online", "the site is not online")
        with NodeClient(socket_of(site.site)) as client:
            assert client.serves(10.0)
        family = psutil.Process(site.process.pid).children(recursive=True)
        assert len(family) >= 3
        site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(60) == 0, site.running.log("start")
        assert not [one for one in family if one.is_running()]
        wait_until(lambda: site.status() != "online", "the coordinator still counts it as connected", 10)


@pytest.mark.slow
def test_whoever_is_killed_comes_back_and_a_revoked_site_is_told_why(tmp_path: Path) -> None:
    with started(tmp_path / "hub") as site:
        site.says(r"hub/relay \| .*the SuperNode knows this relay", 120)
        for what, again, seconds in (
            ("node relay", lambda: site.count("the SuperNode knows this relay") == 2, 30),
            ("node serve", lambda: _serves(site.site), 90),
            ("flower-supernode", lambda: site.count("SuperNode ID:") == 2, 90),  # refused while it is still counted
        ):
            _killed(site, what, again, seconds)
        assert site.count("Exit Code: 305") >= 1
        assert site.status() == "online"
        site.made.remove("north")
        synchronise(site.made.home)
        assert site.process.wait(240) == 2
        said = site.running.log("start")
        assert re.search(
            r"NotConnected: the coordinator's server has not taken .* for 90 s \(Flower's code 305\)", said
        )
        assert "the key is not registered there, or was revoked" in said


def _killed(site: Started, what: str, again: Callable[[], bool], seconds: float) -> None:
    child = site.child(what)
    child.kill()
    began = time.monotonic()
    wait_until(lambda: not child.is_running(), f"{what} lives")
    wait_until(again, f"{what} is not back", seconds)
    print(f"{what}: back after {time.monotonic() - began:.0f} s")


def _serves(site: Path) -> bool:
    with NodeClient(socket_of(site)) as client:
        return client.serves(1.0)
