"""The Ray engine: many sites at once on one machine, through Flower's own simulation.

The only module that knows Ray. The ServerApp runs in a thread of this process; each site's ClientApp in one of Ray's
worker processes, as many as there are cores. What Ray started ends with the study, however the study ends.
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil
from flwr.app import ConfigRecordValues, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.supercore.run import Run

from undertone.core.progress import reporter
from undertone.errors import FolderError, InputError
from undertone.privacy.entropy import OsEntropy

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_TO_END = 5.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # Which card a site uses stands in its node.toml; Ray must not hide them.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_TOKEN = OsEntropy().bytes(32).hex()


class _Stopped(Exception):
    """Ends the ServerApp's thread where it waits for sites that no longer run."""


class _StudyGrid(Grid):
    """Flower's grid, until the study is stopped; says how many sites have answered."""

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        self._grid = grid
        self._stop = stop
        self._asked: Counter[tuple[str, str]] = Counter()
        self._answered: Counter[tuple[str, str]] = Counter()
        self._last_line = time.monotonic()

    def set_run(self, run: Run) -> None:
        """There is one run."""

    @property
    def run(self) -> Run:
        """Flower's description of the one run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's older spelling of `Message(...)`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages over."""
        taken = list(messages)
        self._asked.update(_question(message) for message in taken)
        return self._grid.push_messages(taken)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there.

        Raises:
            _Stopped: nobody is left to reply.
        """
        if self._stop.is_set():
            raise _Stopped
        replies = list(self._grid.pull_messages(message_ids))
        self._answered.update(_question(message) for message in replies)
        self._report()
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """As the Grid behind does; the study itself pulls replies one by one."""
        return self._grid.send_and_receive(messages, timeout=timeout)

    def _report(self) -> None:
        waiting = [question for question, asked in self._asked.items() if self._answered[question] < asked]
        if waiting and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            round_, kind = waiting[-1]
            answered, asked = self._answered[waiting[-1]], self._asked[waiting[-1]]
            reporter().line(f"round {round_}, {kind.split('.')[-1]}: {answered} of {asked} sites have answered")


class _SiteApp(ClientApp):
    """The node's app on a simulated node, whose number stands for a SITE_DIR. Travels to Ray's workers."""

    def __init__(self, app: ClientApp, sites: tuple[str, ...]) -> None:
        super().__init__()
        self._app = app
        self._sites = sites

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer for the site that this node is."""
        number = context.node_config[PARTITION_ID_KEY]
        context.node_config["site-dir"] = self._sites[int(str(number))]
        return self._app(message, context)


class _Study:
    """The ServerApp's thread: told its run-dir (Flower's simulation tells it nothing), and how it ended."""

    def __init__(self, app: ServerApp, run: Path) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.app = ServerApp()

        @self.app.main()
        def main(grid: Grid, context: Context) -> None:
            self._thread = threading.current_thread()
            context.run_config["run-dir"] = str(run)
            try:
                app(_StudyGrid(grid, self.stop), context)
            except _Stopped:
                pass
            except BaseException as error:  # noqa: BLE001 - raised again in the main thread, as what it is
                self.error = error

    def end(self) -> None:
        """Let the thread finish what it is doing."""
        self.stop.set()
        if self._thread is not None:
            self._thread.join()


def run_ray(server_app: ServerApp, client_app: ClientApp, run: Path, sites: Iterable[Path]) -> None:
    """Run a ServerApp over sites in Ray's worker processes.

    Args:
        server_app: the coordinator's app.
        client_app: the node's app.
        run: the RUN folder.
        sites: each site's SITE_DIR.

    Raises:
        FolderError: no sites.
        InputError: Ray runs here already, or cannot start.
        UndertoneError: whatever the ServerApp raised.
    """
    folders = tuple(str(folder) for folder in sorted(sites))
    if not folders:
        raise FolderError(f"{run} has no sites to run")
    if "ray" in sys.modules and os.environ.get("RAY_AUTH_TOKEN") != _TOKEN:
        raise InputError("this process imported Ray already, and Ray reads its settings once: use a process of its own")
    study = _Study(server_app, run)
    with _ray_settings(min(_cores(), len(folders))) as settings:
        try:
            with _interruptible(study):
                run_simulation(study.app, _SiteApp(client_app, folders), len(folders), backend_config=settings)
        except RuntimeError as error:
            study.error = study.error or InputError(f"Ray could not run the study ({_first_cause(error)})")
        finally:
            study.end()
    if study.error is not None:
        raise study.error


@contextmanager
def _interruptible(study: _Study) -> Iterator[None]:
    """Ctrl-C ends the study and its sites first, and is raised once Flower's simulation has returned.

    Raised at once it would make Flower shut Ray down while threads wait for sites: they would wait for ever.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not come here
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)  # a second one is raised where it comes
        study.stop.set()
        for process in _our_processes():
            with suppress(psutil.Error):
                if process.cmdline()[0].startswith("ray::ClientAppActor"):
                    process.kill()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if study.stop.is_set():
        raise KeyboardInterrupt


@contextmanager
def _ray_settings(workers: int) -> Iterator[dict[str, dict[str, ConfigRecordValues]]]:
    """Flower's backend configuration for a Ray of our own; removes what it wrote and whom it started."""
    os.environ.update(_ENVIRONMENT)
    # Ray's ports are open to the network: only who knows this token is answered.
    os.environ["RAY_AUTH_TOKEN"] = _TOKEN
    import ray  # an extra, and only now: it reads its settings when it is imported

    folder = tempfile.mkdtemp(prefix="undertone-ray-", dir="/tmp")  # short: Ray's sockets are named under it
    python_path, logger = os.environ.get("PYTHONPATH"), logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield {
            "init_args": {
                "address": "local",
                "num_cpus": workers,
                "include_dashboard": False,
                "log_to_driver": False,
                "logging_level": "ERROR",
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": folder,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        }
    finally:
        ray.shutdown()
        _, alive = psutil.wait_procs(_our_processes(), timeout=_SECONDS_TO_END)
        for process in alive:  # a worker that was still starting does not hear that Ray has ended
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=_SECONDS_TO_END)
        logger.setLevel(level)
        _restore("PYTHONPATH", python_path)
        shutil.rmtree(folder, ignore_errors=True)


def _our_processes() -> list[psutil.Process]:
    """What our Ray has started and is not gone yet: its processes alone were born with this run's token.

    By parent they could not be found: workers outlive the daemon that started them by a moment.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("RAY_AUTH_TOKEN") == _TOKEN:
                found.append(process)
    return found


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"


def _question(message: Message) -> tuple[str, str]:
    return message.metadata.group_id, message.metadata.message_type
