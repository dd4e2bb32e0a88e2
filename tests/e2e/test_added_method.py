"""A method that the tree does not know: one folder, one registry line, and every command works with it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.numpy import load_file

from tests.support.added import added_method
from tests.support.images import write_folder
from tests.support.runs import SITES, call, coordinator_of
from tests.support.studies import study_with, write_study
from undertone.core.captions import caption_columns
from undertone.methods.registry import METHODS
from undertone.methods.weights import attach, read_weights
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.study.plan import Plan


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Path]:
    """STUDY.toml beside its data, while the method is there."""
    folder = tmp_path_factory.mktemp("added")
    write_folder(folder / "data", 12, 32, sites=SITES)
    changes = {
        "method": {"name": "channel-shift", "strength": 2.0},
        "cohort.units": dict.fromkeys(SITES, 2),
        "data.caption": "a picture, {finding}",
        "privacy.epsilon": 50.0,
        "privacy.rounds": 2,
    }
    with added_method(folder / "methods"):
        yield write_study(folder / "study.toml", study_with(changes, str(tiny_base)))
    assert "channel-shift" not in METHODS


@pytest.fixture(scope="module")
def run(study: Path) -> Path:
    folder = study.parent / "run"
    result = call("simulate", study, "--data", study.parent / "data", "--split-by", "site", "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


def test_it_is_planned_and_refuses_what_it_must(study: Path, tmp_path: Path) -> None:
    assert call("plan", study).exit_code == 0
    text = study.read_text(encoding="utf-8")
    for right, wrong, why in (
        ("a picture, {finding}", "a {token}", "learns no word"),
        ('"channel-shift"', '"channel-shfit"', 'did you mean "channel-shift"'),
        ("strength", "strenght", "did you mean strength"),
    ):
        (tmp_path / "study.toml").write_text(text.replace(right, wrong), encoding="utf-8")
        result = call("plan", tmp_path / "study.toml")
        assert result.exit_code == 2
        assert why in result.stderr


def test_its_study_ran_under_secure_aggregation_to_a_verified_release(run: Path) -> None:
    plan = Plan.from_bytes((run / "release" / "plan.json").read_bytes())
    assert (plan.method.name, plan.aggregation.mode, plan.privacy.rounds) == ("channel-shift", "secagg", 2)
    assert plan.method.options == {"strength": 2.0}
    assert caption_columns(plan.data.caption) == ["finding"]
    result = call("verify", run / "release", *coordinator_of(run))
    assert result.exit_code == 0, result.output
    noised = [np.load(run / "checkpoints" / f"round-00000{round_}" / "noised-001.npy") for round_ in (1, 2)]
    expected = 2.0 * sum(noised) / (plan.grid.scale * sum(plan.cohort.units.values()))
    (released,) = load_file(run / "release" / "channel_shift.safetensors").values()
    np.testing.assert_allclose(released, expected, rtol=1e-5)


def test_its_card_says_what_the_method_says(run: Path) -> None:
    card = (run / "release" / "README.md").read_text(encoding="utf-8")
    assert "# add channel_shift.safetensors to unet.conv_out.bias" in card


def test_it_is_drawn_from_and_exported(run: Path, tiny_base: Path, tmp_path: Path) -> None:
    release, out = run / "release", tmp_path / "images"
    result = call("generate", release, "--prompt", "a picture", "-n", 2, "--steps", 2, "--out", out)
    assert result.exit_code == 0, result.output
    result = call("export", release, "--out", tmp_path / "pipeline")
    assert result.exit_code == 0, result.output
    assert "the base with a shift of each channel" in " ".join(result.output.split())
    adapted = load_base(pin(str(tiny_base)))
    before = adapted.pipeline.unet.conv_out.bias.clone()
    attach(adapted, read_weights(release))
    exported = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", safety_checker=None)
    torch.testing.assert_close(exported.unet.conv_out.bias, adapted.pipeline.unet.conv_out.bias)
    assert not torch.allclose(before, adapted.pipeline.unet.conv_out.bias, atol=1e-3)


def test_without_its_line_in_the_registry_its_release_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(METHODS, "channel-shift")
    for command in (["verify", run / "release"], ["export", run / "release", "--out", tmp_path / "pipeline"]):
        result = call(*command)
        assert result.exit_code == 3
        assert "names no method of this version" in " ".join(result.stderr.split())
