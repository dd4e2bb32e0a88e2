"""The in-process engine: the same ServerApp and ClientApp, no daemon, no sockets.

Messages pass through Flower's own serialisation, so what works here works over a wire. A node's
exception becomes an error reply without its text, as no exception may leave a site (PRIVACY 17).
"""

import logging
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from undertone.errors import FolderError

_RUN_ID = 1
_APP_RAISED = 2  # Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION
_log = logging.getLogger("undertone.engine")


class InProcessGrid(Grid):
    """A Grid whose nodes are ClientApp calls in this process, one after the other."""

    def __init__(self, client_app: ClientApp, sites: Mapping[int, Path]) -> None:
        self._app = client_app
        self._contexts = {
            node: Context(
                run_id=_RUN_ID,
                node_id=node,
                node_config={"site-dir": str(folder)},
                state=RecordDict(),
                run_config={},
            )
            for node, folder in sites.items()
        }
        self._sent: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """There is one run."""

    @property
    def run(self) -> Run:
        """Flower's description of the one run."""
        return Run.create_empty(_RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's older spelling of `Message(...)`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes: in process none goes away."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take each message; it is delivered when its reply is pulled, so that one reply is in memory at a time."""
        pushed = []
        for message in messages:
            identifier = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = identifier
            self._sent[identifier] = message
            pushed.append(identifier)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to messages that were pushed and not pulled yet."""
        for identifier in message_ids:
            if identifier in self._sent:
                yield self._deliver(self._sent.pop(identifier))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver and collect; there is nothing to wait for."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message:
        arrived = message_from_proto(message_to_proto(message))
        context = self._contexts[arrived.metadata.dst_node_id]
        try:
            reply = self._app(arrived, context)
        except Exception:  # noqa: BLE001 - whatever a site's code raises, the coordinator learns that it failed
            _log.exception("node %d failed", arrived.metadata.dst_node_id)
            reply = Message(Error(code=_APP_RAISED, reason="the site failed"), reply_to=arrived)
        return message_from_proto(message_to_proto(reply))


def run_inprocess(server_app: ServerApp, client_app: ClientApp, run: Path, sites: Iterable[Path]) -> None:
    """Run a ServerApp over sites in this process.

    Args:
        server_app: the coordinator's app.
        client_app: the node's app.
        run: the RUN folder.
        sites: each site's SITE_DIR.

    Raises:
        FolderError: no sites.
    """
    nodes = dict(enumerate(sorted(sites), SUPERLINK_NODE_ID + 1))
    if not nodes:
        raise FolderError(f"{run} has no sites to run")
    # Flower asks a process who it is before it may create messages.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, SUPERLINK_NODE_ID
    context = Context(
        run_id=_RUN_ID, node_id=SUPERLINK_NODE_ID, node_config={}, state=RecordDict(), run_config={"run-dir": str(run)}
    )
    server_app(InProcessGrid(client_app, nodes), context)
