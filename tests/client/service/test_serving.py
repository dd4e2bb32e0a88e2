"""A node behind its socket: the same answers as in process, for its owner alone, and nothing for what is malformed."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.world import World
from undertone import PROTOCOL
from undertone.errors import FolderError, NodeUnavailable
from undertone.wire.hello import CHALLENGE_BYTES, proves
from undertone.wire.messages import Request
from undertone_client.service.client import NodeClient
from undertone_client.service.place import make_folder, socket_of
from undertone_client.service.server import NodeService, serving

Make = Callable[..., World]
SECONDS = 20.0


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world()


@pytest.fixture
def client(world: World) -> Iterator[NodeClient]:
    folder = world.sites["north"]
    node = world.node()
    with (
        serving(NodeService(node.handle, node.state_due), folder, socket_of(folder)),
        NodeClient(socket_of(folder)) as client,
    ):
        yield client


def test_hello_is_answered_and_proven(world: World, client: NodeClient) -> None:
    challenge = os.urandom(CHALLENGE_BYTES)
    reply = client.ask(Request("hello", PROTOCOL, body=challenge), SECONDS)
    assert (reply.site, reply.error) == ("north", "")
    assert proves(world.run.federation(), "north", challenge, reply.body)
    assert client.serves(SECONDS)


def test_the_socket_is_its_owners_alone(world: World, client: NodeClient) -> None:
    assert client.serves(SECONDS)
    socket = socket_of(world.sites["north"])
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o750


def test_one_node_serves_a_site(world: World, client: NodeClient) -> None:
    folder = world.sites["north"]
    node = world.node()
    with (
        pytest.raises(FolderError, match="another node serves"),
        serving(NodeService(node.handle, node.state_due), folder, socket_of(folder)),
    ):
        pass
    assert client.serves(SECONDS)


def test_a_dead_node_is_named_at_once_and_met_again(world: World) -> None:
    folder = world.sites["north"]
    socket, node = socket_of(folder), world.node()
    service = NodeService(node.handle, node.state_due)
    hello = Request("hello", PROTOCOL, body=bytes(CHALLENGE_BYTES))
    with NodeClient(socket) as client:
        assert not client.serves(SECONDS)
        for _ in range(2):
            with pytest.raises(NodeUnavailable, match=r"cannot be reached now \(UNAVAILABLE\)"):
                client.ask(hello, SECONDS)
            with serving(service, folder, socket):
                assert wait_until_served(client).ask(hello, SECONDS).site == "north"
    assert not socket.exists()


def wait_until_served(client: NodeClient) -> NodeClient:
    for _ in range(100):
        if client.serves(0.2):
            return client
        time.sleep(0.05)
    raise AssertionError("the node is never met again")


def test_a_socket_that_a_dead_node_left_is_replaced(world: World) -> None:
    folder = world.sites["north"]
    make_folder(socket_of(folder))
    code = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(socket_of(folder))], check=True)
    node = world.node()
    with (
        serving(NodeService(node.handle, node.state_due), folder, socket_of(folder)),
        NodeClient(socket_of(folder)) as client,
    ):
        assert client.serves(SECONDS)


def test_a_path_that_is_too_long_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="--socket PATH"):
        socket_of(tmp_path / ("x" * 100))
    with pytest.raises(FolderError, match="107 bytes"):
        socket_of(tmp_path, Path("/tmp/" + "é" * 52))
    assert socket_of(tmp_path, Path("/" + "x" * 106)) == Path("/" + "x" * 106)


def test_a_folder_where_others_may_write_is_refused(tmp_path: Path) -> None:
    for mode in (0o770, 0o757, 0o1777):
        (tmp_path / "open").mkdir(exist_ok=True)
        (tmp_path / "open").chmod(mode)
        with pytest.raises(FolderError, match="others may write"):
            make_folder(tmp_path / "open" / "node.sock")
    (tmp_path / "open").chmod(0o755)
    make_folder(tmp_path / "open" / "node.sock")


def test_the_client_is_torch_free() -> None:
    code = "import sys, undertone_client.service.client; print({'torch', 'diffusers', 'flwr'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_an_unknown_method_is_unimplemented(world: World, client: NodeClient) -> None:
    assert client.serves(SECONDS)
    with grpc.insecure_channel(f"unix:{socket_of(world.sites['north'])}") as channel:
        for method in ("/undertone.node.Node/Forget", "/undertone.node.Other/Ask", "/x"):
            with pytest.raises(grpc.RpcError) as found:
                channel.unary_unary(method)(b"", timeout=SECONDS)
            assert found.value.code() == grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
