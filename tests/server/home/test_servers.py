"""The SuperLink lets in the sites that are in the federation; through nginx nobody reaches anything else of it.

Real processes on loopback: `undertone coordinator start`, flower-superlink, flower-supernode, nginx.
"""

import os
import shutil
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPSConnection
from pathlib import Path
from socket import create_connection, socket

import psutil
import pytest
from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest
from flwr.proto.message_pb2 import PushObjectRequest

from tests.support.federating import Hub, welcome_of
from tests.support.runs import call
from tests.support.superlink import Servers, eventually, servers, supernode
from undertone.core.flower_keys import public_flower_key, registered_form
from undertone.errors import SuperLinkUnreachable
from undertone_cli.processes import free_ports
from undertone_server.home.fleet import connections, synchronise
from undertone_server.home.folder import Home
from undertone_server.home.servers import Server, run
from undertone_server.home.settings import Settings

PROTOBUF = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}


def coordinator(folder: Path) -> Hub:
    """A coordinator on free ports of loopback, with two sites that have joined."""
    superlink, health, fleet = free_ports(3)
    settings = Settings(name="heart", fleet=f"https://localhost:{fleet}", superlink_port=superlink, health_port=health)
    folder.mkdir()
    made = Hub(folder, Home.create(folder / "home", settings))
    welcome = welcome_of(made.add("north", "east"))
    for name in ("north", "east"):
        made.join(name, welcome)
    return made


def is_connected(made: Hub, site: str) -> bool:
    return connections(made.home).get(site) == "online"


def test_without_a_superlink_it_is_said(tmp_path: Path) -> None:
    made = coordinator(tmp_path / "hub")
    with pytest.raises(SuperLinkUnreachable, match="coordinator start"):
        synchronise(made.home)


def test_the_commands_are_printed_for_systemd(tmp_path: Path) -> None:
    made = coordinator(tmp_path / "hub")
    said = call("coordinator", "start", "--home", made.home.folder, "--nginx", "--print").stdout.splitlines()
    assert [("flower-superlink " in line, "nginx" in line) for line in said] == [(True, False), (False, True)]
    assert all(f"FLWR_HOME={made.home.folder}/superlink/flower" in line for line in said)


def test_certificates_that_do_not_serve_stop_the_start(tmp_path: Path) -> None:
    made = coordinator(tmp_path / "hub")
    tls = made.home.folder / "tls"
    shutil.copyfile(tls / "loopback.key", tls / "server.key")
    result = call("coordinator", "start", "--home", made.home.folder)
    assert (result.exit_code, "does not serve localhost" in result.stderr) == (2, True)


@pytest.mark.slow
def test_a_port_that_is_taken_ends_the_start_and_leaves_no_process(tmp_path: Path) -> None:
    made = coordinator(tmp_path / "hub")
    with socket() as taken:
        taken.bind(("127.0.0.1", made.home.settings.superlink_port))
        taken.listen()
        result = call("coordinator", "start", "--home", made.home.folder)
    assert (result.exit_code, "flower-superlink ended with exit code" in result.stderr) == (2, True)


def test_when_a_program_ends_what_it_started_ends_too_in_whatever_session(tmp_path: Path) -> None:
    """A SuperLink that is killed leaves the studies' programs behind, in sessions of their own and deaf to signals."""
    made, written = coordinator(tmp_path / "hub"), tmp_path / "pid"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    parent = (
        "import subprocess, sys, time; from pathlib import Path; "
        f"child = subprocess.Popen([sys.executable, '-c', {deaf!r}], start_new_session=True); "
        f"time.sleep(1); Path({str(written)!r}).write_text(str(child.pid)); sys.exit(7)"
    )
    with pytest.raises(SuperLinkUnreachable, match="a parent ended with exit code 7"):
        run(made.home, [Server("a parent", [sys.executable, "-c", parent], dict(os.environ))], lambda _done: None)
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(written.read_text())).status() == psutil.STATUS_ZOMBIE


