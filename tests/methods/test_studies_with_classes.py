"""Whole studies with classes: one place, empty classes, captions by class, words in stock diffusers (PRIVACY 23)."""

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.numpy import load_file

from tests.support.gradient_studies import FIVE, assert_one_place, gradient_study, plan_of
from tests.support.images import write_csv
from tests.support.runs import SITES, call, coordinator_of
from undertone.methods.textual_inversion.release import WORDS
from undertone.methods.weights import attach, read_weights
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.release.verify import verify
from undertone_cli.commands.export import export
from undertone_cli.commands.simulate import simulate
from undertone_server import gate, release, telemetry

CLASSES = ["mass", "clear"]
WORDS_OF = {"mass": "<private-mass>", "clear": "<private-clear>"}
OPTIONS: dict[str, dict[str, Any]] = {
    "dpagg-ti": {"per_class": True, "share_scale": 0.1},
    "dpsgd-ti": {"per_class": True, "optimiser": "sgd", "momentum": 0.0, "learning_rate": 60.0, "share_epsilon": 0.6},
}


@pytest.fixture
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "epsilon_spent", lambda *_: 0.0)
    monkeypatch.setattr(
        release, "_draw_samples", lambda _pinned, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "rounded_gaussian", lambda _entropy, _sigma, size: np.zeros(size, dtype=np.int64))


def classed_study(folder: Path, base: Path, name: str, sites: tuple[str, ...], rounds: int, *classes: str) -> Path:
    data = {"class_column": "finding", "classes": list(classes) or CLASSES, "caption": "a {token}"}
    return gradient_study(folder, base, name, sites, rounds, data=data, **OPTIONS[name])


def findings(study: Path, *named: str) -> None:
    """Put other findings into the study's table, image by image in turn."""
    path = study.parent / "data" / "metadata.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    write_csv(path, [row | {"finding": named[index % len(named)]} for index, row in enumerate(rows)])


def go(study: Path) -> Path:
    simulate(study, study.parent / "data", study.parent / "run", split_by="site")
    return study.parent / "run"


# --- one place ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_samples", "no_noise")
@pytest.mark.parametrize(("name", "rounds"), [("dpagg-ti", 1), ("dpsgd-ti", 3)])
def test_five_sites_are_one_place(tmp_path: Path, tiny_base: Path, name: str, rounds: int) -> None:
    """With units of both classes, of one, and of none that is listed."""
    study = classed_study(tmp_path, tiny_base, name, FIVE, rounds)
    of_six = "mass clear mass mass clear clear drawn mass drawn drawn clear mass"  # patients, two images each
    findings(study, *of_six.split())
    run = go(study)
    assert_one_place(run, tuple(range(rounds, rounds + 1)), 1e-4)
    assert verify(run / "release").digest == plan_of(run).digest


@pytest.mark.usefixtures("no_samples", "no_noise")
@pytest.mark.parametrize(("name", "rounds"), [("dpagg-ti", 1), ("dpsgd-ti", 2)])
def test_a_class_that_nobody_has_stays_at_the_start(tmp_path: Path, tiny_base: Path, name: str, rounds: int) -> None:
    run = go(classed_study(tmp_path, tiny_base, name, FIVE[:3], rounds, "mass", "clear", "fracture"))
    words = load_file(run / "release" / WORDS)
    start = pin(str(tiny_base)).embedding_of("picture")
    np.testing.assert_array_equal(words["<private-fracture>"], start)
    for token in WORDS_OF.values():
        assert np.linalg.norm(words[token] - start) > 1e-3


