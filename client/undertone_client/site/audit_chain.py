"""The audit log's files, read and checked: each line carries the SHA-256 of the line before it.

    audit/audit-000001.jsonl   lines of canonical JSON: event, facts, number, previous, time
    audit/audit-000002.jsonl   its first line, "log opened", carries the hash of the last line of the file before

A hash is that of a line's bytes without its line feed, so any tool can recompute one; the very first line carries 64
zeros. A line without a line feed was cut off by a power cut or a full disk: whoever wanted it written was told so or
died, and the next line opens a new file that carries the SHA-256 of what is there of it. So no byte is ever rewritten.

Changing, swapping or removing a line breaks the chain behind it. Removing the *last* lines breaks nothing: only a hash
kept elsewhere shows that.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undertone.core.canonical import canonical_json, sha256_hex
from undertone.core.durable import storage_errors
from undertone.errors import AuditLogCorrupt, FolderError

FOLDER = "audit"
GENESIS = "0" * 64
LONGEST_LINE = 4096
"""Bytes of a line with its line feed; every event's facts are bounded, so none is longer."""
_NAME = re.compile(r"audit-([0-9]{6,9})\.jsonl")
_KEYS = {"event", "facts", "number", "previous", "time"}
_ADVICE = "Keep the files as evidence, and compare them with your backup"


@dataclass(frozen=True)
class Line:
    """One whole line: `hash` is the chain up to here."""

    event: str
    facts: dict[str, Any]
    number: int
    previous: str
    time: str
    hash: str


@dataclass(frozen=True)
class Verified:
    """What a whole chain holds: `newest` is the hash to keep elsewhere, `cut` whether its last line was cut off."""

    site: str
    logs: int
    lines: int
    newest: str
    newest_time: str
    cut: bool


def log_name(number: int) -> str:
    """The name of the file with this number."""
    return f"audit-{number:06d}.jsonl"


def log_files(folder: Path) -> list[tuple[int, Path]]:
    """The numbered files of audit/, in order."""
    with storage_errors(folder):
        found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def read_line(data: bytes, where: str) -> Line:
    """A line, without its line feed, in its one spelling.

    Raises:
        AuditLogCorrupt: it is no line of an audit log.
    """
    try:
        found = json.loads(data)
        good = isinstance(found, dict) and set(found) == _KEYS and canonical_json(found) == data
        good = good and isinstance(found["facts"], dict) and type(found["number"]) is int
        good = good and all(isinstance(found[key], str) for key in ("event", "previous", "time"))
    except (ValueError, RecursionError):
        good = False
    if not good:
        raise AuditLogCorrupt(f"{where} is not a line that was written there. {_ADVICE}")
    return Line(**found, hash=sha256_hex(data))


def verify_chain(site: Path, expect: str | None = None) -> Verified:
    """Check the chain over all files of a SITE_DIR.

    Args:
        site: the SITE_DIR.
        expect: the hash of a line, kept earlier and elsewhere; it must be in the chain.

    Raises:
        AuditLogCorrupt: names the first line that is not what was written, or a file that is missing; or `expect` is
            not in the chain.
        FolderError: there is no audit log, or it cannot be read.
    """
    files = log_files(site / FOLDER) if (site / FOLDER).is_dir() else []
    if not files:
        raise FolderError(f"{site} has no audit log; the first command that changes something there begins it")
    walk = _Walk(expect or "")
    for expected, (number, path) in enumerate(files, 1):
        if number != expected:
            raise AuditLogCorrupt(f"{log_name(expected)} is missing from {site / FOLDER}. {_ADVICE}")
        walk.file(number, path)
    if expect is not None and not walk.expected_seen:
        raise AuditLogCorrupt(
            f"no line of the audit log has the hash {expect}: it is an older copy, or its end was removed. {_ADVICE}"
        )
    last = walk.last
    return Verified(walk.site, len(files), last.number, last.hash, last.time, bool(walk.tail))


class _Walk:
    """The state of a walk along the chain."""

    def __init__(self, expect: str) -> None:
        self.expect, self.expected_seen = expect, False
        self.site, self.tail = "", b""
        self.last = Line("", {}, 0, "", "", GENESIS)
        self._place = ""

    def file(self, number: int, path: Path) -> None:
        """Follow one file, of which only the end may lack a line feed."""
        head, before = True, self.tail
        self.tail = b""
        for at, data in enumerate(_lines(path), 1):
            where = f"{path.name}, line {at}"
            if len(data) > LONGEST_LINE:
                raise AuditLogCorrupt(f"{where} is longer than any line that is written there. {_ADVICE}")
            if not data.endswith(b"\n"):
                self.tail = data
                break
            self._step(read_line(data[:-1], where), where)
            if head:
                self._check_head(number, before, where)
            elif self.last.event == "log opened":
                raise AuditLogCorrupt(f"{where} opens a log in the middle of a file. {_ADVICE}")
            head = False
        if head:
            raise AuditLogCorrupt(f"{path.name} has no first line. {_ADVICE}")

    def _step(self, line: Line, where: str) -> None:
        if line.number != self.last.number + 1:
            raise AuditLogCorrupt(
                f"{where} has the number {line.number}; {self.last.number + 1} was expected: a line is missing, or "
                f"lines were swapped. {_ADVICE}"
            )
        if line.previous != self.last.hash:
            broken = self._place or where
            raise AuditLogCorrupt(
                f"{broken} is not the line that was written there: the line after it carries another hash. {_ADVICE}"
            )
        self.last, self._place = line, where
        self.expected_seen |= line.hash == self.expect

    def _check_head(self, number: int, before: bytes, where: str) -> None:
        facts = {"log": number, "site": self.site or self.last.facts.get("site")}
        if before:
            facts["cut"] = sha256_hex(before)
        if self.last.event != "log opened" or self.last.facts != facts:
            raise AuditLogCorrupt(f"{where} does not open log {number} after what stands before it. {_ADVICE}")
        self.site = str(facts["site"])


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their line feeds, none much longer than may be."""
    with storage_errors(path), path.open("rb") as stream:
        while data := stream.readline(LONGEST_LINE + 1):
            yield data
