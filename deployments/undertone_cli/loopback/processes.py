"""Processes that run together and end together, each with its output in a file; and commands that are waited for."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from undertone.core.progress import reporter
from undertone.errors import InputError

UNDERTONE = (sys.executable, "-m", "undertone_cli.main")
_SECONDS_TO_END = 20.0
_POLL_SECONDS = 0.1
_LAST_LINES = 12


def wait_until(holds: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for something.

    Raises:
        InputError: it did not happen; says what.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise InputError(f"{what} within {seconds:.0f} s; the logs in the demo's folder say why")
        time.sleep(_POLL_SECONDS)


class Processes:
    """Long-lived processes; whatever happens, none is left when the context ends.

    Each runs in a process group of its own, so that what it started ends with it, and writes to FOLDER/NAME.log.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._earlier: dict[str, int] = {}  # characters that earlier processes of a name have written

    def __enter__(self) -> "Processes":
        """Nothing runs yet."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End all of them, the last one first."""
        for name in reversed(list(self._running)):
            self.end(name)

    def undertone(self, *words: object, environment: Mapping[str, str] | None = None, quiet: bool = False) -> str:
        """Run `undertone WORDS` to its end; what it wrote on stdout. The command is shown first, unless `quiet`.

        Raises:
            InputError: it failed; with its last lines.
        """
        if not quiet:
            reporter().line(f"$ undertone {shlex.join(map(str, words))}")
        done = subprocess.run(
            [*UNDERTONE, *map(str, words)],
            env={**self._environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        with (self.folder / "commands.log").open("a", encoding="utf-8") as log:
            log.write(f"$ undertone {shlex.join(map(str, words))}\n{done.stdout}{done.stderr}[{done.returncode}]\n")
        if done.returncode:
            last = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
            raise InputError(f"undertone {shlex.join(map(str, words))} ended with {done.returncode}:\n{last}")
        return done.stdout

    def start(
        self, name: str, argv: Sequence[object], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process, or start it anew after it ended."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._earlier[name] = len(self.log(name))
            self._running[name] = subprocess.Popen(
                [str(word) for word in argv],
                env={**self._environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._running[name]

    def pid(self, name: str) -> int:
        """The process's id, which is its group's too."""
        return self._running[name].pid

    def log(self, name: str) -> str:
        """What the processes of a name have written so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def says(self, name: str, pattern: str, seconds: float) -> str:
        """Wait until the newest process of a name has written something that fits; what fits.

        Raises:
            InputError: it ended, or did not; with its last lines.
        """
        process = self._running[name]

        def found() -> "re.Match[str] | None":
            return re.search(pattern, self.log(name)[self._earlier[name] :])

        with suppress(InputError):
            wait_until(lambda: found() is not None or process.poll() is not None, name, seconds)
        match = found()
        if match is None:
            last = "\n".join(self.log(name).splitlines()[-_LAST_LINES:])
            ended = "" if process.poll() is None else f", which ended with {process.returncode}"
            raise InputError(f"{name}{ended} did not say {pattern!r}; its last lines:\n{last}")
        return match[0]

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a process and all that it started; by force where it does not go."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
