"""The Flower ClientApp: a thin relay from messages to the node and back."""

import logging
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from undertone import PROTOCOL
from undertone.core.text import REASON, shown
from undertone.wire.flower import reply_to_records, request_from_records
from undertone.wire.messages import SITE_FAULT, Kind, Reply
from undertone_client.node import Node

app = ClientApp()
_log = logging.getLogger("undertone.node")


def _relay(kind: Kind, message: Message, context: Context) -> Message:
    try:
        node = Node(Path(str(context.node_config["site-dir"])))
        reply = node.handle(request_from_records(kind, message.content))
    except Exception as error:  # noqa: BLE001 - Flower would send the exception's text to the coordinator
        _log.error("no answer to %s: %s", kind, shown(f"{type(error).__name__}: {error}", REASON))
        reply = Reply(
            "", PROTOCOL, error=SITE_FAULT, message="the site cannot answer; its operator finds why in its log"
        )
    return Message(reply_to_records(reply), reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Which site is this?"""
    return _relay("hello", message, context)


@app.train("prepare")
def prepare(message: Message, context: Context) -> Message:
    """Coins and rows: the long part; nothing private leaves."""
    return _relay("prepare", message, context)


@app.query("ready")
def ready(message: Message, context: Context) -> Message:
    """Are the rows of the attempt that was prepared there? Yes or no, and no more."""
    return _relay("ready", message, context)


@app.train("plain_input")
def plain_input(message: Message, context: Context) -> Message:
    """Plain aggregation: the site's vector, once."""
    return _relay("plain_input", message, context)


@app.query("share_keys")
def share_keys(message: Message, context: Context) -> Message:
    """Secure aggregation: shares of this session's secrets, sealed for each other site."""
    return _relay("share_keys", message, context)


@app.train("masked_input")
def masked_input(message: Message, context: Context) -> Message:
    """Secure aggregation: the site's vector, masked, once."""
    return _relay("masked_input", message, context)


@app.query("consistency_check")
def consistency_check(message: Message, context: Context) -> Message:
    """Secure aggregation: a signature on the one list of survivors that this site has seen."""
    return _relay("consistency_check", message, context)


@app.query("unmasking")
def unmasking(message: Message, context: Context) -> Message:
    """Secure aggregation: the shares that open the sum of the survivors and nothing else."""
    return _relay("unmasking", message, context)
