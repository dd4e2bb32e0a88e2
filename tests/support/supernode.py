"""Flower's own Runtime API of a SuperNode, in this process and with no SuperLink behind it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, Status
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

RUN, NODE, SERIES = 11, 7, 5
SECRET = b"secret of a test"


class SuperNode:
    """What a SuperNode holds between the SuperLink and a relay.

    Attributes:
        address: HOST:PORT of the Runtime API.
    """

    def __init__(self, secret: bytes | None = SECRET, fab: bytes = b"") -> None:
        self._stores = ObjectStoreFactory()
        factory = NodeStateFactory(self._stores)
        self.state, self.address = factory.state(), ""
        self.state.set_node_id(NODE)
        run = Run.create_empty(RUN)
        run.series_id = SERIES
        run.fab_hash = self.state.store_fab(Fab("", fab, {}))
        self.state.store_run(run)
        context = Context(RUN, NODE, node_config={}, state=RecordDict(), run_config={})
        self.state.set_run_series_context(SERIES, context)
        self._fab_hash, self.absent = run.fab_hash, dict[str, bytes]()
        self.server = uvicorn.Server(
            uvicorn.Config(create_app(factory, secret), host="127.0.0.1", port=0, log_level="warning")
        )

    def put(
        self,
        message_type: str,
        content: RecordDict,
        ttl: float | None = None,
        *,
        spoil: bool = False,
        absent: bool = False,
    ) -> str:
        """A message that waits for an answer; its id.

        `spoil`: its records' bytes are not what they should be; `absent`: they never come, as where a run ends while
        the SuperNode fetches them.
        """
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, SUPERLINK_NODE_ID
        message = Message(content, dst_node_id=NODE, message_type=message_type, ttl=ttl)
        message.metadata.__dict__["_message_id"] = message.object_id
        store, objects = self._stores.store(), get_all_nested_objects(message)
        store.preregister(RUN, get_object_tree(message))
        contents = {name: one.deflate() for name, one in objects.items()}
        self.absent = contents if absent else {}
        for name, data in [] if absent else contents.items():
            store.put(name, data)
            if spoil and name != message.object_id:
                store.store[name].content = data[:8] + b"\xff" * 8  # type: ignore[attr-defined]
        self.state.store_message(message)
        assert self.state.create_task(TaskType.CLIENT_APP, RUN, self._fab_hash)
        return cast(str, message.object_id)

    def bring(self) -> None:
        """The parts of the last message that was put without them."""
        for name, data in self.absent.items():
            self._stores.store().put(name, data)

    def unfinished(self) -> int:
        """Tasks whose end Flower waits for; for one that a relay leaves it answers by itself, a minute later."""
        return sum(task.status.status != Status.FINISHED for task in self.state.get_tasks())

    def reply(self, seconds: float = 20.0) -> Message:
        """The next reply that a relay pushed.

        Raises:
            TimeoutError: there is none.
        """
        end = time.monotonic() + seconds
        while not (found := self.state.get_messages_legacy(is_reply=True)):
            if time.monotonic() > end:
                raise TimeoutError("no reply")
            time.sleep(0.02)
        store, (message,) = self._stores.store(), found
        name = message.metadata.message_id
        names = [node.object_id for node in iterate_object_tree(store.get_object_tree(name))]
        while any(not store.get(one) for one in names):
            time.sleep(0.02)
        whole = inflate_object_from_contents(name, {one: store.get(one) or b"" for one in names})
        assert isinstance(whole, Message)
        return whole


@contextmanager
def supernode(secret: bytes | None = SECRET, fab: bytes = b"") -> Iterator[SuperNode]:
    """A SuperNode's Runtime API on a free port of loopback."""
    node = SuperNode(secret, fab)
    thread = threading.Thread(target=node.server.run, daemon=True)
    thread.start()
    try:
        while not node.server.started:
            time.sleep(0.01)
        node.address = f"127.0.0.1:{node.server.servers[0].sockets[0].getsockname()[1]}"
        yield node
    finally:
        node.server.should_exit = True
        thread.join(timeout=10)
