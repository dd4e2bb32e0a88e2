"""What a node must remember of an attempt before anything is sent: its coins and its finished rows.

Rows are stored block by block, so an inversion that is interrupted goes on where it was. Coins are
drawn once for an attempt and stored before they are used.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.errors import FolderError, LedgerUnavailable, PlanChanged
from undertone.failpoints import reached

_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    digest TEXT, round INTEGER, attempt INTEGER, state_sha256 TEXT NOT NULL, units TEXT NOT NULL,
    PRIMARY KEY (digest, round, attempt)
);
CREATE TABLE IF NOT EXISTS rows (
    digest TEXT, round INTEGER, attempt INTEGER, unit TEXT, row BLOB NOT NULL,
    PRIMARY KEY (digest, round, attempt, unit)
);
PRAGMA user_version = 1;
"""

Attempt = tuple[str, int, int]
_VALUES_AT_ONCE = 1 << 20


class NodeState:
    """state.sqlite. An attempt is (plan digest, round, attempt)."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")  # what is forgotten must not stay in free pages
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"{path} cannot be opened: {error}; free it or make room, then resume") from None

    def __enter__(self) -> "NodeState":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._db.close()

    def sampled(self, attempt: Attempt, state_sha256: str) -> list[str] | None:
        """The units this attempt's coins chose, or None before they were drawn.

        Raises:
            PlanChanged: the attempt was prepared for another public state w.
        """
        found = self._db.execute(
            "SELECT state_sha256, units FROM samples WHERE digest = ? AND round = ? AND attempt = ?", attempt
        ).fetchone()
        if found is None:
            return None
        if found[0] != state_sha256:
            raise PlanChanged(f"round {attempt[1]}, attempt {attempt[2]} was prepared for another model state")
        chosen: list[str] = json.loads(found[1])
        return chosen

    def keep_sample(self, attempt: Attempt, state_sha256: str, units: Sequence[str]) -> None:
        """Store the coins' outcome before it is used."""
        self._run("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", [(*attempt, state_sha256, json.dumps(list(units)))])

    def keep_rows(self, attempt: Attempt, rows: Sequence[tuple[str, NDArray[np.float32]]]) -> None:
        """Store finished rows, all or none."""
        self._run(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
            [(*attempt, unit, row.astype("<f4").tobytes()) for unit, row in rows],
        )

    def finished(self, attempt: Attempt) -> set[str]:
        """The units whose rows are on disk."""
        found = self._db.execute("SELECT unit FROM rows WHERE digest = ? AND round = ? AND attempt = ?", attempt)
        return {unit for (unit,) in found}

    def row_blocks(self, attempt: Attempt, dimension: int) -> Iterator[NDArray[np.float32]]:
        """The finished rows, some at a time: [n, d] with n d at most 2^20, in no order that means anything.

        Raises:
            FolderError: a row is not of `dimension` values.
        """
        found = self._db.execute("SELECT row FROM rows WHERE digest = ? AND round = ? AND attempt = ?", attempt)
        while blobs := [blob for (blob,) in found.fetchmany(max(_VALUES_AT_ONCE // dimension, 1))]:
            if any(len(blob) != 4 * dimension for blob in blobs):
                raise FolderError(f"the node's state holds a row that has not {dimension} values; restore a backup")
            yield np.frombuffer(b"".join(blobs), dtype="<f4").astype(np.float32).reshape(-1, dimension)

    def rows(self, attempt: Attempt) -> dict[str, NDArray[np.float32]]:
        """Unit -> finished row [d], all at once: for diagnostics of a simulation."""
        found = self._db.execute("SELECT unit, row FROM rows WHERE digest = ? AND round = ? AND attempt = ?", attempt)
        return {unit: np.frombuffer(blob, dtype="<f4").astype(np.float32) for unit, blob in found}

    def forget(self, attempt: Attempt) -> None:
        """Drop the coins' outcome and rows of an attempt that was answered."""
        for table in ("rows", "samples"):
            self._run(f"DELETE FROM {table} WHERE digest = ? AND round = ? AND attempt = ?", [attempt])

    def _run(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(statement, values)
            reached("state/before commit")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise LedgerUnavailable(f"the node's state cannot be written: {error}; make room, then resume") from None
