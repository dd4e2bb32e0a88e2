"""The node first; once it answers, a SuperNode and a relay for each coordinator; until told to stop."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event

from undertone.errors import InputError, NotConnected
from undertone_client.supervise.child import Child
from undertone_client.supervise.supernode import SuperNodeChild

_TICK_SECONDS = 0.2
_log = logging.getLogger("undertone.start")


@dataclass(frozen=True)
class Pair:
    """What belongs to one coordinator."""

    supernode: SuperNodeChild
    relay: Child


def supervise(node: Child, pairs: Sequence[Pair], serves: Callable[[], bool], stop: Event) -> None:
    """Run all of them until `stop` is set; what ends is started again. None is left behind.

    Args:
        node: the node's process.
        pairs: for each coordinator its two.
        serves: whether the node answers at its socket.
        stop: set by a signal.

    Raises:
        InputError: the node ended before it answered.
        NotConnected: no coordinator takes this site's SuperNode.
    """
    children = [node, *(pair.relay for pair in pairs), *(pair.supernode for pair in pairs)]
    try:
        node.start(time.monotonic())
        while not stop.is_set() and not serves():
            if not node.running:
                raise InputError(f"{node.name} ended before it answered: its lines above say why")
            stop.wait(_TICK_SECONDS)
        _log.info("%s answers", node.name)
        told: set[str] = set()
        while not stop.wait(_TICK_SECONDS):
            for child in children:
                child.tend(time.monotonic())
            _tell_given_up(pairs, told)
    finally:
        for child in reversed(children):  # the SuperNodes first: they take leave of their coordinators
            child.end()


def _tell_given_up(pairs: Sequence[Pair], told: set[str]) -> None:
    """Say once of each connection that it is given up.

    Raises:
        NotConnected: it was the last.
    """
    given_up = [pair.supernode for pair in pairs if pair.supernode.given_up]
    if pairs and len(given_up) == len(pairs):
        raise NotConnected("; ".join(one.given_up for one in given_up))
    for one in given_up:
        if one.name not in told:
            _log.error("%s", one.given_up)
            told.add(one.name)
