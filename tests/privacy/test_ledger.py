"""The ledger: nothing is charged twice, nothing is forgotten, and what was written stays as it was."""

import hashlib
import json
import multiprocessing
import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undertone.errors import (
    BudgetExceeded,
    LedgerCorrupt,
    LedgerUnavailable,
    MechanismViolation,
    ReplayedAttempt,
    UndertoneError,
)
from undertone.privacy import ledger as ledger_module
from undertone.privacy import ledger_file
from undertone.privacy.accounting import GaussianEvent
from undertone.privacy.chain import Row, check_row
from undertone.privacy.ledger import Ledger, commit_to_sum

STUDY, OTHER = "a1" * 32, "b2" * 32
SUM = "c3" * 32
EVENT = GaussianEvent(sigma=1 << 20, sensitivity=1 << 19, sampling_rate=0.25, count=1)
HEADER = {"role": "coordinator", "digest": STUDY}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.create(path, HEADER) as opened:
        yield opened


def charge(ledger: Ledger, round_: int = 1, attempt: int = 1, digest: str = STUDY, most: int = 10) -> Any:
    return ledger.charge(digest, round_, attempt, EVENT, SUM, most)


def filled(path: Path) -> str:
    """A ledger with a header, two charges and a note; its head."""
    with Ledger.create(path, HEADER) as ledger:
        charge(ledger, 1)
        ledger.append("void", {"round": 2, "why": "too few sites"})
        charge(ledger, 2, 2)
        return ledger.head


# --- what is charged, and how often -----------------------------------------------------------------


def test_a_charge_can_be_read_back_before_and_after_reopening(path: Path) -> None:
    with Ledger.create(path, HEADER) as ledger:
        receipt = charge(ledger, 3, 2)
        assert (receipt.digest, receipt.round, receipt.attempt) == (STUDY, 3, 2)
        assert (receipt.event, receipt.sum_sha256) == (EVENT, SUM)
        assert ledger.head == receipt.entry_hash
        assert ledger.receipt(STUDY, 3, 2) == receipt
    with Ledger.open(path) as ledger:
        assert ledger.receipt(STUDY, 3, 2) == receipt
        assert ledger.receipt(STUDY, 3, 1) is None
        assert ledger.receipt(OTHER, 3, 2) is None
        assert ledger.charges(STUDY) == [receipt]
        assert ledger.events(STUDY) == [EVENT]
        assert ledger.header == HEADER


def test_an_attempt_is_charged_once(ledger: Ledger, path: Path) -> None:
    charge(ledger)
    with pytest.raises(ReplayedAttempt, match="start a new attempt"):
        charge(ledger)
    with Ledger.open(path) as again, pytest.raises(ReplayedAttempt):
        charge(again)
    charge(ledger, 1, 2)
    charge(ledger, 2, 1)
    charge(ledger, digest=OTHER)
    assert len(ledger.charges(STUDY)) == 3


def test_a_replay_is_a_replay_even_when_the_budget_is_used_up(ledger: Ledger) -> None:
    charge(ledger, most=1)
    with pytest.raises(ReplayedAttempt):
        charge(ledger, most=1)


def test_the_plans_attempts_are_the_limit_per_study(ledger: Ledger, path: Path) -> None:
    charge(ledger, 1, most=2)
    charge(ledger, 2, most=2)
    before = ledger.head
    with pytest.raises(BudgetExceeded, match="2 attempts"):
        charge(ledger, 3, most=2)
    with Ledger.open(path) as again, pytest.raises(BudgetExceeded):
        charge(again, 3, most=2)
    assert ledger.head == before
    charge(ledger, 1, digest=OTHER, most=1)


def test_a_refused_charge_leaves_the_ledger_usable(ledger: Ledger) -> None:
    charge(ledger)
    with pytest.raises(ReplayedAttempt):
        charge(ledger)
    ledger.append("resumed", {})
    charge(ledger, 2)
    assert [entry.kind for entry in ledger.entries()] == ["open", "charge", "resumed", "charge"]


def test_notes_are_chained_and_cannot_pass_for_charges(ledger: Ledger) -> None:
    assert ledger.append("head", {"countersigned": "ä" * 3}) == ledger.head
    assert ledger.entries()[1].body == {"countersigned": "äää"}
    for kind in ("charge", "open"):
        with pytest.raises(MechanismViolation):
            ledger.append(kind, {})


