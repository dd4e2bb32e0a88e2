"""The engines, the same to a test: the dummy method on each, and who is still running afterwards."""

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tests.support.dummy import DummyBase, DummyMethod
from undertone.methods.registry import METHODS
from undertone_cli.engines.inprocess import run_inprocess
from undertone_client.app import app as client_app
from undertone_client.compute import preparing
from undertone_server.app import app as server_app


class DummyApp(ClientApp):
    """The node's app where the dummy method is known: a fixture's patches do not reach Ray's workers."""

    def __call__(self, message: Message, context: Context) -> Message:
        METHODS[DummyMethod.name] = DummyMethod
        preparing._loaded = lambda *_: DummyBase()  # type: ignore[assignment]
        return client_app(message, context)


def run_dummy(engine: str, run: Path, sites: Iterable[Path]) -> None:
    """A study of the dummy method on an engine; in process the fixture `dummy_method` must be in force."""
    if engine == "inprocess":
        run_inprocess(server_app, client_app, run, sites)
    else:
        from undertone_cli.engines.ray import run_ray  # an extra

        run_ray(server_app, DummyApp(), run, sites)


class Watched:
    """Every process that `parent` has started, by itself or through others, seen while it ran."""

    def __init__(self, parent: int | None = None) -> None:
        self._parent = psutil.Process(parent)
        self._before = set(self._parent.children(recursive=True))
        self._seen: set[psutil.Process] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._done.set()
        self._thread.join()

    def names(self) -> set[str]:
        return {_name(process) for process in self._seen}

    def left(self, seconds: float = 20.0) -> list[str]:
        """Who is alive, zombies apart, when all have had `seconds` to end."""
        deadline = time.monotonic() + seconds
        while (alive := [process for process in self._seen if _alive(process)]) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [_name(process) for process in alive]

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            with suppress(psutil.Error):
                found = set(self._parent.children(recursive=True)) - self._before - self._seen
                for process in found:
                    _NAMES[process] = _words(process)
                self._seen |= found


_NAMES: dict[psutil.Process, str] = {}


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _name(process: psutil.Process) -> str:
    return _words(process) or _NAMES[process]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
