"""Whether a relay runs, and whether its SuperNode takes it: a lock in SITE_DIR/run that ends with its process."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from undertone.core.durable import storage_errors
from undertone.errors import FolderError
from undertone_client.service.place import make_folder

State = Literal["absent", "alone", "connected"]
_CONNECTED = b"connected"
_LOOKED_AT = 2.0  # seconds: longer than anybody who looks holds the lock


@contextmanager
def present(site_dir: Path, coordinator: str) -> Iterator[Callable[[bool], None]]:
    """Within, whoever looks sees this relay, and what it said last: whether its SuperNode takes it.

    Raises:
        FolderError: another relay carries messages between this coordinator and this site, or nothing can be written.
    """
    path = _file(site_dir, coordinator)
    make_folder(path)
    with ExitStack() as held:
        with storage_errors(path):
            lock = held.enter_context(path.open("ab", buffering=0))
            path.chmod(0o600)
            _hold(lock.fileno(), coordinator)

        def say(connected: bool) -> None:
            with storage_errors(path):
                lock.truncate(0)
                lock.write(_CONNECTED if connected else b"")

        say(False)
        yield say


def presence(site_dir: Path, coordinator: str) -> State:
    """What is seen of a relay: "absent", "alone" (its SuperNode is away or does not know it) or "connected".

    Raises:
        FolderError: the file cannot be read.
    """
    path = _file(site_dir, coordinator)
    with storage_errors(path):
        try:
            with path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return "absent"
        except BlockingIOError:
            return "connected" if path.read_bytes() == _CONNECTED else "alone"
    return "absent"


def _file(site_dir: Path, coordinator: str) -> Path:
    return site_dir / "run" / f"relay-{coordinator}.lock"


def _hold(descriptor: int, coordinator: str) -> None:
    deadline = time.monotonic() + _LOOKED_AT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise FolderError(
                    f"another relay carries the messages of {coordinator} to this site; stop it first"
                ) from None
        time.sleep(0.05)
