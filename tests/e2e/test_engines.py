"""One study on every engine: the same release, the same errors, nothing left running, and each resumes the other."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.e2e.test_processes import rows_on_disk
from tests.support.engines import Watched, run_dummy
from tests.support.entropy import InsecureTestEntropy
from tests.support.images import write_folder
from tests.support.runs import SITES, call, spawn, tiny_study
from tests.support.world import World
from undertone.errors import Refused, TooFewSites
from undertone.release.manifest import check_manifest
from undertone.release.verify import verify
from undertone_cli.engines.choice import ENGINES, check_engine

Make = Callable[..., World]
ON_EVERY_ENGINE = [ENGINES[0], pytest.param(ENGINES[1], marks=pytest.mark.slow)]
DEADLINE = 300.0


@pytest.fixture
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dummy base draws no pictures, and the odometer's accountant takes a second."""
    from undertone_server import release

    monkeypatch.setattr(
        release, "_draw_samples", lambda _plan, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )
    monkeypatch.setattr("undertone_server.telemetry.epsilon_spent", lambda *_: 1.0)


def run(world: World, engine: str) -> list[str]:
    """Run on an engine; who was still there afterwards."""
    with Watched() as watched:
        run_dummy(engine, world.run.folder, world.sites.values())
    assert any("raylet" in name for name in watched.names()) == (engine == "ray")
    return watched.left()


def withdraw(world: World, *sites: str) -> None:
    """These sites approve the plan no longer."""
    world.withdraw(*sites)


# --- the same, whatever the engine ----------------------------------------------------------------


def test_the_engines_give_the_same_release_and_leave_nothing(
    make_world: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_samples: None
) -> None:
    monkeypatch.setattr("undertone_server.run_study.OsEntropy", lambda: InsecureTestEntropy(5))
    world, released = make_world(), {}
    for engine in ENGINES:
        copy = Path(shutil.copytree(world.folder, tmp_path / engine))
        with Watched() as watched:
            run_dummy(engine, copy / "run", (copy / "sites").iterdir())
        assert any("raylet" in name for name in watched.names()) == (engine == "ray")
        assert watched.left() == []
        check_manifest(copy / "run" / "release")
        released[engine] = load_file(copy / "run" / "release" / "dummy.safetensors")
    for name, tensor in released["inprocess"].items():
        np.testing.assert_array_equal(released["ray"][name], tensor)


@pytest.mark.parametrize("engine", ON_EVERY_ENGINE)
def test_too_few_sites_is_the_same_error_with_the_same_reasons(make_world: Make, engine: str) -> None:
    world = make_world()
    withdraw(world, "south", "east")
    with Watched() as watched, pytest.raises(TooFewSites) as raised:
        run_dummy(engine, world.run.folder, world.sites.values())
    assert watched.left() == []
    assert raised.value.exit_code == 3
    assert str(raised.value).startswith("1 sites answered, the plan needs 2. Missing: east: NotApproved: plan")
    assert world.charges() == []


@pytest.mark.parametrize("engine", ON_EVERY_ENGINE)
def test_several_rounds_go_on_without_a_site_and_name_it(make_world: Make, no_samples: None, engine: str) -> None:
    world = make_world(rounds=3, max_attempts=4, sampling_rate=0.5)
    withdraw(world, "south")
    assert run(world, engine) == []
    check_manifest(world.run.release)
    cohort = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))["cohort"]
    assert cohort["sites_in_every_sum"] == ["east", "north"]
    assert cohort["sites_missing"]["south"].startswith("NotApproved")
    assert world.charges() == [(1, 1), (2, 1), (3, 1)]


@pytest.mark.slow
def test_thirty_sites_on_ray(make_world: Make, no_samples: None) -> None:
    sizes = {f"site-{number:02d}": 4 for number in range(30)}
    world = make_world(sizes, rounds=2, max_attempts=3, sampling_rate=0.5)
    assert run(world, "ray") == []
    cohort = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))["cohort"]
    assert cohort["sites_in_every_sum"] == sorted(sizes)
    for site in sizes:  # each node wrote into its own SITE_DIR
        assert world.charges(site) == [(1, 1), (2, 1)]


# --- the command line -----------------------------------------------------------------------------


