"""The one SQLite file of a ledger: connections that commit durably, and SQLite's errors as ours."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from undertone.errors import LedgerCorrupt, LedgerUnavailable
from undertone.privacy.chain import ADVICE

_BUSY_SECONDS = 10.0


def connect(path: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """A connection that commits durably.

    EXTRA, not FULL: in journal mode DELETE a commit is the removal of the journal, and only EXTRA syncs the
    folder after it. With FULL a power cut can bring the journal back and undo a charge already answered.
    """
    with explained(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        # Bytes that are no text must reach the chain's check, not end in sqlite3.
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        try:
            if mode == "rw":
                connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with what to do."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        code = error.sqlite_errorcode & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise LedgerCorrupt(f"{path} is not a readable ledger ({error}). {ADVICE}") from error
        raise LedgerUnavailable(f"{path}: {error}. {_REMEDIES.get(code, _REMEDY)}") from error


_REMEDY = "Nothing was charged; check disk and rights, then resume"
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "Nothing was charged; another process holds the ledger: let it finish, then resume",
    sqlite3.SQLITE_FULL: "Nothing was charged; the disk is full: free some space, then resume",
    sqlite3.SQLITE_READONLY: "Nothing was charged; make file and folder writable, then resume",
    sqlite3.SQLITE_CANTOPEN: "Nothing was charged; make file and folder writable, then resume",
}
