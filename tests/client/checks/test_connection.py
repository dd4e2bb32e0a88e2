"""A site and its coordinators: each check of what joins them, seen to fail and to pass with real sockets."""

import fcntl
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.federating import Hub, hub, welcome_of
from tests.support.fleet import Told, fake_fleet
from tests.support.served import served
from undertone.core.clock import utc_now
from undertone.errors import FolderError
from undertone.preflight.fleet import CLOSED, FLEET
from undertone.preflight.running import run
from undertone.preflight.verdict import Verdict
from undertone_cli.processes import free_ports
from undertone_client.checks.inspection import Inspection
from undertone_client.checks.registry import CHECKS, CONNECTED, checks_of
from undertone_client.relay.presence import present
from undertone_client.service.place import socket_of
from undertone_client.site.folder import SiteDir
from undertone_server.home.certificates import Pair, load_ca, make_certificate
from undertone_server.home.membership import issue

ALL = CHECKS | CONNECTED
Serve = Callable[..., AbstractContextManager[int]]


@pytest.fixture
def made(tmp_path: Path) -> Hub:
    """A coordinator on loopback, of whose federation north is."""
    (port,) = free_ports(1)
    found = hub(tmp_path / "hub", fleet=f"https://127.0.0.1:{port}")
    found.join("north", welcome_of(found.add("north", "east")))
    return found


@pytest.fixture
def serve(made: Hub, tmp_path: Path) -> Serve:
    """The coordinator's server, as it would be or with another certificate."""

    def begin(pair: Pair | None = None, **told: Any) -> AbstractContextManager[int]:
        ca = load_ca(made.home.ca, made.home.ca.with_suffix(".key"))
        own = make_certificate(["127.0.0.1"], 100, utc_now(), ca)
        return fake_fleet(tmp_path, pair or own, made.home.settings.address.port, Told(**told))

    return begin


def inspect(made: Hub, **changes: Any) -> Inspection:
    values: dict[str, Any] = {"now": utc_now(), "environment": {}} | changes
    return Inspection(SiteDir(made.sites["north"]), **values)


def says(name: str, looked_at: Inspection, status: str, words: str = "") -> Verdict:
    (found,) = run({name: ALL[name]}, looked_at)
    assert (found.name, found.status, words in found.sentence) == (name, status, True), found
    assert found.status == "PASS" or found.remedy
    assert "127.0.0.1" not in found.sentence
    return found


def test_a_site_that_is_connected_passes_all_that_needs_no_data(made: Hub, serve: Serve) -> None:
    folder = made.sites["north"]
    with serve(), served(folder), present(folder, "heart") as say:
        say(True)
        found = {one.name: one.status for one in run(checks_of(inspect(made)), inspect(made))}
    assert found == dict.fromkeys(ALL, "PASS")


def test_what_needs_a_network_is_left_out_offline_and_before_a_site_has_joined(made: Hub) -> None:
    assert list(checks_of(inspect(made, offline=True))) == list(CHECKS)
    alone = Inspection(made.site("south"), utc_now())
    assert list(checks_of(alone)) == list(CHECKS)
    (verdict,) = run({"manifest": CHECKS["manifest"]}, alone)
    assert verdict.sentence == "no federation is joined yet"


# --- the coordinator's server -----------------------------------------------------------------------------------


def test_coordinator(made: Hub, serve: Serve) -> None:
    says("coordinator", inspect(made), "FAIL", "heart is not reached at its fleet address")
    with serve():
        says("coordinator", inspect(made), "PASS", "heart is reached")


def test_an_expired_and_a_foreign_certificate(made: Hub, serve: Serve, tmp_path: Path) -> None:
    ca = load_ca(made.home.ca, made.home.ca.with_suffix(".key"))
    with serve(make_certificate(["127.0.0.1"], 1, utc_now() - timedelta(days=2), ca)):
        says("coordinator", inspect(made), "FAIL", "the certificate of heart has expired")
    other = hub(tmp_path / "other").home
    with serve(make_certificate(["127.0.0.1"], 10, utc_now(), load_ca(other.ca, other.ca.with_suffix(".key")))):
        says("coordinator", inspect(made), "FAIL", "not by the CA that was pinned")
    with serve(make_certificate(["127.0.0.1"], 10, utc_now(), ca)):
        says("coordinator", inspect(made), "WARN", "expires within a month")


def test_a_ca_that_the_manifest_does_not_name(made: Hub, serve: Serve, tmp_path: Path) -> None:
    with serve():
        pinned = made.site("north").root_certificate("heart")
        whole = pinned.read_bytes()
        pinned.write_bytes(hub(tmp_path / "other").home.ca.read_bytes())
        says("coordinator", inspect(made), "FAIL", "ca.crt of heart is not the certificate")
        pinned.write_bytes(b"no certificate")
        says("coordinator", inspect(made), "FAIL")
        pinned.write_bytes(whole)
        says("coordinator", inspect(made), "PASS")


def test_control_api(made: Hub, serve: Serve) -> None:
    with serve(statuses={FLEET: 401, CLOSED[0]: 200}):
        says("control API", inspect(made), "FAIL", "the SuperLink of heart is open to the network")
    with serve():
        says("control API", inspect(made), "PASS")


