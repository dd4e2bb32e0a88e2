"""The attempt store: what a node keeps of an attempt before anything is sent, its coins, finished rows and sum.

Rows are stored block by block, so an inversion that is interrupted goes on where it was. Coins are
drawn once for an attempt and stored before they are used. The finished sum takes the place of both, before the attempt
is called ready: how long reading it and forgetting it take says nothing of how many units there were (PRIVACY 26).
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.core.durable import part_of, read_array, storage_errors, write_array
from undertone.core.failpoints import reached
from undertone.errors import FolderError, LedgerUnavailable, PlanChanged

_VERSION = 1
_BUSY_SECONDS = 30.0
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS samples (
    digest TEXT, round INTEGER, attempt INTEGER, state_sha256 TEXT NOT NULL, units TEXT NOT NULL,
    PRIMARY KEY (digest, round, attempt)
);
CREATE TABLE IF NOT EXISTS rows (
    digest TEXT, round INTEGER, attempt INTEGER, unit TEXT, row BLOB NOT NULL,
    PRIMARY KEY (digest, round, attempt, unit)
);
PRAGMA user_version = {_VERSION};
COMMIT;
"""

AttemptKey = tuple[str, int, int]
_VALUES_AT_ONCE = 1 << 20
_FINISHED = "-finished"


