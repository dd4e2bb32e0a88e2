"""The SuperNode's Runtime API, as Flower's own SuperExec and ClientApp process speak it (flwr 1.41 and 1.42).

These are internals of Flower. Which of them are used, and what each takes, stands in tests/client/relay/
test_contract.py, which names what has moved when another flwr is installed. The app that a coordinator submits comes
with a task too; it is never unpacked.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import WARNING
from threading import Lock

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message

from undertone.core.text import REASON, shown
from undertone.errors import NotApproved

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_COMPONENT = "SuperExec"
_CALL_SECONDS = 20.0  # one call with its repetitions: a task that was claimed waits 30 s to be begun, then 60 s
_LONGEST_PAUSE = 5
_BUSY = frozenset({502, 503, 504})
_MOST_OBJECTS = 4096  # chunks of 5 MB: more than a vector of any length that a plan may have
_log = logging.getLogger("undertone.relay")
logging.getLogger("httpx").setLevel(WARNING)  # it would write a line for each question whether there is a task


class SuperNodeAway(Exception):
    """The SuperNode cannot be reached now; the text says why."""


class TaskLost(Exception):
    """The SuperNode does not wait for this task's answer any more; the text says why."""


@dataclass(frozen=True)
class Task:
    """A message that is there to be answered.

    Attributes:
        message: what arrived. Where it could not be read its content is empty, and `unreadable` says why.
    """

    message: Message
    unreadable: str
    answer: Callable[[Message], None]


class RuntimeApi:
    """One SuperNode's Runtime API on this machine."""

    def __init__(self, address: str, secret: bytes) -> None:
        """Connect to nothing yet.

        Args:
            address: HOST:PORT on loopback.
            secret: what the SuperNode was given by --superexec-auth-secret-file.
        """
        self._address = address
        signed = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({ACQUIRE}))
        self._waiting = Waiting(self._acquired)
        self._anyone = self._client()
        self._executor = self._client(signed)

    def _client(self, *interceptors: object, retry: RetryInvoker | None = None) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,  # HTTP on loopback
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=_COMPONENT), *interceptors],  # type: ignore[list-item]
            retry_invoker=retry,
        )

    def close(self) -> None:
        """Close connections."""
        self._anyone.close()
        self._executor.close()

    def check_secret(self) -> None:
        """Raise unless the SuperNode knows this relay by its secret, and takes nobody else.

        A question for tasks of no type at all claims nothing, so both can be asked.

        Raises:
            NotApproved: the SuperNode has another secret, or none: any user of this machine could answer for the site.
            SuperNodeAway: it cannot be reached.
        """
        with _reaching(self._address):
            if _status(self._executor) == httpx.codes.UNAUTHORIZED:
                raise NotApproved(
                    f"the SuperNode at {self._address} does not take this relay's secret: give both the same file"
                )
            if _status(self._anyone) != httpx.codes.UNAUTHORIZED:
                raise NotApproved(
                    f"the SuperNode at {self._address} gives tasks to whoever asks: start it with --isolation process "
                    "and --superexec-auth-secret-file"
                )

    @contextmanager
    def task(self) -> Iterator[Task | None]:
        """The next task, kept alive within the context; None if there is none.

        Raises:
            SuperNodeAway: it cannot be reached.
            TaskLost: it was claimed and is not waited for any more.
        """
        with _reaching(self._address):
            token = self._waiting.taken() or self._acquired()
        if not token:
            yield None
            return
        retry = RetryInvoker(
            lambda: exponential(max_delay=_LONGEST_PAUSE),
            (httpx.TransportError, httpx.HTTPStatusError),
            max_tries=None,
            max_time=_CALL_SECONDS,
            should_giveup=_final,
        )
        with self._client(RuntimeTokenHttpInterceptor(token), retry=retry) as client, _losing(), _beating(client):
            yield _pulled(client, self._waiting)

    def _acquired(self) -> str:
        """The token of a task that is now this relay's; empty if there is none."""
        found = self._executor.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        return found.token if found.HasField("task") else ""


