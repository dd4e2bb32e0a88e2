"""The coordinator's servers as processes in the foreground: SuperLink, and nginx where it is asked for.

They start together and end together: when one ends, or a signal comes, the others are ended too, and none is left.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import psutil

from undertone.errors import SuperLinkUnreachable
from undertone_server.home.fleet import Registered, synchronise
from undertone_server.home.folder import Home

_UP_WITHIN = 90.0
_DOWN_WITHIN = 15.0
_CHILDREN_DOWN_WITHIN = 5.0
_PAUSE = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Server:
    """A program to run.

    Attributes:
        name: what it is called here.
        argv: its program and arguments.
        variables: of its environment.
    """

    name: str
    argv: Sequence[str]
    variables: Mapping[str, str]


def servers(home: Home, *, nginx: bool) -> list[Server]:
    """The programs of a coordinator.

    Args:
        home: the COORDINATOR_DIR.
        nginx: whether nginx runs from here too, and not as the system's own.
    """
    environment = home.flower_environment()
    found = [Server("flower-superlink", home.superlink_command(), environment)]
    return [*found, Server("nginx", home.nginx_command(), environment)] if nginx else found


def run(home: Home, programs: Sequence[Server], ready: Callable[[Registered], None]) -> str:
    """Run programs until one ends or a signal comes; returns what happened, in words.

    Args:
        home: the COORDINATOR_DIR.
        programs: to run, the SuperLink first.
        ready: called once, when the SuperLink answers and knows the sites.

    Raises:
        SuperLinkUnreachable: a program cannot be started, or the SuperLink does not answer in time.
    """
    with _stopping() as stopped, ExitStack() as running:
        started = [(program, running.enter_context(_process(program))) for program in programs]
        last, told, deadline = "", False, time.monotonic() + _UP_WITHIN
        while not stopped:
            for program, one in started:
                one.look()
                if one.process.poll() is not None:
                    raise SuperLinkUnreachable(
                        f"{program.name} ended with exit code {one.process.returncode}; what it said stands above"
                    )
            if not told:
                try:
                    ready(synchronise(home))
                    told = True
                except SuperLinkUnreachable as error:
                    last = str(error)
                if not told and time.monotonic() > deadline:
                    raise SuperLinkUnreachable(last)
            time.sleep(_PAUSE)
        return f"stopped by {signal.Signals(stopped[0]).name}"


class _Running:
    """A process that is running, and whatever it was seen to start.

    A SuperLink that is killed leaves the programs of studies behind, each in a session of its own. Flower means them to
    end by themselves, but they sleep between tries to reach it, up to 20 s, and hear no signal until they wake; a study
    cannot be resumed as long as its program holds RUN.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._itself = psutil.Process(process.pid)
        self._seen: set[psutil.Process] = set()

    def look(self) -> None:
        """Remember what runs below it now."""
        with suppress(psutil.NoSuchProcess):
            self._seen.update(self._itself.children(recursive=True))

    def end(self) -> None:
        """End the process, then what is left of the others."""
        self.look()
        self.process.terminate()
        try:
            self.process.wait(_DOWN_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for child in self._seen:
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        alive = psutil.wait_procs(self._seen, timeout=_CHILDREN_DOWN_WITHIN)[1]
        for child in alive:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(alive, timeout=_CHILDREN_DOWN_WITHIN)


@contextmanager
def _process(program: Server) -> Iterator[_Running]:
    """A process that does not outlive the context, nor does what it started: nginx's workers hold its port."""
    try:
        # A group of its own: Ctrl-C at the terminal reaches this process alone, which ends the others in order.
        process = subprocess.Popen(program.argv, env=dict(program.variables), start_new_session=True)
    except OSError as error:
        raise SuperLinkUnreachable(
            f"{program.name} cannot be started: {error.strerror}; install it, and see that it is on PATH"
        ) from None
    running = _Running(process)
    try:
        yield running
    finally:
        running.end()


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """Within, the numbers of signals that came to end this process."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
