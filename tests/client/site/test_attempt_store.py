"""state.sqlite of a node: durable when it says so, and one named error where it cannot be used."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.support.failpoints import Killed, at
from undertone.errors import FolderError, LedgerUnavailable
from undertone_client.site import attempt_store
from undertone_client.site.attempt_store import AttemptStore

ATTEMPT = ("ab" * 32, 1, 1)
ROW = np.arange(3, dtype=np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with AttemptStore(tmp_path / "state.sqlite") as store:
        store.keep_sample(ATTEMPT, "hash", ["a", "b"])
        store.keep_rows(ATTEMPT, [("a", ROW), ("b", ROW + 1)])
    return tmp_path / "state.sqlite"


def alter(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_what_was_stored_is_there_for_the_next_process(path: Path) -> None:
    with AttemptStore(path) as store:
        assert store.sampled(ATTEMPT, "hash") == ["a", "b"]
        np.testing.assert_array_equal(store.rows(ATTEMPT)["b"], ROW + 1)
        store.forget(ATTEMPT)
        assert store.sampled(ATTEMPT, "hash") is None


def test_commits_sync_the_folder_too_and_what_is_forgotten_is_overwritten(path: Path) -> None:
    with AttemptStore(path) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
        assert store._db.execute("PRAGMA secure_delete").fetchone() == (1,)
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_forgotten_sum_leaves_nothing_even_after_a_death_within_a_write(path: Path) -> None:
    with AttemptStore(path) as store:
        store.keep_sum(ATTEMPT, np.array([True, False]), np.ones(3, dtype=np.int64))
        with at("durable/written"), pytest.raises(Killed):
            store.keep_sum(ATTEMPT, np.array([True, True]), np.ones(3, dtype=np.int64))
        assert len(list((path.parent / "sums").iterdir())) == 2
        store.forget(ATTEMPT)
        assert list((path.parent / "sums").iterdir()) == []


def test_opening_writes_nothing(path: Path) -> None:
    before = path.read_bytes(), path.stat().st_mtime_ns
    AttemptStore(path).__exit__()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_newer_state_is_refused_with_both_numbers(path: Path) -> None:
    alter(path, "PRAGMA user_version = 2")
    with pytest.raises(LedgerUnavailable, match="version 2, this program knows 1"):
        AttemptStore(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE samples SET units = '['",
        "UPDATE rows SET row = x'0000' WHERE unit = 'a'",
        "UPDATE rows SET row = x'00000000' WHERE unit = 'a'",
        "UPDATE rows SET row = 'text' WHERE unit = 'a'",
        "DROP TABLE rows",
        "DROP TABLE samples",
    ],
)
def test_content_that_is_none_is_damage(path: Path, statement: str) -> None:
    alter(path, statement)
    with AttemptStore(path) as store, pytest.raises(FolderError, match="move it away"):
        (store.sampled(ATTEMPT, "hash"), store.rows(ATTEMPT))


@pytest.mark.parametrize("data", [b"damaged " * 1000, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_file_that_is_no_database_is_damage(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(FolderError, match="move it away"):
        AttemptStore(path)


def test_a_state_that_is_held_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_store, "_BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        AttemptStore(path)
    holder.close()
    AttemptStore(path).__exit__()


def test_of_two_processes_that_prepare_one_attempt_the_second_is_told(path: Path) -> None:
    with AttemptStore(path) as store:
        with pytest.raises(LedgerUnavailable, match="another process prepares"):
            store.keep_sample(ATTEMPT, "hash", ["b"])
        with pytest.raises(LedgerUnavailable, match="another process prepares"):
            store.keep_rows(ATTEMPT, [("c", ROW), ("a", ROW)])
        assert store.sampled(ATTEMPT, "hash") == ["a", "b"]
        assert set(store.rows(ATTEMPT)) == {"a", "b"}  # all or none


def test_a_full_disk_stores_nothing_of_a_block(path: Path) -> None:
    with AttemptStore(path) as store:
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerUnavailable, match="full"):
            store.keep_rows(ATTEMPT, [("c", ROW), ("d", np.zeros(100_000, np.float32))])
        assert set(store.rows(ATTEMPT)) == {"a", "b"}