# --- files ------------------------------------------------------------------------------------------


def test_a_ledger_is_one_private_file_that_is_never_replaced(path: Path) -> None:
    head = filled(path)
    assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(LedgerUnavailable, match="never replaced"):
        Ledger.create(path, HEADER)
    with Ledger.open(path) as ledger:
        assert ledger.head == head


def test_commits_sync_the_folder_too(ledger: Ledger) -> None:
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert ledger._db.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_copy_is_a_ledger_with_the_same_head(path: Path, tmp_path: Path) -> None:
    head = filled(path)
    with Ledger.open(path) as ledger:
        ledger.copy_to(tmp_path / "copy.sqlite")
        with pytest.raises(LedgerUnavailable, match="exists"):
            ledger.copy_to(tmp_path / "copy.sqlite")
        with pytest.raises(LedgerUnavailable):
            ledger.copy_to(tmp_path / "no such folder" / "copy.sqlite")
    with Ledger.open(tmp_path / "copy.sqlite", read_only=True, expect_head=head) as copy:
        assert copy.head == head
        copy.copy_to(tmp_path / "copy of the copy.sqlite")


def test_odd_file_names_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / "a ?mode=memory#b%20 ü.sqlite"
    head = filled(path)
    assert path.is_file()
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.head == head


def test_a_missing_folder_or_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        Ledger.create(tmp_path / "nowhere" / "ledger.sqlite", HEADER)
    with pytest.raises(LedgerUnavailable):
        Ledger.open(tmp_path / "ledger.sqlite")
    with pytest.raises(LedgerUnavailable):
        Ledger.open(tmp_path)


def test_read_only_reads_and_refuses_to_write(path: Path) -> None:
    filled(path)
    before = path.read_bytes()
    with Ledger.open(path, read_only=True) as ledger:
        assert len(ledger.charges(STUDY)) == 2
        with pytest.raises(LedgerUnavailable, match="writable"):
            charge(ledger, 9)
        with pytest.raises(LedgerUnavailable, match="writable"):
            ledger.append("x", {})
    assert path.read_bytes() == before


def test_a_read_only_folder_can_be_read(path: Path) -> None:
    filled(path)
    path.parent.chmod(0o500)
    try:
        with Ledger.open(path, read_only=True) as ledger:
            assert len(ledger.charges(STUDY)) == 2
        # Root may write everywhere; the test after this one holds for root too.
        if os.geteuid() != 0:
            with Ledger.open(path) as ledger, pytest.raises(LedgerUnavailable):
                charge(ledger, 9)
    finally:
        path.parent.chmod(0o700)


def open_and_charge(path: Path) -> None:
    with Ledger.open(path) as ledger:
        charge(ledger, 9)


def test_without_a_journal_nothing_is_charged(path: Path) -> None:
    head = filled(path)
    # A folder in the journal's place: SQLite cannot write there, whoever runs this.
    Path(f"{path}-journal").mkdir()
    with pytest.raises(LedgerUnavailable):
        open_and_charge(path)
    Path(f"{path}-journal").rmdir()
    with Ledger.open(path) as ledger:
        assert ledger.head == head


def fill(ledger: Ledger) -> None:
    for number in range(100):
        ledger.append("filler", {"text": "x" * 500, "number": number})


def test_a_full_disk_charges_nothing(ledger: Ledger) -> None:
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerUnavailable, match="disk is full"):
        fill(ledger)
    with pytest.raises(LedgerUnavailable, match="Nothing was charged"):
        ledger.append("filler", {"text": "x" * 5000})
    ledger._db.execute("PRAGMA max_page_count = 100000")
    count = len(ledger.entries())
    charge(ledger)
    assert len(ledger.entries()) == count + 1