def test_registered_sites_get_through_and_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = coordinator(tmp_path / "hub")
    home, north, stranger = made.home, made.site("north"), made.site("stranger")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # as at a hospital: nothing on loopback may take it
    address, ca = f"127.0.0.1:{home.settings.superlink_port}", north.root_certificate("heart")
    with servers(home) as running:
        assert "north: registered at the SuperLink" in running.said
        assert connections(home) == {"east": "registered", "north": "registered"}
        with supernode(north, address, ca), supernode(stranger, address, ca) as refused:
            assert eventually(lambda: is_connected(made, "north"), 60)
            assert eventually(lambda: refused.poll() is not None, 60)
            assert "305" in (stranger.folder / "supernode.log").read_text()
        made.request("stranger")
        added = call("coordinator", "add-node", "--home", home.folder, made.folder / "stranger.request")
        assert "stranger: registered at the SuperLink" in added.stdout
        removed = call("coordinator", "remove-node", "east", "--home", home.folder, "--yes")
        assert "east: unregistered at the SuperLink" in removed.stdout
        with supernode(made.site("east"), address, ca) as gone, supernode(stranger, address, ca):
            assert eventually(lambda: is_connected(made, "stranger"), 60)
            assert eventually(lambda: gone.poll() is not None, 60)
        (home.sites / "retired").rename(made.folder / "forgotten")  # nothing here remembers that key: Flower does
        made.add("east")
        assert synchronise(home).refused == ["east"]
        assert running.stop() == 0
    assert running.said[-1] == "stopped by SIGTERM"


# --- behind nginx -----------------------------------------------------------------------------------------


class Fleet:
    """What anybody on the network can send to the coordinator's address."""

    def __init__(self, home: Home) -> None:
        self.home, self.context = home, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(home.ca)

    def status(self, path: str, method: str = "POST", body: bytes = b"", headers: dict[str, str] | None = None) -> int:
        """The answer to a request whose path is sent as it stands."""
        connection = HTTPSConnection("localhost", self.home.settings.address.port, context=self.context, timeout=30)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {"Content-Length": str(len(body)), **PROTOBUF, **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            return connection.getresponse().status
        finally:
            connection.close()

    def raw(self, data: bytes) -> int:
        """The answer to bytes; who answers early hears no more of them."""
        port = self.home.settings.address.port
        with (
            create_connection(("localhost", port), timeout=30) as plain,
            self.context.wrap_socket(plain, server_hostname="localhost") as stream,
        ):
            with suppress(ConnectionError, ssl.SSLError):
                stream.sendall(data)
            return int(stream.recv(12).removeprefix(b"HTTP/1.1 "))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return coordinator(tmp_path_factory.mktemp("behind") / "hub")


@pytest.fixture(scope="module")
def behind(made: Hub) -> Iterator[Servers]:
    with servers(made.home, "--nginx") as running:
        yield running


@pytest.mark.slow
def test_a_piece_of_a_vector_gets_through_and_touches_no_disk(made: Hub, behind: Servers) -> None:
    """Started by root, nginx works as nobody, who can write nowhere in COORDINATOR_DIR."""
    piece = PushObjectRequest(object_content=bytes(5 << 20)).SerializeToString()
    assert Fleet(made.home).status("/v1/fleet/push-object", body=piece) == 401  # of Flower: nobody has signed it
    assert not [line for line in behind.said if "nginx/tmp" in line]


@pytest.mark.slow
@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/control/list-nodes",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/../runtime/acquire-task",
        "/v1/fleet/..%2fcontrol/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet/%252e%252e/control/list-nodes",
        "/v1/fleet/..;/control/list-nodes",
        "/v1/fleet//../control/list-nodes",
        "/v1/fleet/register-node/../../control/list-nodes",
        "//v1/control/list-nodes",
        "/v1//control/list-nodes",
        "/v1/./control/list-nodes",
        "/V1/control/list-nodes",
        "/v1/control/list-nodes/../../fleet/register-node",
        "/v1/control/../fleet/register-node",
        "/v1/fleet/register-node?x=/v1/control/list-nodes",
        "/v1/fleet/register-node#/v1/control",
        "/v1/fleet/",
        "/v1/fleet",
        "https://localhost/v1/control/list-nodes",
    ],
)
def test_attack_paths_that_are_not_the_sites(made: Hub, path: str) -> None:
    assert Fleet(made.home).status(path) == 404


