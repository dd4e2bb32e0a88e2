"""What a relay asks its node with: one question, one answer, within a time limit. Torch-free."""

from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from undertone.errors import NodeUnavailable, ProtocolError
from undertone.wire.grpc_form import LARGEST_FRAME, LARGEST_VECTOR, reply_from_frames, request_to_frames
from undertone.wire.messages import Reply, Request
from undertone.wire.node_pb2_grpc import NodeStub

# A node that comes back is met at once, and no proxy of the environment is asked for a file of this machine.
OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_FRAME),
    ("grpc.max_send_message_length", LARGEST_FRAME),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_WITH_WORDS = ("plain_input", "masked_input")


class NodeClient:
    """A connection to a node's socket, made when it is first used and made anew after each failure."""

    def __init__(self, socket: Path) -> None:
        """Nothing is connected yet.

        Args:
            socket: the node's, as `undertone_client.service.place.socket_of` says.
        """
        self._channel = grpc.insecure_channel(f"unix:{socket.absolute()}", options=OPTIONS)
        self._node, self._health = NodeStub(self._channel), HealthStub(self._channel)

    def __enter__(self) -> "NodeClient":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _: BaseException | None, _at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def ask(self, request: Request, timeout: float) -> Reply:
        """The node's answer or refusal.

        Args:
            request: read strictly already, its state still packed.
            timeout: seconds until the whole answer must be there.

        Raises:
            NodeUnavailable: no node at the socket, no answer in time, or one that cannot be read. Whether the node
                took the request is not known then: it answers each attempt and each step once.
        """
        words_due = LARGEST_VECTOR if request.kind in _WITH_WORDS else 0
        try:
            return reply_from_frames(self._node.Ask(request_to_frames(request), timeout=timeout), words_due)
        except grpc.RpcError as error:
            raise NodeUnavailable(f"the site's node cannot be reached now ({_status(error)})") from None
        except ProtocolError as error:
            raise NodeUnavailable(f"the site's node gave no answer that can be read: {error}") from None

    def serves(self, timeout: float) -> bool:
        """Whether a node answers at the socket and says that it serves (gRPC health)."""
        try:
            found = self._health.Check(HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
        return bool(found.status == HealthCheckResponse.SERVING)


def _status(error: grpc.RpcError) -> str:
    """The name of a gRPC status: its details would name paths of this machine, and a coordinator is told this."""
    code = error.code() if isinstance(error, grpc.Call) else None
    return "UNKNOWN" if code is None else str(code.name)