class AttemptStore:
    """state.sqlite. An attempt's key is (plan digest, round, number).

    A commit is durable when it returns: synchronous is EXTRA, as in the ledger. FULL would do for the guarantee,
    because whoever lost coins to a power cut had not answered (the charge that comes before an answer is durable),
    and coins nobody has seen the effect of may fall again. But then rows that were forgotten could come back and
    stay for ever, and "stored before they are used" would need that argument. The price is one more flush for each
    block of rows, which takes seconds to compute.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _explained(path):
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA synchronous = EXTRA")
        self._db.execute("PRAGMA secure_delete = ON")  # what is forgotten must not stay in free pages
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise LedgerUnavailable(f"{self._path} has version {version}, this program knows {_VERSION}; upgrade it")
        if version < _VERSION:
            self._db.executescript(_SCHEMA)

    def __enter__(self) -> "AttemptStore":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._db.close()

    def sampled(self, attempt: AttemptKey, state_sha256: str) -> list[str] | None:
        """The units this attempt's coins chose, or None before they were drawn.

        Raises:
            PlanChanged: the attempt was prepared for another public state w.
        """
        with _explained(self._path):
            found = self._db.execute(
                "SELECT state_sha256, units FROM samples WHERE digest = ? AND round = ? AND attempt = ?", attempt
            ).fetchone()
        if found is None:
            return None
        if found[0] != state_sha256:
            raise _other_state(attempt)
        try:
            return [str(unit) for unit in json.loads(found[1])]
        except (TypeError, ValueError):
            raise _damaged(self._path) from None

    def keep_sample(self, attempt: AttemptKey, state_sha256: str, units: Sequence[str]) -> None:
        """Store the coins' outcome before it is used."""
        self._run("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", [(*attempt, state_sha256, json.dumps(list(units)))])

    def keep_rows(self, attempt: AttemptKey, rows: Sequence[tuple[str, NDArray[np.float32]]]) -> None:
        """Store finished rows, all or none."""
        self._run(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
            [(*attempt, unit, row.astype("<f4").tobytes()) for unit, row in rows],
        )

    def finished(self, attempt: AttemptKey) -> set[str]:
        """The units whose rows are on disk."""
        query = "SELECT unit FROM rows WHERE digest = ? AND round = ? AND attempt = ?"
        with _explained(self._path):
            return {unit for (unit,) in self._db.execute(query, attempt)}

    def row_blocks(self, attempt: AttemptKey, dimension: int) -> Iterator[NDArray[np.float32]]:
        """The finished rows, some at a time: [n, d] with n d at most 2^20, in no order that means anything.

        Raises:
            FolderError: a row is not of `dimension` values.
        """
        query = "SELECT row FROM rows WHERE digest = ? AND round = ? AND attempt = ?"
        with _explained(self._path):
            found = self._db.execute(query, attempt)
        while True:
            with _explained(self._path):
                blobs = [blob for (blob,) in found.fetchmany(max(_VALUES_AT_ONCE // dimension, 1))]
            if not blobs:
                return
            if any(not isinstance(blob, bytes) or len(blob) != 4 * dimension for blob in blobs):
                raise _damaged(self._path)
            yield np.frombuffer(b"".join(blobs), dtype="<f4").astype(np.float32).reshape(-1, dimension)

    def keep_sum(self, attempt: AttemptKey, summed: NDArray[np.bool_], total: NDArray[np.int64]) -> None:
        """Store a sum [d] over those of the chosen units that `summed` [chosen] marks, in place of the one before."""
        with storage_errors(self._path):
            self._sums.mkdir(exist_ok=True, mode=0o700)
        write_array(self._sum_of(attempt), np.concatenate([self._sample_words(attempt), summed, total]))

    def kept_sum(self, attempt: AttemptKey, chosen: int, dimension: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which of the chosen units are summed, [chosen], and their sum [d]; none and zeros before that.

        A sum that is damaged, or of other coins, is made anew: nobody has seen it.
        """
        nothing = np.zeros(chosen, dtype=np.bool_), np.zeros(dimension, dtype=np.int64)
        if not self._sum_of(attempt).exists():
            return nothing
        try:
            found = read_array(self._sum_of(attempt)).astype(np.int64)
        except FolderError:
            return nothing
        words = self._sample_words(attempt)
        if found.shape != (words.size + chosen + dimension,) or not np.array_equal(found[: words.size], words):
            return nothing
        return found[words.size : words.size + chosen] != 0, found[words.size + chosen :]

    def drop_sum(self, attempt: AttemptKey) -> None:
        """Drop what was summed so far: the sum begins anew, with the coins that fell."""
        _unlink(self._sum_of(attempt))

    def finish(
        self, attempt: AttemptKey, state_sha256: str, total: NDArray[np.int64], *, gone: Callable[[], bool]
    ) -> bool:
        """Store the sum [d] over all chosen units, once for all; whether that was done.

        Args:
            attempt: its coins fell.
            state_sha256: of the public state that its rows were made at.
            total: clipped, in integers.
            gone: whether units that are in `total` have withdrawn; asked in a turn that whoever withdraws one waits
                for. Then nothing is stored.
        """
        with storage_errors(self._path):
            self._sums.mkdir(exist_ok=True, mode=0o700)
        with self.turn():
            if gone():
                return False
            write_array(self._finished_of(attempt), np.concatenate([_words(attempt, state_sha256), total]))
        return True

    def finished_sum(self, attempt: AttemptKey, state_sha256: str, dimension: int) -> NDArray[np.int64] | None:
        """The sum [d] over all chosen units; None before it is finished.

        One that is damaged is made anew, with new coins: nobody has seen it.

        Raises:
            PlanChanged: the attempt was prepared for another public state w.
        """
        if not self.is_finished(attempt):
            return None
        try:
            found = read_array(self._finished_of(attempt)).astype(np.int64)
        except FolderError:
            return None
        words = _words(attempt, state_sha256)
        if not np.array_equal(found[: words.size], words):
            raise _other_state(attempt)
        return found[words.size :] if found.shape == (words.size + dimension,) else None

    def is_finished(self, attempt: AttemptKey) -> bool:
        """Whether the sum over all chosen units is stored."""
        return self._finished_of(attempt).exists()

    def forget_parts(self, attempt: AttemptKey) -> None:
        """Drop what a finished sum was made of: which units the coins chose, their rows, the unfinished sum."""
        self.drop_sum(attempt)
        for table in ("rows", "samples"):
            self._run(f"DELETE FROM {table} WHERE digest = ? AND round = ? AND attempt = ?", [attempt])

    def rows(self, attempt: AttemptKey) -> dict[str, NDArray[np.float32]]:
        """Unit -> finished row [d], all at once: for diagnostics of a simulation.

        Raises:
            FolderError: what is stored there are no rows of one length.
        """
        query = "SELECT unit, row FROM rows WHERE digest = ? AND round = ? AND attempt = ?"
        with _explained(self._path):
            found = self._db.execute(query, attempt).fetchall()
        lengths = {len(blob) if isinstance(blob, bytes) else -1 for _, blob in found}
        if len(lengths) > 1 or any(length < 0 or length % 4 for length in lengths):
            raise _damaged(self._path)
        return {unit: np.frombuffer(blob, dtype="<f4").astype(np.float32) for unit, blob in found}

    def zero_rows(self, attempt: AttemptKey, units: Sequence[str]) -> None:
        """Make the finished rows of units that were withdrawn zero rows; those of others stay."""
        statement = (
            "UPDATE rows SET row = zeroblob(length(row)) WHERE digest = ? AND round = ? AND attempt = ? AND unit = ?"
        )
        if units:
            self._run(statement, [(*attempt, unit) for unit in units])

    def keep_only(self, attempt: AttemptKey, names: Collection[str]) -> None:
        """Drop the finished rows of an attempt that have other names: rows of shards that hold other records now."""
        self._drop_rows(attempt, self.finished(attempt) - set(names))

    def _drop_rows(self, attempt: AttemptKey, names: Collection[str]) -> int:
        statement = "DELETE FROM rows WHERE digest = ? AND round = ? AND attempt = ? AND unit = ?"
        if names:
            self._run(statement, [(*attempt, name) for name in sorted(names)])
        return len(names)

    def withdraw(self, digest: str, units: Sequence[str], shards: Collection[str] = ()) -> tuple[int, int]:
        """Make the rows of units zero rows in all attempts of a study, and drop its unfinished sums, which begin anew.

        Their tombstones stand by now: whoever makes a sum meanwhile sees them in its own turn, or wrote before this.

        Args:
            digest: of the plan.
            units: who was withdrawn.
            shards: how the names of rows of their shards begin; these are dropped, and made anew without them.

        Returns:
            how many rows there were; how many finished sums stay: whose rows are in a sum cannot be told from it.
        """
        found, finished = 0, 0
        for attempt in self._attempts(digest):
            found += len(self.finished(attempt) & set(units))
            self.zero_rows(attempt, units)
            found += self._drop_rows(
                attempt, {row for row in self.finished(attempt) if shards and row.startswith(tuple(shards))}
            )
            with self.turn():
                finished += self._finished_of(attempt).exists()
                self.drop_sum(attempt)
        return found, finished

    def forget_study(self, digest: str) -> int:
        """Drop coins, rows and sums of all attempts of a study; how many attempts there were."""
        attempts = self._attempts(digest)
        for attempt in attempts:
            self.forget(attempt)
        return len(attempts)

    def _attempts(self, digest: str) -> list[AttemptKey]:
        """Those of a study that coins fell for and that were not forgotten."""
        query = "SELECT round, attempt FROM samples WHERE digest = ?"
        with _explained(self._path):
            found = {(int(round_), int(number)) for round_, number in self._db.execute(query, (digest,))}
        for path in self._sums.glob(f"{digest[:16]}-*{_FINISHED}*"):
            found.add((int(path.name.split("-")[1]), int(path.name.split("-")[2])))
        return [(digest, round_, number) for round_, number in sorted(found)]

    def forget(self, attempt: AttemptKey) -> None:
        """Drop the coins' outcome, rows and sums of an attempt that was answered."""
        _unlink(self._finished_of(attempt))
        self.forget_parts(attempt)

    @property
    def _sums(self) -> Path:
        """Sums lie beside the database, whose values may not be as long."""
        return self._path.with_name("sums")

    def _sum_of(self, attempt: AttemptKey) -> Path:
        digest, round_, number = attempt
        return self._sums / f"{digest[:16]}-{round_:06d}-{number:03d}.npy"

    def _finished_of(self, attempt: AttemptKey) -> Path:
        path = self._sum_of(attempt)
        return path.with_name(f"{path.stem}{_FINISHED}.npy")

    def _sample_words(self, attempt: AttemptKey) -> NDArray[np.int64]:
        """SHA-256 of the attempt, its public state and its coins, [4]: what an unfinished sum belongs to."""
        query = "SELECT state_sha256, units FROM samples WHERE digest = ? AND round = ? AND attempt = ?"
        with _explained(self._path):
            found = self._db.execute(query, attempt).fetchone()
        return _words(attempt, found)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within, no other process has a turn, or writes coins or rows; nor may this one write those."""
        with _explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            with _explained(self._path):
                self._db.execute("ROLLBACK")

    def _run(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        with _explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(statement, values)
                reached("attempt_store/before commit")
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back by itself after some errors, a full disk for one.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, with what to do."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise LedgerUnavailable(f"{path}: another process prepares this attempt; wait for it, then resume") from None
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise _damaged(path) from error
        raise LedgerUnavailable(f"{path} cannot be used: {error}; free it or make room, then resume") from error


def _other_state(attempt: AttemptKey) -> PlanChanged:
    return PlanChanged(f"round {attempt[1]}, attempt {attempt[2]} was prepared for another model state")


def _words(*parts: object) -> NDArray[np.int64]:
    return np.frombuffer(sha256(repr(parts).encode()).digest(), dtype="<i8").astype(np.int64)


def _unlink(path: Path) -> None:
    for file in (path, part_of(path)):  # the second after a death within a write
        file.unlink(missing_ok=True)


def _damaged(path: Path) -> FolderError:
    """Nothing that was answered can be lost with it: each answer stands in the ledger, which is never made anew."""
    return FolderError(
        f"{path} is damaged; move it away, then resume: coins and rows of attempts that were not answered are made anew"
    )
