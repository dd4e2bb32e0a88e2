"""From a Flower message to the node and back: each is read strictly, and nothing is computed here.

What goes back is the node's reply, or a refusal with a constant text: it depends on no record and on nothing that this
machine says about itself (PRIVACY 17). What was wrong stands in the relay's own log.
"""

import logging
from typing import Protocol

from flwr.app import Message

from undertone import PROTOCOL
from undertone.core.text import REASON, shown
from undertone.errors import NodeUnavailable, ProtocolError
from undertone.wire.flower import MESSAGE_TYPES, reply_to_records, request_from_records
from undertone.wire.messages import SITE_FAULT, Kind, Reply, Request
from undertone_client.relay.runtime_api import Task, error_reply

FAULT = "the site's relay cannot answer; its operator finds why in its log"
_FOREIGN = "this site answers Undertone alone"
_MALFORMED = "the message is malformed: Flower cannot unpack it"
_KINDS: dict[str, Kind] = {name: kind for kind, name in MESSAGE_TYPES.items()}
# Seconds that a node has for an answer. Kinds that carry a vector have longer; no kind waits for a device.
_BRIEF, _VECTOR = 60.0, 900.0
DEADLINES: dict[Kind, float] = {
    "hello": _BRIEF,
    "prepare": _VECTOR,
    "ready": _BRIEF,
    "plain_input": _VECTOR,
    "share_keys": _BRIEF,
    "masked_input": _VECTOR,
    "consistency_check": _BRIEF,
    "unmasking": _BRIEF,
}
_log = logging.getLogger("undertone.relay")


class Asks(Protocol):
    """Whoever brings a request to the node."""

    def ask(self, request: Request, timeout: float) -> Reply:
        """The node's reply.

        Raises:
            NodeUnavailable: there is none within `timeout` seconds; its text is told to the coordinator.
        """
        ...


def answer(task: Task, node: Asks) -> Message:
    """The reply to a task's message."""
    message = task.message
    kind = _KINDS.get(message.metadata.message_type)
    if kind is None:
        _log.warning("refused: a message of type %s", shown(message.metadata.message_type))
        return error_reply(message, _FOREIGN)
    if task.unreadable or not message.has_content():
        _log.warning("refused: %s cannot be unpacked: %s", kind, shown(task.unreadable, REASON))
        return error_reply(message, _MALFORMED)
    return Message(reply_to_records(_reply(kind, message, node)), reply_to=message)


def _reply(kind: Kind, message: Message, node: Asks) -> Reply:
    try:
        request = request_from_records(kind, message.content)
    except ProtocolError as error:
        _log.warning("refused: %s: %s", kind, error)
        return Reply("", PROTOCOL, error=ProtocolError.__name__, message=str(error))
    try:
        reply = node.ask(request, min(DEADLINES[kind], message.metadata.ttl))
    except NodeUnavailable as error:
        _log.error("no answer to %s: %s", kind, error)
        return Reply("", PROTOCOL, error=NodeUnavailable.__name__, message=str(error))
    except Exception as error:  # noqa: BLE001 - Flower would send the exception's text to the coordinator
        _log.error("no answer to %s: %s", kind, shown(f"{type(error).__name__}: {error}", REASON))
        return Reply("", PROTOCOL, error=SITE_FAULT, message=FAULT)
    _log.info("answered %s%s", kind, f": refused, {reply.error}" if reply.error else "")
    return reply
