"""The auditor of the crash tests finds what it is there to find: each rule broken by hand, on disk."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.auditor import Auditor, Violation
from tests.support.crashes import DONE, KILLED, Story

Doctor = Callable[[Path], None]


@pytest.fixture(scope="module")
def finished(begin: Callable[..., Story]) -> Path:
    """A study of three rounds whose second lost its first attempt."""
    story = begin("rounds")
    assert story.process(failpoint="rounds/answered", count=2) == KILLED
    assert story.finish() == DONE
    return story.world


@pytest.fixture
def world(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "world"))


def rewrite(ledger: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Another ledger with a chain that holds, as a forger or an old copy would leave it."""
    with sqlite3.connect(ledger) as database:
        bodies = [json.loads(body) for (body,) in database.execute("SELECT body FROM entries ORDER BY seq")]
    database.close()
    ledger.unlink()
    database = sqlite3.connect(ledger)
    database.execute("CREATE TABLE entries (seq INTEGER, body, prev, hash, digest, round, attempt)")
    prev = "0" * 64
    for seq, content in enumerate(change(bodies), 1):
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        stored = hashlib.sha256((prev + text).encode()).hexdigest()
        body = content["body"]
        key = (body["digest"], body["round"], body["attempt"]) if content["kind"] == "charge" else (None,) * 3
        database.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", (seq, text, prev, stored, *key))
        prev = stored
    database.commit()
    database.close()


def without_charge(ledger: Path, round_: int) -> None:
    def keep(entry: dict[str, Any]) -> bool:
        return entry["kind"] != "charge" or entry["body"]["round"] != round_

    rewrite(ledger, lambda entries: [entry for entry in entries if keep(entry)])


def change_charges(ledger: Path, **changes: Any) -> None:
    def changed(entry: dict[str, Any]) -> dict[str, Any]:
        if entry["kind"] == "charge":
            entry["body"]["event"] |= changes
        return entry

    rewrite(ledger, lambda entries: [changed(entry) for entry in entries])


