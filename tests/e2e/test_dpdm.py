"""A study of dpdm on drawn images: sites are one place, a killed run goes on, the release draws and is stock parts."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from tests.support.bases import tiny_class_base
from tests.support.failpoints import Killed, at
from tests.support.gradient_studies import CLASSES, CLIP, assert_one_place, plan_of
from tests.support.images import write_folder
from tests.support.runs import SITES, call
from tests.support.studies import study_with, write_study
from undertone.errors import ModelError, UnfitWeights
from undertone.methods.weights import attach, check_weights, read_weights
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.release.verify import verify
from undertone.study.planned import planned_method
from undertone_server import gate, release, telemetry
from undertone_server.run_folder import RunFolder

METHOD = {
    "name": "dpdm",
    "initial_weights": "scratch",
    "parametrisation": "edm",
    "draws": 2,
    "records": 2,
    "optimiser": "adam",
    "learning_rate": 0.01,
    "ema": 0.5,
    "churn": 4.0,
}


def study_in(folder: Path, **method: object) -> Path:
    base = tiny_class_base(folder / "base", ("other", "mass"), side=16)
    write_folder(folder / "data", 4 * len(SITES), 16, sites=SITES)
    changes = {
        "method": {**METHOD, **method},
        "cohort.units": dict.fromkeys(SITES, 2),
        "data.caption": "{finding}",
        **{f"data.{key}": value for key, value in CLASSES.items()},
        "privacy.epsilon": 50.0,
        "privacy.clip_norm": CLIP["dpdm"],
        "privacy.rounds": 2,
    }
    return write_study(folder / "study.toml", study_with(changes, str(base)))


def go(study: Path, out: str, *options: str) -> Path:
    folder = study.parent
    found = call("simulate", study, "--data", folder / "data", "--split-by", "site", "--out", folder / out, *options)
    assert found.exit_code == 0, found.output
    return folder / out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed after its first round, and gone on with."""
    study = study_in(tmp_path_factory.mktemp("study"))
    with at("rounds/updated"), pytest.raises(Killed):
        go(study, "run")
    return go(study, "run", "--resume")


def test_a_killed_run_is_the_run_that_was_not(run: Path) -> None:
    """By the noised sums it kept: bit for bit, Adam's moments and the average too."""
    plan, folder, pinned = plan_of(run), RunFolder(run), pin(plan_of(run).model.base)
    method = planned_method(plan, pinned)
    state = method.initial_state(pinned)
    for round_ in (1, 2):
        kept = folder.kept_noised(round_)
        assert kept is not None
        state = method.step(state, kept[1] / plan.denominator(1, kept[2]))
        np.testing.assert_array_equal(folder.kept_state(round_), state)
    assert state.size == 4 * plan.method.dimension + 1  # w, two moments, the average, the round
    held = read_weights(run / "release")
    for name, tensor in method.weights(pinned, state[-1 - plan.method.dimension : -1])["denoiser.safetensors"].items():
        np.testing.assert_array_equal(held["denoiser.safetensors"][name], tensor)


@pytest.mark.slow
def test_three_sites_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "epsilon_spent", lambda *_: 0.0)  # seconds that are not looked at here
    monkeypatch.setattr(
        release, "_draw_samples", lambda _pinned, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )
    monkeypatch.setattr(gate, "rounded_gaussian", lambda _entropy, _sigma, size: np.zeros(size, dtype=np.int64))
    found = go(study_in(tmp_path, optimiser="sgd", momentum=0.0, learning_rate=0.1, ema=0.0), "run")
    assert_one_place(found, (1, 2), 1e-4)


def test_the_release_verifies_and_says_what_it_is(run: Path) -> None:
    assert verify(run / "release").digest == plan_of(run).digest
    statement = json.loads((run / "release" / "privacy.json").read_bytes())
    assert statement["mechanism"]["sensitivity_relation"].startswith("add/remove one unit, quantised per row")
    card = (run / "release" / "README.md").read_text(encoding="utf-8")
    assert "denoiser.safetensors is a whole UNet" in card
    program = card.split("```python\n")[1].split("```")[0]
    assert "base.sample([" in program
    held: dict[str, Any] = {"BASE": plan_of(run).model.base}
    with contextlib.chdir(run / "release"):
        exec(program, held)
    assert held["image"].size == (16, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"class.mass": np.zeros(7)},
        {"class.other": np.zeros(32)},
        {"unet.conv_in.bias": None},
        {"drawing": np.ones(12)},
        {"unet.conv_in.bias": np.full(8, np.nan)},
    ],
    ids=["another shape", "another class", "a tensor less", "another way to draw", "not finite"],
)
def test_other_weights_are_refused(run: Path, tmp_path: Path, change: dict[str, NDArray[np.float64] | None]) -> None:
    held = dict(read_weights(run / "release")["denoiser.safetensors"])
    save_file(held, tmp_path / "denoiser.safetensors")
    check_weights(tmp_path, plan_of(run).method)
    changed = held | {name: one.astype(np.float32) for name, one in change.items() if one is not None}
    kept = {name: one for name, one in changed.items() if change.get(name, one) is not None}
    save_file(kept, tmp_path / "denoiser.safetensors")
    with pytest.raises(UnfitWeights):
        check_weights(tmp_path, plan_of(run).method)


def test_images_are_drawn_of_each_class(run: Path) -> None:
    made = call("generate", run / "release", "-n", "2", "--steps", "4", "--seed", "1", "--out", run / "images")
    assert made.exit_code == 0, made.output
    names = sorted(path.relative_to(run / "images").as_posix() for path in (run / "images").rglob("*.png"))
    assert names == ["clear/00002.png", "clear/00003.png", "mass/00000.png", "mass/00001.png"]
    assert Image.open(run / "images" / names[0]).size == (16, 16)


def test_an_exported_release_is_a_folder_that_stock_diffusers_loads(run: Path, tmp_path: Path) -> None:
    made = call("export", run / "release", "--out", tmp_path / "out")
    assert made.exit_code == 0, made.output
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["clear", "mass"]
    said = json.loads((tmp_path / "out" / "parametrisation.json").read_text())
    assert (said["parametrisation"], said["sampler"], said["churn"], said["sigma_data"]) == ("edm", "heun", 4.0, 1.0)
    loaded = load_base(pin(plan_of(run).model.base))
    attach(loaded, read_weights(run / "release"))
    stock = UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    x, t = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, -0.4])
    with torch.no_grad():
        found = stock(x, t, class_labels=torch.tensor([0, 1])).sample
        torch.testing.assert_close(found, loaded.predict(x, t, loaded.conditions(["clear", "mass"])))
    # As a base its ancestor would be forgotten; a person who removes what says so has a base, told the same classes.
    with pytest.raises(ModelError, match="its weights hold a release"):
        pin(str(tmp_path / "out"))
    (tmp_path / "out" / "privacy.json").unlink()
    assert pin(str(tmp_path / "out")).classes == ("clear", "mass")