def test_a_locked_ledger_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    monkeypatch.setattr(ledger_file, "_BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Ledger.open(path) as ledger:
        with pytest.raises(LedgerUnavailable, match="another process"):
            charge(ledger, 9)
        holder.execute("ROLLBACK")
        charge(ledger, 9)
    holder.close()


# --- tampering --------------------------------------------------------------------------------------


def independent_hash(prev: str, body: str) -> str:
    return hashlib.sha256((prev + body).encode()).hexdigest()


def rewrite(path: Path, *changes: tuple[str, tuple[Any, ...]]) -> None:
    """Change rows behind the ledger's back, and leave the schema as it was; all or nothing."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("BEGIN")
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        for statement, parameters in changes:
            db.execute(statement, parameters)
        for _, sql in triggers:
            db.execute(sql)
        db.execute("COMMIT")
    finally:
        db.close()


def test_the_triggers_refuse_updates_deletes_and_gaps(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        for statement in (
            "UPDATE entries SET body = 'x' WHERE seq = 2",
            "DELETE FROM entries WHERE seq = 4",
            "INSERT INTO entries (seq, body, prev, hash) VALUES (9, 'x', 'x', 'x')",
            "INSERT OR REPLACE INTO entries (seq, body, prev, hash) VALUES (2, 'x', 'x', 'x')",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(statement)
    db.close()
    with Ledger.open(path) as ledger:
        assert len(ledger.entries()) == 4


TAMPERINGS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "hash": ("UPDATE entries SET hash = ? WHERE seq = 2", ("0" * 64,)),
    "last hash": ("UPDATE entries SET hash = ? WHERE seq = 4", ("0" * 64,)),
    "prev": ("UPDATE entries SET prev = ? WHERE seq = 3", ("0" * 64,)),
    "first prev": ("UPDATE entries SET prev = ? WHERE seq = 1", ("1" * 64,)),
    "digest": ("UPDATE entries SET digest = ? WHERE seq = 2", (OTHER,)),
    "round": ("UPDATE entries SET round = 7 WHERE seq = 2", ()),
    "attempt": ("UPDATE entries SET attempt = 7 WHERE seq = 2", ()),
    "columns of a charge removed": (
        "UPDATE entries SET digest = NULL, round = NULL, attempt = NULL WHERE seq = 2",
        (),
    ),
    "columns on a note": ("UPDATE entries SET digest = ?, round = 7, attempt = 7 WHERE seq = 3", (STUDY,)),
    "body of another type": ("UPDATE entries SET body = CAST(body AS BLOB) WHERE seq = 2", ()),
    "body no UTF-8": ("UPDATE entries SET body = CAST(X'FF' AS TEXT) WHERE seq = 2", ()),
    "body no JSON": ("UPDATE entries SET body = 'x' WHERE seq = 2", ()),
    "seq with a gap": ("UPDATE entries SET seq = 9 WHERE seq = 4", ()),
    "number below one": ("INSERT INTO entries VALUES (-5, 'x', 'x', 'x', NULL, NULL, NULL)", ()),
    "first removed": ("DELETE FROM entries WHERE seq = 1", ()),
    "middle removed": ("DELETE FROM entries WHERE seq = 2", ()),
    "all removed": ("DELETE FROM entries", ()),
    "version": ("PRAGMA user_version = 0", ()),
    "unique index": ("DROP INDEX one_charge", ()),
    "another trigger": ("CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END", ()),
}


@pytest.mark.parametrize("change", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_tampering_is_found(change: tuple[str, tuple[Any, ...]], path: Path) -> None:
    filled(path)
    rewrite(path, change)
    with pytest.raises(LedgerCorrupt, match="restore the newest backup"):
        Ledger.open(path)


def test_missing_triggers_are_found(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER no_update")
    db.close()
    with pytest.raises(LedgerCorrupt):
        Ledger.open(path)


def test_a_change_of_any_byte_of_any_body_is_found(path: Path) -> None:
    filled(path)
    original = path.read_bytes()
    db = sqlite3.connect(path)
    bodies = db.execute("SELECT body FROM entries").fetchall()
    db.close()
    for (body,) in bodies:
        for position in range(len(body)):
            changed = body[:position] + chr(ord(body[position]) ^ 1) + body[position + 1 :]
            assert original.count(body.encode()) == 1
            path.write_bytes(original.replace(body.encode(), changed.encode()))
            with pytest.raises(LedgerCorrupt):
                Ledger.open(path, read_only=True).close()


def test_swapped_entries_are_found(path: Path) -> None:
    filled(path)
    rewrite(
        path,
        ("UPDATE entries SET seq = 99 WHERE seq = 2", ()),
        ("UPDATE entries SET seq = 2 WHERE seq = 3", ()),
        ("UPDATE entries SET seq = 3 WHERE seq = 99", ()),
    )
    with pytest.raises(LedgerCorrupt):
        Ledger.open(path)


def test_a_charge_repeated_in_a_consistent_chain_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = filled(path)
    db = sqlite3.connect(path)
    (body,) = db.execute("SELECT body FROM entries WHERE seq = 2").fetchone()
    db.close()
    insert = ("INSERT INTO entries VALUES (5, ?, ?, ?, ?, 1, 1)", (body, head, independent_hash(head, body), STUDY))
    with pytest.raises(sqlite3.IntegrityError):
        rewrite(path, insert)
    rewrite(path, ("DROP INDEX one_charge", ()), insert)
    with pytest.raises(LedgerCorrupt, match="triggers were removed"):
        Ledger.open(path)
    # Even a schema that had lost its index would not let it through.
    monkeypatch.setattr(ledger_module, "_SCHEMA", [sql for sql in ledger_module._SCHEMA if "one_charge" not in sql])
    with pytest.raises(LedgerCorrupt, match="charges an attempt twice"):
        Ledger.open(path)


@pytest.mark.parametrize("content", [b"", b"not a database, only text" * 100, b"SQLite format 3\0" + b"\0" * 4080])
def test_other_files_are_no_ledgers(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises((LedgerCorrupt, LedgerUnavailable)) as caught:
        Ledger.open(path)
    assert "restore" in str(caught.value)


def test_a_truncated_or_scrambled_file_is_corrupt(path: Path) -> None:
    filled(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100] + b"\xff" * 200 + whole[300:]):
        path.write_bytes(damaged)
        with pytest.raises(LedgerCorrupt):
            Ledger.open(path)


def test_a_newer_version_is_refused_with_both_numbers(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(LedgerUnavailable, match=r"version 2.*knows 1"):
        Ledger.open(path)


def test_a_change_under_an_open_ledger_is_found_at_the_next_charge(path: Path) -> None:
    filled(path)
    with Ledger.open(path) as ledger:
        rewrite(path, ("DELETE FROM entries WHERE seq = 4", ()))
        with pytest.raises(LedgerCorrupt):
            charge(ledger, 9)


# --- old copies -------------------------------------------------------------------------------------


def test_only_a_kept_head_shows_that_the_end_was_cut_off(path: Path) -> None:
    head = filled(path)
    rewrite(path, ("DELETE FROM entries WHERE seq = 4", ()))
    with Ledger.open(path) as ledger:
        assert len(ledger.entries()) == 3
    with pytest.raises(LedgerCorrupt, match="old copy"):
        Ledger.open(path, expect_head=head)


def test_an_old_copy_that_went_its_own_way_lacks_the_head(path: Path, tmp_path: Path) -> None:
    with Ledger.create(path, HEADER) as ledger:
        charge(ledger, 1)
        shutil.copy(path, tmp_path / "old.sqlite")
        charge(ledger, 2)
        head = ledger.head
    with Ledger.open(tmp_path / "old.sqlite") as old:
        # As long as the true one, longer even, and with the same charges in it.
        old.append("restored", {})
        charge(old, 2)
        charge(old, 3)
    with pytest.raises(LedgerCorrupt, match="old copy"):
        Ledger.open(tmp_path / "old.sqlite", expect_head=head)


def test_a_ledger_that_has_grown_since_still_holds_the_head(path: Path) -> None:
    head = filled(path)
    with Ledger.open(path, expect_head=head) as ledger:
        charge(ledger, 5)
    with Ledger.open(path, expect_head=head) as ledger:
        assert ledger.head != head


def test_a_rewritten_chain_lacks_the_head(path: Path, tmp_path: Path) -> None:
    head = filled(path)
    with Ledger.create(tmp_path / "forged.sqlite", HEADER) as forged:
        forged.charge(STUDY, 1, 1, GaussianEvent(1 << 30, 1 << 19, 0.25, 1), SUM, 10)
    with pytest.raises(LedgerCorrupt, match="old copy"):
        Ledger.open(tmp_path / "forged.sqlite", expect_head=head)


# --- golden vectors for the chain -------------------------------------------------------------------

GOLDEN_BODY = (
    '{"body":{"attempt":2,"digest":"' + STUDY + '","event":{"count":1,"sampling_rate":0.25,"sensitivity":524288,'
    '"sigma":1048576},"round":2,"sum_sha256":"' + SUM + '"},"kind":"charge"}'
)
GOLDEN_HEADS = [
    "b86bd46eb1d76fc84d54bcc5e7363bd04c622c70d87d611c89a1203163a3e578",
    "bd2b8d309c024482dbef5011a189a8e71e574042a169b97b92659eceb3312124",
    "f853de0684d6176e4cf3f416480240e2c12c4adb242c3443ac41690282cc24d5",
    "eaba8a3cb9cefeb651e69bce0f69c677fd303c8af9320f2b6a72940c3388a422",
]


def golden_row(**changes: Any) -> Row:
    prev = GOLDEN_HEADS[2]
    fields = {"seq": 4, "body": GOLDEN_BODY, "prev": prev, "hash": independent_hash(prev, GOLDEN_BODY)}
    return Row(**{**fields, "digest": STUDY, "round": 2, "attempt": 2, **changes})


def test_golden_heads(path: Path) -> None:
    filled(path)
    with Ledger.open(path) as ledger:
        assert [entry.hash for entry in ledger.entries()] == GOLDEN_HEADS


def test_the_chain_matches_an_independent_implementation(path: Path) -> None:
    filled(path)
    db = sqlite3.connect(path)
    rows = db.execute("SELECT seq, body, prev, hash FROM entries ORDER BY seq").fetchall()
    db.close()
    head = "0" * 64
    for number, (seq, body, prev, stored) in enumerate(rows, start=1):
        assert (seq, prev) == (number, head)
        assert json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False) == body
        head = hashlib.sha256(head.encode() + body.encode()).hexdigest()
        assert stored == head
    assert rows[3][1] == GOLDEN_BODY


def test_the_golden_row_is_good() -> None:
    entry = check_row(golden_row(), 4, GOLDEN_HEADS[2])
    assert (entry.seq, entry.kind, entry.hash) == (4, "charge", GOLDEN_HEADS[3])


def rehashed(body: str) -> dict[str, str]:
    """A bad body whose hash is nevertheless right."""
    return {"body": body, "hash": independent_hash(GOLDEN_HEADS[2], body)}


BAD_ROWS: dict[str, dict[str, Any]] = {
    "wrong number": {"seq": 5},
    "wrong previous hash": {"prev": GOLDEN_HEADS[0]},
    "upper case hash": {"hash": GOLDEN_HEADS[-1].upper()},
    "hash of the body alone": {"hash": hashlib.sha256(GOLDEN_BODY.encode()).hexdigest()},
    "white space": rehashed(GOLDEN_BODY + " "),
    "keys out of order": rehashed('{"kind":"charge","body":{}}'),
    "repeated key": rehashed(GOLDEN_BODY.replace('"round":2', '"round":1,"round":2')),
    "NaN": rehashed(GOLDEN_BODY.replace("0.25", "NaN")),
    "long float": rehashed(GOLDEN_BODY.replace("0.25", "0.250")),
    "no kind": rehashed('{"body":{}}'),
    "extra key": rehashed(GOLDEN_BODY[:-1] + ',"more":1}'),
    "a list": rehashed("[]"),
    "a deep list": rehashed("[" * 100_000),
    "no JSON": rehashed("charge"),
    "charge without key": rehashed('{"body":{},"kind":"charge"}'),
    "column says another round": {"round": 1},
    "column says nothing": {"digest": None, "round": None, "attempt": None},
    "bytes": {"body": GOLDEN_BODY.encode()},
    "null": {"body": None},
}


@pytest.mark.parametrize("changes", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(LedgerCorrupt):
        check_row(golden_row(**changes), 4, GOLDEN_HEADS[2])


@pytest.mark.parametrize(
    "body",
    [
        {"round": "2"},
        {"event": 1},
        {"event": {}},
        {"event": {"count": 1, "sampling_rate": 0.25, "sensitivity": 524288, "sigma": 0}},
        {"sum_sha256": None},
        {"digest": 5},
    ],
)
def test_a_charge_that_is_none_in_a_consistent_chain_is_corrupt(body: dict[str, Any], path: Path) -> None:
    with Ledger.create(path, HEADER) as ledger:
        prev = ledger.head
    content = {**json.loads(GOLDEN_BODY)["body"], **body}
    text = json.dumps({"body": content, "kind": "charge"}, sort_keys=True, separators=(",", ":"))
    columns = (text, prev, independent_hash(prev, text), content["digest"], content["round"], content["attempt"])
    rewrite(path, ("INSERT INTO entries VALUES (2, ?, ?, ?, ?, ?, ?)", columns))
    with pytest.raises(LedgerCorrupt):
        Ledger.open(path)


# --- processes and threads --------------------------------------------------------------------------


def contend(path: Path, start: Any, results: Any, round_: int, most: int) -> None:
    with Ledger.open(path) as ledger:
        start.wait()
        try:
            charge(ledger, round_, most=most)
            results.put("charged")
        except UndertoneError as error:
            results.put(type(error).__name__)


def die_before_commit(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger._db.execute("BEGIN IMMEDIATE")
    ledger._insert("charge", {**json.loads(GOLDEN_BODY)["body"], "round": 9})
    ledger._db.execute("PRAGMA cache_spill = 1")
    os._exit(9)


@pytest.mark.parametrize(
    ("rounds", "most", "loser"), [([1, 1, 1], 10, "ReplayedAttempt"), ([1, 2, 3], 1, "BudgetExceeded")]
)
def test_of_processes_that_charge_at_once_exactly_one_wins(
    rounds: list[int], most: int, loser: str, path: Path
) -> None:
    Ledger.create(path, HEADER).close()
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(len(rounds)), context.Queue()
    processes = [context.Process(target=contend, args=(path, start, results, round_, most)) for round_ in rounds]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert outcomes == sorted(["charged", *[loser] * (len(rounds) - 1)])
    with Ledger.open(path) as ledger:
        assert len(ledger.charges(STUDY)) == 1


def test_a_process_that_dies_before_its_commit_has_charged_nothing(path: Path) -> None:
    head = filled(path)
    process = multiprocessing.get_context("spawn").Process(target=die_before_commit, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    with Ledger.open(path) as ledger:
        assert ledger.head == head
        charge(ledger, 9)


def test_two_open_ledgers_see_each_others_entries(path: Path) -> None:
    filled(path)
    with Ledger.open(path) as first, Ledger.open(path) as second:
        receipt = charge(first, 7)
        assert second.receipt(STUDY, 7, 1) == receipt
        assert second.head == first.head
        second.append("seen", {})
        charge(first, 8)
        assert [entry.seq for entry in second.entries()] == list(range(1, 8))


def test_who_comes_second_waits_and_then_sees_the_charge(path: Path) -> None:
    filled(path)
    body = {**json.loads(GOLDEN_BODY)["body"], "round": 9, "attempt": 1}
    inside = threading.Event()

    def slow_charge() -> None:
        with Ledger.open(path) as first, first._transaction("IMMEDIATE"):
            inside.set()
            time.sleep(0.3)
            first._insert("charge", body)

    thread = threading.Thread(target=slow_charge)
    with Ledger.open(path) as second:
        thread.start()
        inside.wait()
        with pytest.raises(ReplayedAttempt):
            charge(second, 9)
        thread.join()
        assert second.receipt(STUDY, 9, 1) is not None


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    outcomes: list[str] = []

    def work(round_: int) -> None:
        try:
            charge(ledger, round_, most=100)
            outcomes.append("charged")
        except ReplayedAttempt:
            outcomes.append("replayed")

    threads = [threading.Thread(target=work, args=(number % 4,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["charged"] * 4 + ["replayed"] * 4


# --- what a charge says about the sum ---------------------------------------------------------------


def test_a_commitment_binds_the_sum_and_hides_it_without_the_salt() -> None:
    values, salt = np.array([1, -2, 3], dtype=np.int64), bytes(range(32))
    assert commit_to_sum(values, salt) == commit_to_sum(values.copy(), salt)
    different: list[Callable[[], str]] = [
        lambda: commit_to_sum(values + np.array([0, 0, 1]), salt),
        lambda: commit_to_sum(values[::-1], salt),
        lambda: commit_to_sum(values, salt[::-1]),
        lambda: hashlib.sha256(values.tobytes()).hexdigest(),
    ]
    assert len({commit_to_sum(values, salt), *(make() for make in different)}) == 5
    with pytest.raises(MechanismViolation, match="salt"):
        commit_to_sum(values, salt[:31])