# --- captions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dp-ldm", "dp-lora"])
def test_captions_with_the_class_are_learned_and_shown_by_class(tmp_path: Path, tiny_base: Path, name: str) -> None:
    """`gradient_study` describes images as "a picture, {finding}"; samples and card have a prompt for each class."""
    data = {"class_column": "finding", "classes": CLASSES}
    run = go(gradient_study(tmp_path, tiny_base, name, FIVE[:3], 1, data=data, optimiser="sgd", learning_rate=9.0))
    card = (run / "release" / "README.md").read_text(encoding="utf-8")
    assert "- `mass`: `a picture, mass`\n- `clear`: `a picture, clear`" in card
    result = call("generate", run / "release", "-n", 1, "--steps", 1, "--out", tmp_path / "images")
    assert result.exit_code == 0, result.output
    with (tmp_path / "images" / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = [(row["label"], row["prompt"]) for row in csv.DictReader(stream)]
    assert rows == [("mass", "a picture, mass"), ("clear", "a picture, clear")]


# --- the release ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["dpagg-ti", "dpsgd-ti"])
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    study = classed_study(folder, tiny_base, request.param, SITES, 2 if request.param == "dpsgd-ti" else 1)
    result = call("simulate", study, "--data", folder / "data", "--split-by", "site", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    assert "floor of a class" in result.output
    return folder / "run" / "release"


@torch.no_grad()
def predicted(pipeline: Any, prompt: str) -> torch.Tensor:
    text = pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
    x_t = torch.from_numpy(np.random.Generator(np.random.Philox(key=8)).standard_normal((1, 4, 8, 8), dtype=np.float32))
    found: torch.Tensor = pipeline.unet(x_t, 600, encoder_hidden_states=text).sample
    return found


def stock(base: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(base, safety_checker=None).to("cpu")


def loaded_as_the_card_says(release: Path, base: Path) -> Any:
    """The card's own lines between the base and the image, run in the release's folder."""
    card = (release / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert block is not None
    lines = [line for line in block[1].splitlines() if "from_pretrained" not in line and "image =" not in line]
    names: dict[str, Any] = {"pipeline": stock(base)}
    before = Path.cwd()
    os.chdir(release)
    try:
        exec("\n".join(lines), names)
    finally:
        os.chdir(before)
    return names["pipeline"]


def test_stock_diffusers_loads_the_words_as_the_card_says(released: Path, tiny_base: Path) -> None:
    pipeline, ours = loaded_as_the_card_says(released, tiny_base), load_base(pin(str(tiny_base)))
    attach(ours, read_weights(released))
    found = {name: predicted(pipeline, f"a {token}") for name, token in WORDS_OF.items()}
    for name, token in WORDS_OF.items():
        torch.testing.assert_close(found[name], predicted(ours.pipeline, f"a {token}"))
    assert not torch.allclose(found["mass"], found["clear"], atol=1e-5)
    assert not torch.allclose(found["mass"], predicted(pipeline, "a picture"), atol=1e-5)


def test_the_words_survive_save_pretrained(released: Path, tiny_base: Path, tmp_path: Path) -> None:
    """Of a stock pipeline, and of an exported one."""
    pipeline = loaded_as_the_card_says(released, tiny_base)
    pipeline.save_pretrained(tmp_path / "stock")
    export(released, tmp_path / "exported")
    for token in WORDS_OF.values():
        wanted = predicted(pipeline, f"a {token}")
        for folder in ("stock", "exported"):
            torch.testing.assert_close(predicted(stock(tmp_path / folder), f"a {token}"), wanted)


def test_the_release_verifies_and_says_its_classes(released: Path) -> None:
    assert call("verify", released, *coordinator_of(released.parent)).exit_code == 0
    statement = json.loads((released / "privacy.json").read_bytes())
    assert statement["classes"] == {"column": "finding", "list": CLASSES}
    card = (released / "README.md").read_text(encoding="utf-8")
    assert "- `mass`: `a <private-mass>`\n- `clear`: `a <private-clear>`" in card
    assert set(load_file(released / WORDS)) == set(WORDS_OF.values())
    assert (released / "samples.png").is_file()


def test_generate_draws_each_class_of_the_plan(released: Path, tmp_path: Path) -> None:
    result = call("generate", released, "-n", 2, "--steps", 1, "--out", tmp_path / "images")
    assert result.exit_code == 0, result.output
    with (tmp_path / "images" / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = [(row["label"], row["prompt"]) for row in csv.DictReader(stream)]
    assert rows == [("mass", "a <private-mass>")] * 2 + [("clear", "a <private-clear>")] * 2


def test_no_other_program_gets_words_of_classes(released: Path, tmp_path: Path) -> None:
    result = call("export", released, "--format", "kohya", "--out", tmp_path / "x.safetensors")
    assert result.exit_code == 2
    assert "learned words, one for each class, which no file of kohya holds" in result.stderr
