"""A node behind gRPC on its Unix socket (docs/ARCHITECTURE.md)."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from undertone import PROTOCOL
from undertone.core.durable import storage_errors
from undertone.errors import FolderError, ProtocolError
from undertone.wire.grpc_form import LARGEST_FRAME, reply_to_frames, request_from_frames
from undertone.wire.messages import Reply, Request
from undertone.wire.node_pb2 import ReplyFrame, RequestFrame
from undertone.wire.node_pb2_grpc import NodeServicer, add_NodeServicer_to_server
from undertone_client.service.place import SOCKET_MODE, make_folder

NAME = "undertone.node.Node"
_AT_ONCE = 8
_WAITING = 32
_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_FRAME),
    ("grpc.max_send_message_length", LARGEST_FRAME),
    ("grpc.so_reuseport", 0),
)


class NodeService(NodeServicer):
    """Reads each request strictly, hands it to the node, and writes its reply."""

    def __init__(self, handle: Callable[[Request], Reply], state_due: Callable[[Request], int]) -> None:
        """Nothing is read yet.

        Args:
            handle: a node's.
            state_due: the most bytes of a state that a request may bring; see `request_from_frames`.
        """
        self._handle, self._state_due = handle, state_due

    def Ask(self, frames: Iterable[RequestFrame], _context: grpc.ServicerContext) -> Iterator[ReplyFrame]:
        """One request, one reply; what cannot be read is refused in the node's name by the relay's coordinator."""
        try:
            request = request_from_frames(frames, self._state_due)
        except ProtocolError as error:
            reply = Reply("", PROTOCOL, error=ProtocolError.__name__, message=str(error))
        else:
            reply = self._handle(request)
        yield from reply_to_frames(reply)


@contextmanager
def serving(service: NodeService, site_dir: Path, socket: Path) -> Iterator[None]:
    """Within, the service answers at `socket`, which its owner alone may use; one node serves a SITE_DIR.

    Raises:
        FolderError: another node serves it, or the socket cannot be made.
    """
    with _alone(site_dir), ThreadPoolExecutor(_AT_ONCE, "node") as threads:
        make_folder(socket)
        server = grpc.server(threads, options=_OPTIONS, maximum_concurrent_rpcs=_WAITING)
        add_NodeServicer_to_server(service, server)
        health = HealthServicer()
        add_HealthServicer_to_server(health, server)
        _bind(server, socket)
        server.start()
        for name in ("", NAME):
            health.set(name, HealthCheckResponse.SERVING)
        try:
            yield
        finally:
            health.enter_graceful_shutdown()
            server.stop(grace=1.0).wait()
            socket.unlink(missing_ok=True)


@contextmanager
def _alone(site_dir: Path) -> Iterator[None]:
    """Within, no other process serves this SITE_DIR: the second would take the socket away from the first."""
    make_folder(site_dir / "run" / "node.lock")
    with storage_errors(site_dir), (site_dir / "run" / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderError(f"another node serves {site_dir} already; stop it first (one node a SITE_DIR)") from None
        yield


def _bind(server: grpc.Server, socket: Path) -> None:
    """Open the socket, with no moment at which others could use it. A socket that a dead node left is replaced."""
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise FolderError(f"no socket can be made at {socket} ({error}); look at what is there") from None
    finally:
        os.umask(before)
