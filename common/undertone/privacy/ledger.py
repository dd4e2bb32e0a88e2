"""The ledger: what has been spent, durable before it is used, append-only, and tied by a hash chain.

One SQLite file without companions. A coordinator keeps one per run, a node one per site; the header says
whose it is.
Every answer comes from entries whose hashes this process has checked itself: all of them when the file is
opened, and whatever other processes have added since at the start of each transaction.

The triggers stop mistakes, not an attacker with write access. Such a one can rewrite the whole chain, or put
an old copy back; `expect_head`, a hash that somebody else has kept, shows both.
"""

import hashlib
import hmac
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from undertone.core.bounds import ATTEMPTS, ENTRY_BYTES
from undertone.core.canonical import Json
from undertone.core.failpoints import reached
from undertone.errors import (
    BudgetExceeded,
    LedgerCorrupt,
    LedgerUnavailable,
    MechanismViolation,
    ReplayedAttempt,
)
from undertone.privacy.accounting import Event, read_event
from undertone.privacy.chain import ADVICE, GENESIS, Entry, Row, check_row, make_row
from undertone.privacy.ledger_file import connect, explained

_VERSION = 1
_SALT_BYTES = 32
# What SQLite can hold: a first reading must not overlook entries with wild numbers.
_LEAST_INTEGER = -(1 << 63)
_OPEN, _CHARGE = "open", "charge"

_SCHEMA = (
    "CREATE TABLE entries (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, prev TEXT NOT NULL, "
    "hash TEXT NOT NULL, digest TEXT, round INTEGER, attempt INTEGER)",
    "CREATE UNIQUE INDEX one_charge ON entries (digest, round, attempt) WHERE digest IS NOT NULL",
    "CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END",
    "CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END",
    "CREATE TRIGGER in_order BEFORE INSERT ON entries "
    "WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM entries) "
    "BEGIN SELECT RAISE(ABORT, 'entries are numbered without gaps'); END",
)


@dataclass(frozen=True)
class Receipt:
    """Proof that a charge is durable; the gate draws noise for nothing else. Built in this module alone."""

    digest: str
    round: int
    attempt: int
    event: Event
    sum_sha256: str
    entry_hash: str


def commit_to_sum(values: NDArray[np.int64], salt: bytes) -> str:
    """What a charge may say about an un-noised sum: HMAC-SHA-256 under a secret salt, in hexadecimal.

    A plain SHA-256 of the sum must never reach a ledger that is released: whoever knows all units but one can
    compute the sum with and without it and compare hashes. The salt stays beside the un-noised sum.

    Args:
        values: [d] int64.
        salt: 32 fresh bytes of `OsEntropy`, secret and used once.

    Raises:
        MechanismViolation: the salt is too short.
    """
    if len(salt) < _SALT_BYTES:
        raise MechanismViolation(f"the salt has {len(salt)} bytes; draw {_SALT_BYTES} from OsEntropy for each sum")
    return hmac.new(salt, values.astype("<i8").tobytes(), hashlib.sha256).hexdigest()


