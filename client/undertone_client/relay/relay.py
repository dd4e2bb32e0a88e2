"""The relay's loop: a task, the node's answer, and the next."""

import logging
import os
from collections.abc import Callable
from threading import Event

from undertone.core.loopback import with_loopback
from undertone.core.text import shown
from undertone.errors import InputError
from undertone_client.relay.answering import Asks, answer
from undertone_client.relay.runtime_api import RuntimeApi, SuperNodeAway, TaskLost

POLL_SECONDS = 0.5
_LONGEST_PAUSE = 5.0
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
_log = logging.getLogger("undertone.relay")


def run_relay(
    address: str, secret: bytes, node: Asks, stop: Event, say: Callable[[bool], object] = lambda _connected: None
) -> None:
    """Answer a SuperNode's messages, one after the other, until `stop` is set.

    Args:
        address: HOST:PORT of its Runtime API, on loopback.
        secret: that it was given by --superexec-auth-secret-file.
        node: who answers.
        stop: is looked at between two messages.
        say: told whether the SuperNode takes this relay, whenever that changes.

    Raises:
        InputError: the address is not one of loopback: messages would cross a network unencrypted.
        NotApproved: see `RuntimeApi.check_secret`.
    """
    host, _, port = address.rpartition(":")
    if host not in _LOOPBACK or not port.isdecimal():
        raise InputError(f"--runtime-api {shown(address)} is not 127.0.0.1:PORT: relay and SuperNode share a machine")
    _never_by_proxy()
    api = RuntimeApi(address, secret)
    try:
        _serve(api, node, stop, say)
    finally:
        api.close()


def _serve(api: RuntimeApi, node: Asks, stop: Event, say: Callable[[bool], object]) -> None:
    known, pause = False, POLL_SECONDS
    _log.info("relay %d begins", os.getpid())
    while not stop.is_set():
        try:
            if not known:
                api.check_secret()
                _log.info("the SuperNode knows this relay, and refused one without the secret, as its log says")
                known, pause = True, POLL_SECONDS
                say(True)
            if _one(api, node):
                continue
        except SuperNodeAway as error:
            if known or pause == POLL_SECONDS:
                _log.warning("no SuperNode yet: %s", error)
            known, pause = False, min(2 * pause, _LONGEST_PAUSE)
            say(False)
        except TaskLost as error:
            _log.warning("a message is lost: %s", error)
        stop.wait(pause)


def _one(api: RuntimeApi, node: Asks) -> bool:
    """Whether there was a message; it is answered."""
    with api.task() as task:
        if task is None:
            return False
        task.answer(answer(task, node))
        return True


def _never_by_proxy() -> None:
    """A proxy that the environment names is for the SuperNode's way out; the Runtime API is on this machine."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = with_loopback(os.environ.get(name, ""))