def alter(database: Path, *statements: str) -> None:
    connection = sqlite3.connect(database)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def witnessed(world: Path, **line: Any) -> None:
    with (world / "witness.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def first_vector(world: Path) -> dict[str, Any]:
    lines = map(json.loads, (world / "witness.jsonl").read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if line["kind"] == "vector")


def at_round(world: Path, number: int) -> Path:
    return world / "run" / "checkpoints" / f"round-{number:06d}"


def clear_round_3(world: Path) -> None:
    """Round 3 after its charge: neither Q nor V."""
    shutil.rmtree(world / "run" / "release")
    for name in ("noised-001.npy", "state.npy"):
        (at_round(world, 3) / name).unlink()


NOISE = {"kind": "noise", "round": 3, "attempt": 1, "charged": True, "noised_before": False}
DOCTORED: dict[str, tuple[Doctor, str]] = {
    "V without a charge": (lambda w: without_charge(w / "run" / "ledger.sqlite", 2), "without its charge"),
    "two V": (
        lambda w: (
            (at_round(w, 2) / "noised-001.npy").write_bytes((at_round(w, 2) / "noised-002.npy").read_bytes()) and None
        ),
        "two values V",
    ),
    "a body changed": (
        lambda w: alter(
            w / "run" / "ledger.sqlite",
            "DROP TRIGGER no_update",
            "UPDATE entries SET body = replace(body, '\"attempt\":2', '\"attempt\":3') WHERE seq = 4",
        ),
        "chain broken at 4",
    ),
    "an entry taken out": (
        lambda w: alter(
            w / "sites" / "east" / "ledger.sqlite", "DROP TRIGGER no_delete", "DELETE FROM entries WHERE seq = 3"
        ),
        "chain broken at 4",
    ),
    "a column changed": (
        lambda w: alter(
            w / "run" / "ledger.sqlite", "DROP TRIGGER no_update", "UPDATE entries SET attempt = 7 WHERE seq = 2"
        ),
        "filed as another attempt",
    ),
    "a cheaper charge": (lambda w: change_charges(w / "run" / "ledger.sqlite", sigma=65), "another mechanism"),
    "another rate": (lambda w: change_charges(w / "run" / "ledger.sqlite", sampling_rate=0.5), "another mechanism"),
    "a charge twice": (
        lambda w: rewrite(w / "run" / "ledger.sqlite", lambda entries: [*entries, entries[-1]]),
        "charged twice",
    ),
    "a site that did not charge": (
        lambda w: without_charge(w / "sites" / "north" / "ledger.sqlite", 3),
        "charged nothing|before its charge",
    ),
    "a charge that left nothing": (clear_round_3, "left no Q and no V"),
    "a gap in the attempts": (lambda w: (at_round(w, 2) / "asked-001.mark").unlink(), "have gaps"),
    "too many attempts": (
        lambda w: [(at_round(w, 1) / f"asked-{n:03d}.mark").touch() for n in range(2, 9)] and None,
        "more than the plan allows",
    ),
    "a charge nobody was asked for": (lambda w: (at_round(w, 3) / "asked-001.mark").unlink(), "asked"),
    "a state without V": (lambda w: (at_round(w, 3) / "noised-001.npy").unlink(), "left no Q and no V|without its V"),
    "V before the state it needs": (lambda w: (at_round(w, 2) / "state.npy").unlink(), "before the state"),
    "noise before its charge": (lambda w: witnessed(w, **NOISE | {"charged": False}), "before its charge"),
    "noise for a V": (lambda w: witnessed(w, **NOISE | {"noised_before": True}), "has a V"),
    "two vectors": (lambda w: witnessed(w, **first_vector(w)), "two vectors"),
    "a vector before its charge": (
        lambda w: witnessed(w, **first_vector(w) | {"attempt": 9, "charged": False}),
        "left before its charge",
    ),
    "a traceback": (lambda w: witnessed(w, kind="traceback", text="KeyError"), "a traceback"),
    "half a release": (lambda w: (w / "run" / "release" / "samples.png").unlink(), "half a release"),
    "a release with another ledger": (
        lambda w: (without_charge(w / "run" / "release" / "ledger.sqlite", 3), sign_off(w / "run" / "release"))[0],
        "ledger is another",
    ),
}


def sign_off(release: Path) -> None:
    """The manifest of what is there now."""
    manifest = json.loads((release / "MANIFEST.json").read_bytes())
    manifest["files"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in release.iterdir()
        if not path.name.startswith("MANIFEST")
    }
    (release / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_the_auditor_has_nothing_against_a_good_study(world: Path) -> None:
    auditor = Auditor(world)
    auditor.look()
    auditor.look_at_the_end()


@pytest.mark.parametrize("case", DOCTORED)
def test_the_auditor_finds(world: Path, case: str) -> None:
    doctor, rule = DOCTORED[case]
    doctor(world)
    with pytest.raises(Violation, match=rule):
        Auditor(world).look()


LEFT_OVER: dict[str, tuple[Doctor, str]] = {
    "Q": (lambda w: (at_round(w, 2) / "sum-002.npy").touch(), "private sum"),
    "the salt of a void attempt": (lambda w: (at_round(w, 2) / "salt-001").touch(), "private sum"),
    "half a Q": (lambda w: (at_round(w, 1) / "sum-001.npy.part").touch(), "private sum"),
    "half a file": (lambda w: (w / "run" / "run.json.part").touch(), "half a file"),
    "no release": (lambda w: shutil.rmtree(w / "run" / "release"), "no release"),
    "a void that is not noted": (
        lambda w: rewrite(
            w / "run" / "ledger.sqlite", lambda all_: [entry for entry in all_ if entry["kind"] != "void"]
        ),
        "not those noted",
    ),
    "a void noted twice": (
        lambda w: rewrite(
            w / "run" / "ledger.sqlite", lambda all_: [*all_, next(entry for entry in all_ if entry["kind"] == "void")]
        ),
        "not those noted",
    ),
}


@pytest.mark.parametrize("case", LEFT_OVER)
def test_the_auditor_finds_at_the_end(world: Path, case: str) -> None:
    doctor, rule = LEFT_OVER[case]
    auditor = Auditor(world)
    auditor.look()
    doctor(world)
    with pytest.raises(Violation, match=rule):
        Auditor.look_at_the_end(remembering(world, auditor))


def remembering(world: Path, auditor: Auditor) -> Auditor:
    """The same auditor, who does not mind that a ledger was forged under its eyes: that is another test."""
    return Auditor(world, values=auditor.values)


CHANGED: dict[str, tuple[Doctor, str]] = {
    "another V": (
        lambda w: np.save(at_round(w, 1) / "noised-001.npy", np.load(at_round(w, 1) / "noised-001.npy") + 1),
        "V has changed",
    ),
    "an older ledger": (lambda w: rewrite(w / "run" / "ledger.sqlite", lambda all_: all_[:-1]), "not there any more"),
    "another chain": (
        lambda w: rewrite(w / "sites" / "east" / "ledger.sqlite", lambda all_: [*all_[:1], *all_[:0:-1]]),
        "not there any more",
    ),
    "other coins": (lambda w: alter(w / "sites" / "east" / "state.sqlite", "UPDATE samples SET units = '[]'"), "coins"),
    "another row": (lambda w: alter(w / "sites" / "east" / "state.sqlite", "UPDATE rows SET row = x'00'"), "row"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_the_auditor_remembers_what_it_saw(world: Path, case: str) -> None:
    doctor, rule = CHANGED[case]
    auditor = Auditor(world)
    auditor.look()
    doctor(world)
    with pytest.raises(Violation, match=rule):
        auditor.look()


def test_the_auditor_misses_a_value_that_was_there(world: Path) -> None:
    auditor = Auditor(world)
    auditor.look()
    clear_round_3(world)
    without_charge(world / "run" / "ledger.sqlite", 3)
    with pytest.raises(Violation, match=r"its V is gone|not there any more"):
        auditor.look()


@pytest.fixture(scope="module")
def securely_finished(begin: Callable[..., Story]) -> Path:
    story = begin("secure rounds")
    assert story.finish() == DONE
    return story.world


def _sign(world: Path, site: str, change: Callable[[list[str]], list[str]]) -> None:
    """The site's newest survivor list, changed."""

    def changed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        newest = [entry["body"] for entry in entries if entry["kind"] == "survivors"][-1]
        newest["sites"] = change(newest["sites"])
        return entries

    rewrite(world / "sites" / site / "ledger.sqlite", changed)


LISTS: dict[str, tuple[str, Doctor]] = {
    "one fewer": ("has signed", lambda world: _sign(world, "north", lambda sites: sites[:-1])),
    "one more": ("has signed", lambda world: _sign(world, "north", lambda sites: [*sites, "west"])),
    "unknown to the coordinator": (
        "does not know",
        lambda world: (world / "run" / "checkpoints" / "survivors.json").unlink(),
    ),
    "the coordinator's own": (
        "not within all",
        lambda world: (world / "run" / "checkpoints" / "survivors.json").write_text('["west"]') and None,
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_the_auditor_finds_survivor_lists_that_form_no_chain(
    securely_finished: Path, tmp_path: Path, case: str
) -> None:
    world = Path(shutil.copytree(securely_finished, tmp_path / "world"))
    Auditor(world).look()
    assert Auditor(world).lists("north") == [{"east", "north", "south"}] * 2
    rule, doctor = LISTS[case]
    doctor(world)
    with pytest.raises(Violation, match=rule):
        Auditor(world).look()