def test_ray_that_is_not_installed_is_one_line_that_says_what_to_install(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone_cli.engines.choice.find_spec", lambda _name: None)
    study = tiny_study(tmp_path / "study.toml", tiny_base)
    options = ["--data", tmp_path, "--sites", 3, "--out", tmp_path / "RUN"]
    result = call("simulate", study, *options, "--engine", "ray")
    assert result.exit_code == 2
    assert 'pip install -c constraints.txt ".[ray]"' in result.stderr
    assert not (tmp_path / "RUN").exists()


def test_there_are_two_engines() -> None:
    with pytest.raises(Exception, match="there is no engine"):
        check_engine("dask")


@pytest.fixture
def long_study(tmp_path: Path, tiny_base: Path) -> list[Any]:
    """Arguments of a simulation that takes some seconds at each of its three sites."""
    write_folder(tmp_path / "data", 120, 32, sites=SITES, per_patient=1)
    changes = {
        "method": {"name": "dpagg-ti", "steps": 40},
        "cohort__units": dict.fromkeys(SITES, 40),
    }
    study = tiny_study(tmp_path / "study.toml", tiny_base, **changes)
    return ["simulate", study, "--data", tmp_path / "data", "--out", tmp_path / "RUN"]


def small_batches(run_folder: Path) -> None:
    """Facts of the machine, not of the plan: rows are on disk soon after the start, and stay for comparison."""
    for config in run_folder.glob("sites/*/node.toml"):
        text = config.read_text(encoding="utf-8").replace("keep_rows = false", "keep_rows = true")
        config.write_text(text.replace('micro_batch = "auto"', "micro_batch = 4"), encoding="utf-8")


def interrupted(arguments: list[Any], run_folder: Path, how: signal.Signals) -> tuple[int, str, dict[str, bytes]]:
    """Start, wait for the first rows at a site, send a signal: exit code, stderr, and the rows then on disk."""
    process = spawn(*arguments)
    started = time.monotonic()
    with Watched(process.pid) as watched:
        small = False
        while not any(rows_on_disk(site) for site in run_folder.glob("sites/*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - started < DEADLINE
            if not small and run_folder.exists():
                small_batches(run_folder)
                small = True
            time.sleep(0.02)
        process.send_signal(how)
        _, errors = process.communicate(timeout=DEADLINE)
    # After kill -9 nobody of ours is left to tell Ray: its own processes find out, in a minute on a quiet machine.
    assert watched.left(DEADLINE) == []
    rows: dict[str, bytes] = {}
    for site in run_folder.glob("sites/*"):
        rows |= rows_on_disk(site)
    assert not (run_folder / "release").exists(), "the signal came too late: give the study more steps"
    return process.returncode, errors, rows


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("ray", "inprocess"), ("inprocess", "ray")])
def test_a_study_killed_on_one_engine_goes_on_with_the_other(
    long_study: list[Any], tmp_path: Path, first: str, second: str
) -> None:
    run_folder = tmp_path / "RUN"
    code, _, before = interrupted([*long_study, "--split-by", "site", "--engine", first], run_folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    process = spawn(*long_study, "--resume", "--engine", second)
    out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert "done in" in out
    after: dict[str, bytes] = {}
    for site in SITES:
        after |= rows_on_disk(run_folder / "sites" / site)
    assert len(after) == 120
    assert {unit: after[unit] for unit in before} == before  # no row twice, whichever engine made it
    assert verify(run_folder / "release").attempts_charged == 1


@pytest.mark.slow
def test_control_c_on_ray_ends_everything_and_the_study_resumes(long_study: list[Any], tmp_path: Path) -> None:
    run_folder = tmp_path / "RUN"
    code, errors, _ = interrupted([*long_study, "--split-by", "site", "--engine", "ray"], run_folder, signal.SIGINT)
    assert code == 1
    assert "Traceback" not in errors
    assert "Aborted" in errors
    result = call(*long_study, "--resume")
    assert result.exit_code == 0, result.output
    assert verify(run_folder / "release").attempts_charged == 1


@pytest.mark.slow
def test_a_refusal_on_ray_is_one_line_and_exit_3(long_study: list[Any], tmp_path: Path) -> None:
    process = spawn(*long_study, "--split-by", "site", "--engine", "ray")
    started, run_folder = time.monotonic(), tmp_path / "RUN"
    with Watched(process.pid) as watched:
        while not run_folder.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - started < DEADLINE
            time.sleep(0.005)
        for site in SITES[1:]:
            policy = run_folder / "sites" / site / "policy.toml"
            policy.write_text("", encoding="utf-8")
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 3, errors
    (line,) = [line for line in errors.splitlines() if "TooFewSites" in line]
    assert all(f"{site}: NotApproved" in line for site in SITES[1:])
    assert "Traceback" not in errors
    assert watched.left(60.0) == []
    assert issubclass(TooFewSites, Refused)