class Waiting:
    """Whether another task is there while parts of one are missing.

    A SuperNode fetches one message at a time, and may take long over a slow line. Where the message's run ends
    meanwhile, Flower leaves the task as it is and goes on to the next: the parts never come, and a relay that waited
    for them would answer nobody for hours. That it went on is what tells the two apart.
    """

    def __init__(self, acquire: Callable[[], str]) -> None:
        self._acquire, self._token, self._lock = acquire, "", Lock()

    def is_there(self) -> bool:
        """Whether there is one; it is claimed then."""
        with self._lock:
            self._token = self._token or self._acquire()
            return bool(self._token)

    def taken(self) -> str:
        """The token of the one that was claimed meanwhile, once; empty if none was."""
        with self._lock:
            token, self._token = self._token, ""
            return token


def _status(client: RuntimeHttpClient) -> int:
    """What a question for tasks of no type is answered with."""
    try:
        client.AcquireTask(AcquireTaskRequest())
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return int(httpx.codes.OK)


def _final(error: Exception) -> bool:
    """Whether asking again cannot help."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in _BUSY


@contextmanager
def _reaching(address: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ValueError) as error:
        raise SuperNodeAway(f"{address}: {shown(f'{type(error).__name__}: {error}', REASON)}") from None


@contextmanager
def _losing() -> Iterator[None]:
    """Errors of the task's own calls as TaskLost. The SuperNode finds out by itself: heartbeats stop."""
    try:
        yield
    except (httpx.HTTPError, ObjectPullError, ObjectPushError, ValueError) as error:
        raise TaskLost(shown(f"{type(error).__name__}: {error}", REASON)) from None


@contextmanager
def _beating(client: RuntimeHttpClient) -> Iterator[None]:
    """Within, the SuperNode hears that somebody works on the task."""

    def beat() -> bool:
        """Whether no other try is needed. Flower's own would interrupt the process where a task has ended."""
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.TransportError:
            return False
        except httpx.HTTPStatusError as error:
            return error.response.status_code not in _BUSY
        return True

    sender = HeartbeatSender(beat)
    sender.start()
    try:
        yield
    finally:
        sender.stop()


def _pulled(client: RuntimeHttpClient, waiting: Waiting) -> Task:
    """The task's message. Its run, configuration and app are not looked at."""
    given = client.PullTaskInput(PullTaskInputRequest())
    run, node = given.run.run_id, Node(node_id=given.context.node_id)
    # Flower asks a process for whom it speaks before it may reply.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = given.task_id, run, node.node_id
    pulled = client.PullMessages(PullAppMessagesRequest())
    if not (pulled.messages_list and pulled.message_object_trees):
        raise TaskLost("a task without a message")
    message, unreadable = message_from_proto(pulled.messages_list[0]), ""
    tree = pulled.message_object_trees[0]
    try:
        message = _inflated(client, tree, node, run, waiting)
    except ObjectPullError:
        # Ended without a word: Flower would answer in our place, and hold each later reply back until one more comes.
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details=""))
        raise
    except httpx.HTTPError:
        raise
    except Exception as error:  # noqa: BLE001 - a coordinator wrote what is unpacked here
        unreadable = f"{type(error).__name__}: {error}"
    message.metadata.__dict__["_message_id"] = tree.object_id
    speaker = Context(run_id=run, node_id=node.node_id, node_config={}, state=RecordDict(), run_config={})

    def answer(reply: Message) -> None:
        push_message(client, reply, speaker)
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details=""))

    return Task(message, unreadable, answer)


def _inflated(client: RuntimeHttpClient, tree: ObjectTree, node: Node, run: int, waiting: Waiting) -> Message:
    if sum(1 for _ in iterate_object_tree(tree)) > _MOST_OBJECTS:
        raise ValueError(f"it has more than {_MOST_OBJECTS} parts")
    pull = make_pull_object_fn_protobuf(client.PullObject, node, run)

    def part(name: str) -> bytes:
        try:
            return pull(name)
        except ObjectUnavailableError:
            if waiting.is_there():
                raise ObjectPullError(name, "its run has ended: it will never be there") from None
            raise

    return pull_and_inflate_object_from_tree(
        tree,
        part,
        make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, run),
        return_type=Message,
    )


def error_reply(message: Message, reason: str) -> Message:
    """The refusal of a message that is not Undertone's: its sender would not understand a reply of ours."""
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
