"""The audit log: what was decided at a site, when and by whom; append-only, hash-chained, durable line by line.

What it says is closed (`audit_events.py`); how its files are tied is in `audit_chain.py`. One process at a time writes.
A file of 4 MiB is followed by the next number, and none is ever rewritten or removed.

**A log that cannot be written** (a full disk, missing rights, a damaged last line) stops an operator's command before
it has an effect: write the line first. It never stops an answer. Whether the disk is full can depend on records (the
cache of latents lies on it), so a fault there would be seen by the coordinator (PRIVACY 17). What happens while a node
answers is therefore tried, and where it fails a line goes to the process's own log; the charge itself stands in the
ledger, which is what counts. Which events are which stands in `audit_events.KINDS`, not with the caller.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

from undertone.core.canonical import Json, canonical_json, sha256_hex
from undertone.core.clock import Clock, utc_now
from undertone.core.config import read_tables
from undertone.core.durable import storage_errors, sync, write_durable
from undertone.core.text import REASON, shown
from undertone.core.unit import is_site_name
from undertone.errors import AuditLogCorrupt, FolderError, MechanismViolation, StudyError
from undertone_client.site.audit_chain import FOLDER, GENESIS, LONGEST_LINE, Line, log_files, log_name, read_line
from undertone_client.site.audit_events import KINDS, Event, checked

_log = logging.getLogger("undertone.node")
_LARGEST_FILE = 4 << 20
_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.02


class AuditLog:
    """The audit log of one SITE_DIR, begun with its first line. Usable from several threads and processes."""

    def __init__(self, folder: Path, now: Clock = utc_now) -> None:
        """For the SITE_DIR `folder`; nothing is read or written yet."""
        self._site = folder
        self._folder = folder / FOLDER
        self._now = now

    def append(self, event: Event, **facts: object) -> None:
        """Write one line, durable when this returns.

        Raises:
            MechanismViolation: no such event, or facts that it does not take; nothing was written.
            FolderError, AuditLogCorrupt: the log cannot be written; only for events that happen in an operator's
                command, never for those that happen while the node answers.
        """
        if event == "log opened":
            raise MechanismViolation("a log opens itself")
        body = checked(event, facts)
        try:
            with storage_errors(self._folder):
                self._append(event, body)
        except (OSError, FolderError, AuditLogCorrupt) as error:  # OSError: of a disk that hangs on a network
            if not KINDS[event].in_answers:
                raise
            _log.error('"%s" is missing from the audit log: %s', event, shown(str(error), REASON))

    def _append(self, event: Event, facts: Mapping[str, Json]) -> None:
        if not self._folder.exists():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            sync(self._site)
        with self._alone():
            files = log_files(self._folder)
            if not files:
                self._open(1, Line("", {}, 0, "", "", GENESIS), b"")
            else:
                number, path = files[-1]
                last, tail = _end(path)
                if tail or path.stat().st_size >= _LARGEST_FILE:
                    self._open(number + 1, last, tail)
            _, path = log_files(self._folder)[-1]
            last, _ = _end(path)
            _add(path, self._line(event, facts, last))

    def _open(self, number: int, last: Line, tail: bytes) -> None:
        """A new file, which is there with its whole first line or not at all."""
        facts: dict[str, object] = {"site": self._name(), "log": number, "cut": sha256_hex(tail) if tail else None}
        write_durable(self._folder / log_name(number), self._line("log opened", checked("log opened", facts), last))

    def _line(self, event: Event, facts: Mapping[str, Json], last: Line) -> bytes:
        now = self._now().astimezone(UTC)
        line = canonical_json(
            {
                "event": event,
                "facts": facts,
                "number": last.number + 1,
                "previous": last.hash,
                "time": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            }
        )
        return line + b"\n"

    def _name(self) -> str:
        """The site's name, from node.toml alone: the log must open whatever else is wrong there."""
        try:
            name = read_tables(self._site / "node.toml").get("site")
        except StudyError as error:
            raise FolderError(str(error)) from None
        if not isinstance(name, str) or not is_site_name(name):
            raise FolderError(f"{self._site / 'node.toml'} has no site's name; restore it from your backup")
        return name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within, no other process or thread appends; whoever stopped while it did is not waited for any longer."""
        with (self._folder / "lock").open("a", encoding="ascii") as stream:
            until = time.monotonic() + _WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise FolderError(
                            f"another process has held {self._folder / 'lock'} for long; end it, then try again"
                        ) from None
                    time.sleep(_POLL_SECONDS)
            yield


def _end(path: Path) -> tuple[Line, bytes]:
    """The last whole line of a file, and what stands behind its line feed: a line that was cut off."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - 2 * LONGEST_LINE, 0))
        *lines, tail = stream.read().split(b"\n")
    if not lines or len(tail) >= LONGEST_LINE:
        raise AuditLogCorrupt(f"{path} does not end with a line of an audit log; run `undertone log verify`")
    return read_line(lines[-1], f"the last line of {path.name}"), tail


def _add(path: Path, line: bytes) -> None:
    """Append, flush; a line that the disk did not take whole stays cut off, and its event is not said to be written."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        written = os.write(descriptor, line)
        if written != len(line):
            raise FolderError(f"{path} cannot be written: no space left; make room, then try again")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