def test_large_messages(made: Hub, serve: Serve) -> None:
    with serve(largest=1 << 20):
        says("large messages", inspect(made), "FAIL", "refuses Flower's pieces of 5 MB")
    with serve():
        says("large messages", inspect(made), "PASS")


@pytest.mark.parametrize(("ahead", "status"), [(6, "FAIL"), (-310, "FAIL"), (0, "PASS")])
def test_a_clock_against_the_coordinators(made: Hub, serve: Serve, ahead: int, status: str) -> None:
    def clock() -> datetime:
        return utc_now() + timedelta(seconds=ahead)

    with serve():
        says("clock", inspect(made, now=clock(), clock=clock), status, "of heart")


def test_a_coordinator_that_is_not_reached_leaves_its_clock_unasked(made: Hub) -> None:
    says("clock", inspect(made), "PASS", "the coordinator's clock was not asked")


def test_proxy(made: Hub) -> None:
    proxied = {"HTTPS_PROXY": "http://proxy:3128"}
    says("proxy", inspect(made, environment=proxied), "FAIL", "NO_PROXY leaves out this machine")
    says("proxy", inspect(made, environment=proxied | {"NO_PROXY": "127.0.0.1"}), "PASS")


# --- the manifest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "status"), [(0, "PASS"), (334, "PASS"), (336, "WARN"), (364, "WARN"), (365, "FAIL")])
def test_manifest(made: Hub, days: int, status: str) -> None:
    says("manifest", inspect(made, now=utc_now() + timedelta(days=days, minutes=1)), status)


def test_a_manifest_that_is_older_than_the_coordinators(made: Hub) -> None:
    first = made.home.manifests / "0001.welcome"
    says("manifest", inspect(made, welcomes=[first.read_bytes()]), "PASS", "the coordinator's newest")
    newer = welcome_of(issue(made.home, utc_now(), anew=True))
    says("manifest", inspect(made, welcomes=[newer]), "FAIL", "older than the coordinator's")
    says("manifest", inspect(made, welcomes=[b"no welcome"]), "FAIL", "cannot be taken")
    made.join("north", newer)
    says("manifest", inspect(made, welcomes=[newer]), "PASS", "the coordinator's newest")


def test_a_manifest_that_was_not_pinned(made: Hub) -> None:
    path = made.site("north").federation_folder("heart") / "federation.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"heart", b"paths"))
    says("manifest", inspect(made), "FAIL", "is not the one that this site approved")
    path.write_bytes(whole)
    says("manifest", inspect(made), "PASS")


# --- the site's own processes -------------------------------------------------------------------------------------


def test_node(made: Hub) -> None:
    folder = made.sites["north"]
    says("node", inspect(made), "FAIL", "no node serves here")
    with served(folder):
        says("node", inspect(made), "PASS")
        place = socket_of(folder)
        place.chmod(0o666)
        says("node", inspect(made), "FAIL", "socket can be used by others")
        place.chmod(0o600)
        place.parent.chmod(0o755)
        says("node", inspect(made), "FAIL", "folder of the node's socket is open")
        place.parent.chmod(0o750)
        says("node", inspect(made), "PASS")
    says("node", inspect(made), "FAIL", "no node serves here")
    socket_of(folder).touch(mode=0o600)
    says("node", inspect(made), "FAIL", "is no socket")


def test_a_node_that_is_gone_or_hangs(made: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undertone_client.checks.connection._ANSWER_SECONDS", 0.3)
    place = tmp_path / "n.sock"
    tmp_path.chmod(0o750)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place))
        place.chmod(0o600)
        says("node", inspect(made, socket=place), "FAIL", "does not answer")
        bound.listen()
        says("node", inspect(made, socket=place), "FAIL", "does not answer")


def test_relay(made: Hub) -> None:
    folder = made.sites["north"]
    says("relay", inspect(made), "FAIL", "no relay to heart runs here")
    with present(folder, "heart") as say:
        says("relay", inspect(made), "FAIL", "finds no SuperNode")
        say(True)
        says("relay", inspect(made), "PASS")
        say(False)
        says("relay", inspect(made), "FAIL", "finds no SuperNode")
        say(True)
    says("relay", inspect(made), "FAIL", "no relay to heart runs here")


def test_one_relay_of_a_coordinator_at_a_time_and_whoever_looks_does_not_count(made: Hub) -> None:
    folder, stop = made.sites["north"], threading.Event()

    def look_again() -> Iterator[None]:
        while not stop.is_set():
            yield from run({"relay": CONNECTED["relay"]}, inspect(made))

    with present(folder, "heart"), pytest.raises(FolderError, match="another relay"), present(folder, "heart"):
        pass
    thread = threading.Thread(target=lambda: list(look_again()))
    thread.start()
    try:
        for _ in range(20):
            with present(folder, "heart"):
                pass
    finally:
        stop.set()
        thread.join()


def test_a_relay_waits_a_moment_for_whoever_looks(made: Hub) -> None:
    folder = made.sites["north"]
    with present(folder, "heart"):
        pass
    with (folder / "run" / "relay-heart.lock").open("rb") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        timer = threading.Timer(0.5, lambda: fcntl.flock(looked_at, fcntl.LOCK_UN))
        timer.start()
        with present(folder, "heart"):
            timer.join()