@pytest.mark.slow
@pytest.mark.usefixtures("behind")
def test_attack_without_a_key_or_with_another_method_or_too_much(made: Hub) -> None:
    fleet, register = Fleet(made.home), "/v1/fleet/register-node"
    key = registered_form(public_flower_key(made.site("north").flower_key))
    assert fleet.status(register, body=RegisterNodeFleetRequest(public_key=key).SerializeToString()) == 401
    long = RegisterNodeFleetRequest(public_key=bytes(1 << 20)).SerializeToString()
    assert fleet.status(register, body=long) == 401  # by the SuperLink: a body beyond nginx's buffers has reached it
    assert fleet.status(register, "GET") == 403
    assert fleet.status(register, "PUT") == 403
    assert fleet.status(register, headers={"Content-Length": str(17 << 20)}) == 413


@pytest.mark.slow
@pytest.mark.usefixtures("behind")
def test_attack_a_body_that_does_not_say_how_long_it_is(made: Hub) -> None:
    """What is sent is counted, and a request that two readers would end at two places is not passed on."""
    fleet, register, post = Fleet(made.home), b"/v1/fleet/register-node", b"POST %s HTTP/1.1\r\nHost: localhost\r\n"
    piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    chunked = post % register + b"Content-Type: application/protobuf\r\nTransfer-Encoding: chunked\r\n"
    assert fleet.raw(chunked + b"\r\n" + 17 * piece) == 413
    hidden = b"0\r\n\r\n" + post % b"/v1/control/list-nodes" + b"\r\n"
    assert fleet.raw(chunked + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden) == 400


@pytest.mark.slow
@pytest.mark.usefixtures("behind")
def test_attack_old_tls_and_a_foreign_ca(made: Hub, tmp_path: Path) -> None:
    fleet = Fleet(made.home)
    fleet.context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        fleet.status("/v1/fleet/register-node")
    fleet.context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        fleet.status("/v1/fleet/register-node")


@pytest.mark.slow
def test_through_nginx_a_site_gets_through_until_it_is_removed(made: Hub, behind: Servers) -> None:
    north, home = made.site("north"), made.home
    address, ca = north.connection("heart").address.authority, north.root_certificate("heart")
    stranger = made.site("stranger")
    made.add("south")
    synchronise(home)
    with supernode(north, address, ca) as node, supernode(stranger, address, ca) as refused:
        assert eventually(lambda: is_connected(made, "north"), 60)
        assert eventually(lambda: refused.poll() is not None, 60)
        removed = call("coordinator", "remove-node", "north", "--home", home.folder, "--yes")
        assert "north: unregistered at the SuperLink" in removed.stdout
        assert eventually(lambda: node.poll() is not None, 90), "a revoked site's SuperNode still runs"
    assert behind.process.poll() is None


@pytest.mark.slow
def test_when_nginx_dies_the_superlink_ends_too_and_what_was_registered_stays(tmp_path: Path) -> None:
    made = coordinator(tmp_path / "hub")
    with servers(made.home, "--nginx") as running:
        (nginx,) = (child for child in psutil.Process(running.process.pid).children() if child.name() == "nginx")
        nginx.kill()
        assert running.process.wait(30) == 2
        assert eventually(lambda: any("nginx ended with exit code" in line for line in running.said), 10)
    with servers(made.home, "--nginx") as again:  # its workers outlive it, with its port, where nobody ends them
        assert "2 sites were registered before" in again.said
