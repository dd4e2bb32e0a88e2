"""What a study did to the model: how far it moved beside the noise, and a study that moved nothing."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.images import write_folder
from tests.support.runs import SITES, FinishedRun, call, tiny_study
from undertone.study.plan import Plan
from undertone.study.stage import Mechanism, PlannedStage
from undertone_server import release as releasing
from undertone_server.movement import largest_difference, movement
from undertone_server.run_folder import RunFolder


def test_a_study_ends_with_how_far_it_moved_beside_its_noise(
    finished_run: FinishedRun, tiny_base: Path, tmp_path: Path
) -> None:
    del tiny_base
    folder = Path(shutil.copytree(finished_run.run, tmp_path / "run"))
    shutil.rmtree(folder / "release")
    again = call("simulate", finished_run.study, "--out", folder, "--resume")
    assert again.exit_code == 0, again.output
    (line,) = [line for line in " ".join(again.stderr.split()).split(". ") if "w moved by" in line]
    plan = RunFolder(folder).plan()
    noise = plan.privacy.sigma * plan.method.dimension**0.5 / (plan.grid.scale * 18)
    assert f"has length {noise:.3g}" in line


def test_the_noise_of_rounds_adds_up_as_squares(finished_run: FinishedRun) -> None:
    plan = Plan.from_bytes((finished_run.release / "plan.json").read_bytes())
    d = plan.method.dimension
    zero, one = np.zeros(d, np.float32), np.ones(d, np.float32)
    privacy = plan.privacy.model_copy(update={"rounds": 4})
    once = movement(plan, zero, one, [SITES])
    fourfold = movement(plan.model_copy(update={"privacy": privacy}), zero, one, [SITES] * 4)
    assert once.moved == pytest.approx(d**0.5)
    (alone,), (four,) = once.noise, fourfold.noise
    assert four.length == pytest.approx(2 * alone.length)
    unit = plan.privacy.sigma / plan.denominator(1, SITES)
    drawn = np.random.Generator(np.random.Philox(key=1)).standard_normal((200, d)) * unit
    assert alone.length == pytest.approx(float(np.sqrt((drawn**2).sum(1).mean())), rel=0.05)


def test_the_noise_of_every_stage_is_said_by_itself(finished_run: FinishedRun) -> None:
    """A stage before the last has its own sigma, grid and length of a row, and may move what is released."""
    plan = Plan.from_bytes((finished_run.release / "plan.json").read_bytes())
    (last,) = plan.stages
    first = {key: getattr(last.mechanism, key) for key in Mechanism.model_fields} | {"sigma": 4 * plan.privacy.sigma}
    first |= {"name": "centres", "rounds": 2, "max_attempts": 2, "dimension": 25, "grid": plan.grid.model_dump()}
    privacy = plan.privacy.model_copy(update={"rounds": 3, "max_attempts": 3})
    staged = plan.model_copy(update={"privacy": privacy, "earlier": [PlannedStage.model_validate(first)]})
    zero = np.zeros(plan.method.dimension, np.float32)
    found = movement(staged, zero, zero, [SITES] * 3)
    (once,) = movement(plan, zero, zero, [SITES]).noise
    earlier = 4 * plan.privacy.sigma * (25 * 2) ** 0.5 / plan.denominator(1, SITES)
    assert [(one.stage, one.rounds) for one in found.noise] == [("centres", 2), ("rounds", 1)]
    assert [one.length for one in found.noise] == pytest.approx([earlier, once.length])
    said = str(found)
    assert f"{earlier:.3g} in 2 rounds of stage centres, {once.length:.3g} in 1 round of stage rounds" in said
    assert "all rounds together" not in said


def test_a_study_that_moved_nothing_releases_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clip norm of a thousandth, what sites say and what noise adds are both too short to be seen."""
    del monkeypatch
    write_folder(tmp_path / "data", 36, 32, sites=SITES)
    study = tiny_study(tmp_path / "study.toml", tiny_base, privacy__clip_norm=1e-6)
    words = ["simulate", study, "--data", tmp_path / "data", "--split-by", "site", "--out", tmp_path / "run"]
    for last in ([], ["--resume"]):
        done = call(*(words[:2] + words[-2:] if last else words), *last)
        assert done.exit_code == 3, done.output
        assert "UnmovedRelease" in done.stderr
        assert "clip_norm" in done.stderr
        assert not (tmp_path / "run" / "release").exists()
        kept = {path.name for path in (tmp_path / "run" / "unreleased").iterdir()}
        assert {"learned_embeds.safetensors", "samples.png", "privacy.json"} <= kept
        assert not {"manifest.json", "manifest.sig", "README.md"} & kept
    assert call("verify", tmp_path / "run" / "unreleased").exit_code in {2, 3}
    assert json.loads((tmp_path / "run" / "unreleased" / "privacy.json").read_bytes())


@pytest.mark.parametrize(("difference", "seen"), [(0, False), (1, False), (2, True), (255, True)])
def test_one_pixel_of_one_channel_decides(difference: int, seen: bool) -> None:
    before = [Image.new("RGB", (4, 4))] * 2
    changed = before[1].copy()
    changed.putpixel((3, 3), (0, 0, difference))
    found = largest_difference(before, [before[0], changed])
    assert found == difference
    assert (found > releasing.INVISIBLE) is seen


@pytest.mark.parametrize(("delta", "warned"), [(0.009, True), (1e-5, False)])
def test_a_plan_as_json_warns_beside_it(delta: float, warned: bool, tiny_base: Path, tmp_path: Path) -> None:
    units = dict.fromkeys(SITES, 60)
    study = tiny_study(tmp_path / "study.toml", tiny_base, privacy__delta=delta, cohort__units=units)
    planned = call("plan", study, "--json")
    assert planned.exit_code == 0
    plan = Plan.from_bytes(planned.stdout.encode())
    assert (plan.privacy.delta, plan.digest) == (delta, sha256(planned.stdout.encode()).hexdigest())
    assert ("WARNING: The plan's delta" in planned.stderr) is warned
