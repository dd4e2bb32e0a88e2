"""One process that is started again whenever it ends."""

import ctypes
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from undertone.core.text import shown

_LONGEST_LINE = 2000
_LONGEST_PAUSE = 30.0
_STEADY_SECONDS = 60.0
_END_SECONDS = 15.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PR_SET_PDEATHSIG = 1  # prctl(2)
_log = logging.getLogger("undertone.start")


class Child:
    """A program and the process that runs it now, if one does. Each line it prints becomes one of ours."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name = name
        self._words = list(words)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._started = self._due = 0.0
        self._pause = 1.0

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, now: float) -> None:
        """Start its process."""
        self._started = now
        self._process = subprocess.Popen(
            self._words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us: processes are ended in order
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def tend(self, now: float) -> None:
        """Notice that its process has ended, and start another when it is time."""
        if self.running:
            return
        if self._process is not None:
            code = self._ended()
            pause = self.ended(now, code)
            _log.warning("%s ended (%s); it starts again in %.0f s", self.name, describe(code), pause)
            self._due = now + pause
        elif now >= self._due:
            self.start(now)

    def ended(self, now: float, _code: int) -> float:
        """Seconds until its process starts again: more each time, unless it has run for a while."""
        self._pause = 1.0 if now - self._started >= _STEADY_SECONDS else min(2 * self._pause, _LONGEST_PAUSE)
        return self._pause

    def heard(self, line: str) -> None:
        """A line that its process has printed."""

    def end(self) -> None:
        """Ask its process to end; kill it if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("%s does not end and is killed", self.name)
            self._process.kill()
        self._ended()

    def _ended(self) -> int:
        """The code of the process that ended, once its last line was heard."""
        process, self._process = self._process, None
        code = 0 if process is None else process.wait()
        if self._reader is not None:
            self._reader.join(timeout=2.0)  # a grandchild may hold the pipe open
        return code

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                said = shown(_COLOURS.sub("", line).strip(), _LONGEST_LINE)
                if said:
                    _log.info("%s | %s", self.name, said)
                    self.heard(said)


def describe(code: int) -> str:
    """An exit status in words."""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """In the new process: end when the supervisor does, even by kill -9; else nobody would end it."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)