class Ledger:
    """An open ledger. Usable from several threads and processes; not across a fork."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._lock = threading.RLock()
        self._entries: list[Entry] = []
        self._receipts: dict[tuple[str, int, int], Receipt] = {}

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Json]) -> "Ledger":
        """Start a ledger with `header` (role, plan digest, ...) as its first entry.

        Raises:
            LedgerUnavailable: the file exists, or cannot be written.
        """
        try:
            # Exclusive: a second ledger over the first would forget what was spent.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError as error:
            raise LedgerUnavailable(
                f"{path} exists; a ledger is never replaced. Open it, or name another file"
            ) from error
        except OSError as error:
            raise LedgerUnavailable(f"{path} cannot be created: {error.strerror}. Check folder and rights") from error
        ledger = cls(connect(path, "rw"), path)
        with ledger._transaction("IMMEDIATE", new=True):
            for statement in _SCHEMA:
                ledger._db.execute(statement)
            ledger._db.execute(f"PRAGMA user_version = {_VERSION}")
            ledger._insert(_OPEN, header)
        return ledger

    @classmethod
    def open(
        cls, path: Path, read_only: bool = False, expect_head: str | None = None, most: int | None = None
    ) -> "Ledger":
        """Open a ledger and verify its version, its schema and its whole chain.

        Args:
            path: the file.
            read_only: refuse every write; works in a folder without write permission.
            expect_head: a head kept earlier, elsewhere. It must be in the chain: an older copy lacks it,
                and so does one that has gone its own way since. To ask that it be the last, compare `head`.
            most: how many entries there may be, for a ledger that somebody else wrote; they are counted before any is
                read.

        Raises:
            LedgerCorrupt: not a ledger, a broken chain, an old copy, or more entries than `most`.
            LedgerUnavailable: missing, locked, or written by a newer version.
        """
        if not path.is_file():
            raise LedgerUnavailable(f"there is no ledger at {path}; check the folder, or create one")
        ledger = cls(connect(path, "ro" if read_only else "rw"), path)
        try:
            with ledger._transaction("DEFERRED", new=True):
                ledger._check_schema()
                if most is not None:
                    ledger._check_size(most)
                ledger._catch_up()
            if expect_head is not None and all(entry.hash != expect_head for entry in ledger._entries):
                raise LedgerCorrupt(f"{path} does not hold the entry {expect_head}: it is an old copy. {ADVICE}")
        except BaseException:
            ledger.close()
            raise
        return ledger

    def charge(
        self,
        digest: str,
        round_: int,
        attempt: int,
        event: Event,
        sum_sha256: str,
        max_attempts: int,
        *,
        rounds: range | None = None,
        once_per_round: bool = False,
        allowed: Callable[[Sequence[Entry]], None] | None = None,
    ) -> Receipt:
        """Charge one attempt; durable when this returns (PRIVACY 11). Of two processes, exactly one succeeds.

        Args:
            digest: the plan's digest.
            round_: the round.
            attempt: the attempt at that round.
            event: what it costs.
            sum_sha256: `commit_to_sum` of the opened sum, or a node's digest of what it is about to send.
            max_attempts: how many charges the plan allows in `rounds`.
            rounds: those of one stage, of which this is one; None: all of the plan (PRIVACY 25).
            once_per_round: refuse a second attempt of a round too (a node at p = 1, PRIVACY 12).
            allowed: sees all entries, within the transaction, and raises where this charge must not follow them.

        Raises:
            ReplayedAttempt: (digest, round, attempt) was charged before.
            BudgetExceeded: the plan's charges are used up.
            MechanismViolation: a round or an attempt that no plan has, or another stage's round; nothing was charged.
            LedgerUnavailable: locked, full or read-only; nothing was charged.
            LedgerCorrupt: the file changed under our hands.
        """
        if not _within_a_plan(round_, attempt):
            raise MechanismViolation(f"round {round_}, attempt {attempt} is in no plan; nothing was charged")
        if rounds is not None and round_ not in rounds:
            raise MechanismViolation(f"round {round_} is not one of this stage; nothing was charged")
        key = (digest, round_, attempt)
        body: dict[str, Json] = {
            "digest": digest,
            "round": round_,
            "attempt": attempt,
            "event": event.as_dict(),
            "sum_sha256": sum_sha256,
        }
        with self._transaction("IMMEDIATE"):
            if key in self._receipts:
                raise ReplayedAttempt(
                    f"round {round_}, attempt {attempt} of study {digest[:8]} was charged before; start a new attempt"
                )
            if once_per_round and any(charged[:2] == (digest, round_) for charged in self._receipts):
                raise ReplayedAttempt(f"round {round_} of study {digest[:8]} was answered in another attempt")
            used = sum(1 for charged, of, _ in self._receipts if charged == digest and (rounds is None or of in rounds))
            if used >= max_attempts:
                raise BudgetExceeded(
                    f"study {digest[:8]} has used its {max_attempts} attempts; release what there is, "
                    "or plan a new study"
                )
            if allowed is not None:
                allowed(self._entries)
            entry_hash = self._insert(_CHARGE, body)
        return Receipt(digest, round_, attempt, event, sum_sha256, entry_hash)

    def append(
        self, kind: str, body: Mapping[str, Json], allowed: Callable[[Sequence[Entry]], None] | None = None
    ) -> str:
        """Append an entry that is no charge, durably, and return its hash.

        Args:
            kind: of the entry.
            body: of the entry.
            allowed: sees all entries, within the transaction, and raises where this one must not follow them.

        Raises:
            MechanismViolation: `kind` is reserved for the ledger itself.
        """
        if kind in (_OPEN, _CHARGE):
            raise MechanismViolation(f"an entry of kind {kind!r} is written by the ledger alone")
        with self._transaction("IMMEDIATE"):
            if allowed is not None:
                allowed(self._entries)
            return self._insert(kind, body)

    def receipt(self, digest: str, round_: int, attempt: int) -> Receipt | None:
        """The receipt of an attempt that was charged, else None."""
        with self._transaction("DEFERRED"):
            return self._receipts.get((digest, round_, attempt))

    def charges(self, digest: str) -> list[Receipt]:
        """All receipts of a study, in the order of charging."""
        with self._transaction("DEFERRED"):
            return [receipt for receipt in self._receipts.values() if receipt.digest == digest]

    def events(self, digest: str) -> list[Event]:
        """What a study has cost so far, for `accounting`."""
        return [receipt.event for receipt in self.charges(digest)]

    def entries(self) -> list[Entry]:
        """All entries, verified, oldest first."""
        with self._transaction("DEFERRED"):
            return list(self._entries)

    @property
    def header(self) -> Mapping[str, Json]:
        """What `create` was given."""
        return self.entries()[0].body

    @property
    def head(self) -> str:
        """The hash of the last entry: who keeps it can tell an old copy."""
        return self.entries()[-1].hash

    def copy_to(self, path: Path) -> None:
        """Write a consistent copy to a new file.

        Raises:
            LedgerUnavailable: the file exists, or cannot be written.
        """
        if path.exists():
            raise LedgerUnavailable(f"{path} exists; name a new file")
        with self._lock, explained(self._path):
            self._db.execute("VACUUM INTO ?", (str(path),))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _transaction(self, mode: Literal["IMMEDIATE", "DEFERRED"], new: bool = False) -> Iterator[None]:
        """Verify what is new in the file (unless `new`), do the work, commit: all or nothing."""
        with self._lock, explained(self._path):
            self._db.execute(f"BEGIN {mode}")
            try:
                if not new:
                    self._catch_up()
                yield
                if mode == "IMMEDIATE":
                    reached("ledger/before commit")
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back by itself after some errors, a full disk for one.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _insert(self, kind: str, body: Mapping[str, Json]) -> str:
        """Insert the next entry; memory learns of it when it is read back, after the commit."""
        prev = self._entries[-1].hash if self._entries else GENESIS
        row = make_row(len(self._entries) + 1, prev, kind, body)
        self._db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(row))
        return row.hash

    def _catch_up(self) -> None:
        """Verify the last known entry again and all that follow it, and remember them."""
        known = len(self._entries)
        query = "SELECT seq, body, prev, hash, digest, round, attempt FROM entries WHERE seq >= ? ORDER BY seq"
        rows = [Row(*columns) for columns in self._db.execute(query, (known or _LEAST_INTEGER,))]
        if known and (not rows or rows.pop(0).hash != self._entries[-1].hash):
            raise LedgerCorrupt(f"{self._path}: entry {known} has changed since it was read. {ADVICE}")
        for row in rows:
            prev = self._entries[-1].hash if self._entries else GENESIS
            entry = check_row(row, len(self._entries) + 1, prev)
            if (entry.seq == 1) != (entry.kind == _OPEN):
                raise LedgerCorrupt(f"{self._path}: entry {entry.seq} is of kind {entry.kind!r}. {ADVICE}")
            if entry.kind == _CHARGE:
                self._remember(entry)
            self._entries.append(entry)
        if not self._entries:
            raise LedgerCorrupt(f"{self._path} has no entry. {ADVICE}")

    def _check_size(self, most: int) -> None:
        """No more entries than that, and none longer than an entry of ours."""
        count, longest = self._db.execute(
            "SELECT count(*), max(length(CAST(body AS BLOB)) + length(prev) + length(hash) + "
            "length(coalesce(digest, '')) + length(coalesce(round, '')) + length(coalesce(attempt, ''))) FROM entries"
        ).fetchone()
        if count > most:
            raise LedgerCorrupt(f"{self._path} has {count} entries; at most {most} can be right. {ADVICE}")
        if count and not longest <= ENTRY_BYTES:
            raise LedgerCorrupt(f"{self._path} has an entry of {longest} bytes; none of ours is so long. {ADVICE}")

    def _remember(self, entry: Entry) -> None:
        """Keep the receipt of a verified charge."""
        receipt = _receipt(entry)
        key = (receipt.digest, receipt.round, receipt.attempt)
        if key in self._receipts:
            raise LedgerCorrupt(f"{self._path}: entry {entry.seq} charges an attempt twice. {ADVICE}")
        self._receipts[key] = receipt

    def _check_schema(self) -> None:
        """Version and schema are ours, triggers and index included."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise LedgerUnavailable(f"{self._path} has version {version}, this program knows {_VERSION}; upgrade it")
        query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
        if version != _VERSION or {sql for (sql,) in self._db.execute(query)} != set(_SCHEMA):
            raise LedgerCorrupt(f"{self._path} is not a ledger, or its triggers were removed. {ADVICE}")


def _within_a_plan(round_: int, attempt: int) -> bool:
    return 0 <= round_ <= ATTEMPTS and 0 <= attempt <= ATTEMPTS


def _receipt(entry: Entry) -> Receipt:
    """The receipt that a charge's body describes."""
    match entry.body:
        case {
            "digest": str(digest),
            "round": int(round_),
            "attempt": int(attempt),
            "event": Mapping() as event,
            "sum_sha256": str(sum_sha256),
        }:
            try:
                charged = read_event(event)
            except MechanismViolation as error:
                raise LedgerCorrupt(f"ledger entry {entry.seq} charges no mechanism: {error}. {ADVICE}") from error
            if not _within_a_plan(round_, attempt):
                raise LedgerCorrupt(f"ledger entry {entry.seq} charges an attempt that no plan has. {ADVICE}")
            return Receipt(digest, round_, attempt, charged, sum_sha256, entry.hash)
        case _:
            raise LedgerCorrupt(f"ledger entry {entry.seq} is not a charge. {ADVICE}")
