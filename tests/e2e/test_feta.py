"""dp-feta: prototypes of each class, then a method that trains a whole denoiser from what they draw; one claim."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.bases import tiny_class_base
from tests.support.gradient_studies import assert_one_place
from tests.support.prototypes import prototype_study
from tests.support.runs import call, coordinator_of
from tests.support.studies import write_study
from undertone.methods.denoiser.whole_denoiser import WholeDenoiser
from undertone.models.pinned import pin
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_cli.commands.simulate import simulate
from undertone_server import gate
from undertone_server.run_folder import RunFolder
from undertone_server.starting import drawn, kept_start

CLASSES = ["1", "0", "2"]  # in no order
NUMBERS = {"min_time": 0.0, "optimiser": "sgd", "directions": 0, "learning_rate": 0.5}
THEN: list[dict[str, Any]] = [
    {"name": "dpdm", "per_class": True, "draws": 1, "ema": 0.9},
    {"name": "dp-sad", "shards": 3, "outputs": 2, "query_steps": 2, "ema": 0.9},
]


@pytest.mark.slow
def test_from_a_start_three_sites_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second study begins where the coordinator's training ended, and goes on as if all units were in one place."""
    monkeypatch.setattr("undertone_server.release.SAMPLE_STEPS", 2)
    base, sites = tiny_class_base(tmp_path / "base", ["a", "b", "c"]), dict.fromkeys(("north", "east", "south"), 8)
    one = prototype_study(tmp_path / "one", base, sites, CLASSES, privacy__epsilon=30.0)
    data, first = tmp_path / "one" / "data", tomllib.loads(one.read_text(encoding="utf-8"))
    first["data"]["caption"] = "{digit}"
    simulate(write_study(tmp_path / "first.toml", first), data, tmp_path / "run1", split_by="site")
    second = first | {
        "study": {"name": "feta"},
        "model": {"base": str(base), "start": str(tmp_path / "run1" / "release"), "start_images": 7, "start_steps": 4},
        "method": {**THEN[0], **NUMBERS},
        "privacy": first["privacy"] | {"epsilon": 30.0, "rounds": 2, "clip_norm": 1.0},
    }
    monkeypatch.setattr(gate, "rounded_gaussian", lambda _entropy, _sigma, size: np.zeros(size, dtype=np.int64))
    simulate(write_study(tmp_path / "second.toml", second), data, tmp_path / "run2", split_by="site")
    assert_one_place(tmp_path / "run2", (1, 2), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("then", THEN, ids=["dpdm", "dp-sad"])
@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_prototypes_and_then_a_denoiser_make_one_claim_from_studies_to_verified_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str, then: dict[str, Any]
) -> None:
    monkeypatch.setattr("undertone_server.release.SAMPLE_STEPS", 2)
    base, sites = tiny_class_base(tmp_path / "base", ["a", "b", "c"]), dict.fromkeys(("north", "east", "south"), 8)
    one = prototype_study(tmp_path / "one", base, sites, CLASSES, privacy__epsilon=60.0, privacy__noise=noise)
    first = tomllib.loads(one.read_text(encoding="utf-8"))
    first["data"]["caption"] = "{digit}"
    second = first | {
        "study": {"name": "feta"},
        "model": {"base": str(base), "start": str(tmp_path / "run1" / "release"), "start_images": 7, "start_steps": 4},
        "method": then,
        "privacy": first["privacy"] | {"epsilon": 50.0, "rounds": 2},
    }
    if then["name"] == "dp-sad":  # rows of shards: how many units there are stands beside
        second |= {
            "cohort": {**{key: one for key, one in first["cohort"].items() if key != "units"}, "patients": sites}
        }
    after = write_study(tmp_path / "second.toml", second)
    first["privacy"] |= {"successor": str(after)}
    for study, name in ((write_study(tmp_path / "first.toml", first), "run1"), (after, "run2")):
        run = tmp_path / name
        result = call("simulate", study, "--data", tmp_path / "one" / "data", "--split-by", "site", "--out", run)
        assert result.exit_code == 0, result.output
        assert call("verify", run / "release", *coordinator_of(run)).exit_code == 0
    plan = Plan.from_bytes((tmp_path / "run2" / "plan.json").read_bytes())
    assert plan.joint
    assert 59.9 < plan.privacy.epsilon <= 60.0
    stated = json.loads((tmp_path / "run2" / "release" / "privacy.json").read_bytes())["start"]
    assert (stated["method"], stated["epsilon"]) == ("dp-prototypes", plan.privacy.epsilon)
    pinned, run = pin(str(base)), RunFolder(tmp_path / "run2")
    pixels, classes = drawn(run, plan, pinned)
    assert (len(pixels), classes.tolist()) == (7, [0, 1, 2, 0, 1, 2, 0])  # type: ignore[union-attr]
    method, state = planned_method(plan, pinned), kept_start(run)
    assert isinstance(method, WholeDenoiser)
    assert state is not None
    w = state[: method.dimension(pinned)]
    np.testing.assert_array_equal(method.released(state), w)  # the average begins there too
    assert not np.array_equal(w, method.initial_state(pinned)[: w.size])
