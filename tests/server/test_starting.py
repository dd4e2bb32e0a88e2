"""A RUN keeps the release that its study starts from, and the state that was trained on it."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.forgery import Forgery, forge
from tests.support.lineage import claiming, second_plan
from undertone.errors import FolderError, UnfitStart
from undertone.release.start import check_start, pinned_start
from undertone.release.statement import SIMULATION
from undertone.study.plan import Plan
from undertone_server.run_folder import RunFolder
from undertone_server.starting import keep_start, kept_start

FACTS = {"setting": SIMULATION}


@pytest.fixture
def release(tmp_path: Path, dummy_base: Path) -> Path:
    forge(tmp_path / "release", dummy_base)
    return tmp_path / "release"


@pytest.fixture
def plan(release: Path, dummy_base: Path) -> Plan:
    return claiming(second_plan(dummy_base), {"start": pinned_start(release).model_dump()})


def made(folder: Path, plan: Plan, start: Path | None) -> RunFolder:
    return RunFolder.create(folder, plan, dict(FACTS), start=start)


def test_a_run_keeps_a_copy_of_the_release(tmp_path: Path, plan: Plan, release: Path) -> None:
    run = made(tmp_path / "run", plan, release)
    assert sorted(path.name for path in run.start.iterdir()) == sorted(path.name for path in release.iterdir())
    check_start(plan, run.start)


def test_without_the_release_there_is_no_run(tmp_path: Path, plan: Plan, dummy_base: Path) -> None:
    with pytest.raises(UnfitStart, match="name its folder"):
        made(tmp_path / "none", plan, None)
    forge(tmp_path / "other", dummy_base)
    with pytest.raises(UnfitStart, match="another release"):
        made(tmp_path / "another", plan, tmp_path / "other")


def test_a_run_from_the_base_keeps_none(tmp_path: Path, release: Path, dummy_base: Path) -> None:
    run = made(tmp_path / "run", second_plan(dummy_base), release)
    assert not run.start.exists()


def test_the_first_state_counts_as_no_round_and_a_damaged_one_is_found_out(
    tmp_path: Path, plan: Plan, release: Path
) -> None:
    run = made(tmp_path / "run", plan, release)
    assert kept_start(run) is None
    state = np.linspace(0, 1, 7, dtype=np.float32)
    keep_start(run, state)
    np.testing.assert_array_equal(kept_start(run), state)  # type: ignore[arg-type]
    assert (run.rounds_done(), run.attempts_used()) == (0, 0)
    path = run.checkpoints / "start" / "state.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FolderError):
        kept_start(run)


HOSTILE = {
    "ten million attempts": {"privacy.max_attempts": 10**7},
    "a row of 2^40": {"method.dimension": 1 << 40},
    "a claim too low": {"privacy.epsilon": 0.01},
    "another method": {"method.name": "dp-lora", "method.options": {}},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_release_that_does_not_verify_is_no_start(tmp_path: Path, dummy_base: Path, case: str) -> None:
    forge(tmp_path / "forged", dummy_base, Forgery(plan=HOSTILE[case]))
    with pytest.raises(UnfitStart, match="does not verify"):
        pinned_start(tmp_path / "forged")


def test_a_folder_that_is_no_release_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(UnfitStart, match="no release that a study could start from"):
        pinned_start(tmp_path)
