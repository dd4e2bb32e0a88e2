"""Real processes: one that is killed in the middle of an inversion goes on, and streams and exit codes are right."""

import signal
import sqlite3
import time
from pathlib import Path

from tests.support.images import write_folder
from tests.support.runs import FinishedRun, spawn, tiny_study
from undertone.release.verify import verify

DEADLINE = 120.0


def rows_on_disk(site: Path) -> dict[str, bytes]:
    """Unit -> row of whatever is committed; another process may be writing."""
    path = site / "state.sqlite"
    if not path.exists():
        return {}
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        return dict(database.execute("SELECT unit, row FROM rows"))
    except sqlite3.OperationalError:  # its tables are not made yet
        return {}
    finally:
        database.close()


def sampled_at(site: Path) -> list[tuple[object, ...]]:
    database = sqlite3.connect(f"{(site / 'state.sqlite').as_uri()}?mode=ro", uri=True)
    try:
        return database.execute("SELECT * FROM samples").fetchall()
    finally:
        database.close()


def test_an_inversion_killed_half_way_goes_on(tmp_path: Path, tiny_base: Path) -> None:
    write_folder(tmp_path / "data", 272, 32)
    changes = {
        "method": {"name": "dpagg-ti", "steps": 10},
        "privacy__unit": "record",
        "data__unit_column": None,
        "cohort__units": {"site-1": 130, "site-2": 130},
        "aggregation": {"mode": "plain"},  # two sites cannot hide in each other's sum
    }
    study = tiny_study(tmp_path / "study.toml", tiny_base, **changes)
    run, site = tmp_path / "run", tmp_path / "run" / "sites" / "site-1"
    arguments = ["simulate", study, "--data", tmp_path / "data", "--out", run]
    first = spawn(*arguments, "--sites", 2)
    started = time.monotonic()
    while not rows_on_disk(site):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() - started < DEADLINE
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL

    before, sampled = rows_on_disk(site), sampled_at(site)
    assert 0 < len(before) < 136, "the kill came too late: give the study more steps"
    assert not (run / "release").exists()
    for config in run.glob("sites/*/node.toml"):  # facts of the machine, not of the plan: keep rows to compare
        config.write_text(config.read_text(encoding="utf-8").replace("keep_rows = false", "keep_rows = true"))
    second = spawn(*arguments, "--resume")
    out, errors = second.communicate(timeout=DEADLINE)
    assert second.returncode == 0, errors
    assert "done in" in out

    after = rows_on_disk(site)
    assert len(after) == 136
    assert {unit: after[unit] for unit in before} == before
    assert sampled_at(site) == sampled
    assert f"site-1: dpagg-ti ({136 - len(before)})" in errors  # only the missing rows were computed
    assert verify(run / "release").attempts_charged == 1


def test_a_process_says_bad_input_in_one_line(tmp_path: Path, tiny_base: Path) -> None:
    study = tiny_study(tmp_path / "study.toml", tiny_base, privacy__epsilon=-1)
    process = spawn("simulate", study, "--data", tmp_path, "--out", tmp_path / "run")
    out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert out == ""
    assert errors.count("\n") == 1
    assert "privacy.epsilon" in errors
    assert not (tmp_path / "run").exists()


def test_a_process_refuses_a_changed_release(finished_run: FinishedRun, tmp_path: Path) -> None:
    import shutil

    release = Path(shutil.copytree(finished_run.release, tmp_path / "release"))
    (release / "samples.png").write_bytes(b"another picture")
    process = spawn("verify", release)
    out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 3
    assert (out, errors.count("\n")) == ("", 1)
    assert "samples.png" in errors
