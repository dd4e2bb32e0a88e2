"""Nodes behind sockets, with the thinnest relay between them and the messages; in this process or in one that dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Context, Message

from tests.support.world import World
from undertone import PROTOCOL
from undertone.errors import NodeUnavailable
from undertone.wire.flower import MESSAGE_TYPES, reply_to_records, request_from_records
from undertone.wire.messages import NO, Kind, Reply, Request
from undertone_client.app import app as client_app
from undertone_client.node import Node
from undertone_client.service.client import NodeClient
from undertone_client.service.place import socket_of
from undertone_client.service.queue import PreparationQueue
from undertone_client.service.server import NodeService, serving

ROOT = Path(__file__).parents[2]
DRIVER = [sys.executable, "-m", "tests.support.node_driver"]
KINDS: dict[str, Kind] = {name: kind for kind, name in MESSAGE_TYPES.items()}
SECONDS = 60.0


@contextmanager
def served(
    folder: Path, clock: Callable[[], float] = time.monotonic, log: list[str] | None = None
) -> Iterator[NodeClient]:
    """A node with a queue of preparations behind its socket, in this process, and somebody who asks it."""
    queue = PreparationQueue(([] if log is None else log).append, clock)
    node, socket = Node(folder, preparations=queue), socket_of(folder)
    try:
        with serving(NodeService(node.handle, node.state_due), folder, socket), NodeClient(socket) as client:
            yield client
    finally:
        queue.end(SECONDS)


def until_ready(client: NodeClient, request: Request) -> Reply:
    """Ask for ready until the answer is not no."""
    for _ in range(1000):
        reply = client.ask(request, SECONDS)
        if reply.body != NO:
            return reply
        time.sleep(0.01)
    raise AssertionError("never ready")


class Relayed:
    """Stands where the ClientApp stands: what is for the sites in `clients` goes through their sockets."""

    def __init__(self, clients: dict[str, NodeClient], failed: Callable[[str], None] = lambda _site: None) -> None:
        self._clients, self._failed = clients, failed
        self.lost: Callable[[str, Kind], bool] = lambda _site, _kind: False
        self.asked: list[tuple[str, Kind]] = []

    def __call__(self, message: Message, context: Context) -> Message:
        site = Path(str(context.node_config["site-dir"])).name
        if site not in self._clients:
            return client_app(message, context)
        kind = KINDS[message.metadata.message_type]
        self.asked.append((site, kind))
        try:
            reply = self._clients[site].ask(request_from_records(kind, message.content), SECONDS)
        except NodeUnavailable as error:
            self._failed(site)
            reply = Reply("", PROTOCOL, error=NodeUnavailable.__name__, message=str(error))
        if self.lost(site, kind):
            reply = Reply("", PROTOCOL, error=NodeUnavailable.__name__, message="the relay died with the answer")
        return Message(reply_to_records(reply), reply_to=message)


class DyingNode:
    """One site's node as a process that is killed by SIGKILL at one failpoint after the other."""

    def __init__(self, world: World, site: str, moments: list[tuple[str, int]]) -> None:
        """`moments`: failpoint and which hit of it, counted from each start."""
        self._folder, self._moments = world.sites[site], list(moments)
        self.kills: list[str] = []
        environment = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0"}
        self._driver = subprocess.Popen(
            DRIVER, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.client = NodeClient(socket_of(self._folder))
        self._process = 0
        self.start()

    def start(self) -> None:
        """The next process, which dies at the next moment; the last one lives."""
        name, count = self._moments[0] if self._moments else ("", 1)
        self._process = self._told({"site_dir": str(self._folder), "failpoint": name, "count": count})
        deadline = time.monotonic() + SECONDS
        while not self.client.serves(1.0):
            if time.monotonic() > deadline:
                raise AssertionError("the node does not come up")
            time.sleep(0.02)

    def failed(self, _site: str) -> None:
        """It gave no answer: see that it died where it should, and start it again."""
        ended = self._told({"wait": self._process})
        if ended != -signal.SIGKILL:
            raise AssertionError(f"the node ended with {ended}")
        self.kills.append(self._moments.pop(0)[0])
        self.start()

    def close(self) -> None:
        """End whatever lives."""
        self.client.close()
        self._told({"kill": self._process})
        if self._driver.stdin is not None:
            self._driver.stdin.close()
        self._driver.wait(timeout=SECONDS)

    def _told(self, command: dict[str, Any]) -> int:
        if self._driver.stdin is None or self._driver.stdout is None:
            raise RuntimeError("the driver has no pipes")
        self._driver.stdin.write(json.dumps(command) + "\n")
        self._driver.stdin.flush()
        return int(json.loads(self._driver.stdout.readline()))


def held(event: threading.Event) -> Callable[..., None]:
    """A step that waits until `event` is set."""

    def wait(*_: Any, **__: Any) -> None:
        if not event.wait(SECONDS):
            raise AssertionError("nobody let it go")

    return wait
