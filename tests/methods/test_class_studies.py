"""Whole studies of `dp-ldm` on bases that are told a class or nothing: one place, released, verified, drawn from."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.bases import tiny_class_base, tiny_none_base
from tests.support.gradient_studies import (
    FIVE,
    SMALL,
    assert_one_place,
    begins_at,
    centralised,
    gradient_study,
    plan_of,
)
from tests.support.images import write_folder
from tests.support.runs import call, coordinator_of
from undertone.methods.weights import read_weights
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.release.verify import verify
from undertone_cli.commands.simulate import simulate
from undertone_server import gate, release, telemetry
from undertone_server.run_folder import RunFolder

BASE = ("ant", "clear", "cow")
DATA: dict[str, Any] = {"caption": "{finding}", "class_column": "finding", "classes": ["mass", "clear"]}


def study_on(folder: Path, kind: str, sites: tuple[str, ...], rounds: int, **options: Any) -> Path:
    shape = {"side": 32, "pixels": "pixels" in kind, "channels": 1 if "grey" in kind else 3}
    if kind.startswith("class"):
        base = tiny_class_base(folder / "base", BASE, **shape)
        return gradient_study(
            folder, base, "dp-ldm", sites, rounds, data=DATA, optimiser="sgd", per_class=True, **options
        )
    base = tiny_none_base(folder / "base", **shape)
    return gradient_study(folder, base, "dp-ldm", sites, rounds, optimiser="sgd", **options)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise, and nothing is drawn."""
    monkeypatch.setattr(gate, "rounded_gaussian", lambda _entropy, _sigma, size: np.zeros(size, dtype=np.int64))
    monkeypatch.setattr(telemetry, "epsilon_spent", lambda *_: 0.0)
    monkeypatch.setattr(
        release, "_draw_samples", lambda _pinned, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )


def go(study: Path) -> Path:
    simulate(study, study.parent / "data", study.parent / "run", split_by="site")
    return study.parent / "run"


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("kind", "rounds", "long"),
    [
        ("class", 2, False),
        pytest.param("class", 2, True, marks=pytest.mark.slow),
        pytest.param("class", 20, False, marks=pytest.mark.slow),
        pytest.param("class grey pixels", 20, False, marks=pytest.mark.slow),
        pytest.param("none", 20, False, marks=pytest.mark.slow),
    ],
)
def test_five_sites_are_one_place_to_quantisation_error(
    tmp_path: Path, kind: str, rounds: int, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows that are kept, and with rows that are summed as they are made."""
    if long:
        monkeypatch.setattr("undertone.methods.gradient.method._MIB", 64)
    # Gradients of the base that is told nothing are short: a finer grid, and longer steps.
    short = {"clip_norm": 0.02, "learning_rate": 1.0} if kind == "none" else {}
    run = go(study_on(tmp_path, kind, FIVE, rounds, **short))
    assert_one_place(run, (1, rounds), 1e-4)
    assert verify(run / "release").digest == plan_of(run).digest


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("long", [False, True], ids=["kept", "summed"])
def test_rows_far_shorter_than_c_are_one_place_to_a_grid_unit_a_value(
    tmp_path: Path, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels of a base that is told nothing have rows of a fortieth of C, and so a fortieth of the grid.

    Each value of a row is cut by less than 1 / s, so a mean of d values is off by less than sqrt(d) / s, however short
    it is: a part in 10^4 of it is more than the grid can give there, for rows that are kept and for those that are not.
    """
    if long:
        monkeypatch.setattr("undertone.methods.gradient.method._MIB", 64)
    rate, rounds = SMALL["dp-ldm"]["learning_rate"], 3
    run = go(study_on(tmp_path, "none pixels", FIVE, rounds, momentum=0.0))
    plan = plan_of(run)
    d = plan.method.dimension
    expected = [state[:d] for state in centralised(run)]
    assert np.linalg.norm(expected[0] - begins_at(run)) < 0.05 * rate * plan.stages[-1].clip_norm
    for round_, wanted in enumerate(expected, 1):
        kept = RunFolder(run).kept_state(round_)
        assert kept is not None
        assert np.linalg.norm(kept[:d] - wanted) < round_ * rate * d**0.5 / plan.grid.scale


def test_a_class_base_from_study_to_exported_classes(tmp_path: Path) -> None:
    """Samples by class on the card, `generate` by class, `export` to a base of the study's classes."""
    run = go(study_on(tmp_path, "class", FIVE[:3], 2, learning_rate=2.0))
    (tensors,) = read_weights(run / "release").values()
    assert {"class.mass", "class.clear"} <= tensors.keys()
    assert np.abs(tensors["class.mass"]).max() > 0
    card = (run / "release" / "README.md").read_text(encoding="utf-8")
    assert "- `mass`: `mass`" in card
    assert "UNet2DModel.from_pretrained" in card
    assert "index('mass')" in card
    with Image.open(run / "release" / "samples.png") as grid:
        assert grid.height > 32 * 3

    drawn = call("generate", run / "release", "-n", 2, "--steps", 2, "--seed", 1, "--out", tmp_path / "drawn")
    assert drawn.exit_code == 0, drawn.output
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["clear", "mass", "metadata.csv"]
    one = call("generate", run / "release", "--prompt", "mass", "-n", 1, "--steps", 2, "--out", tmp_path / "one")
    assert one.exit_code == 0, one.output
    wrong = call("generate", run / "release", "--prompt", "ant", "-n", 1, "--steps", 2, "--out", tmp_path / "wrong")
    assert wrong.exit_code == 2
    assert "told one of its classes" in wrong.stderr

    out = tmp_path / "exported"
    exported = call("export", run / "release", "--out", out, *coordinator_of(run))
    assert exported.exit_code == 0, exported.output
    assert json.loads((out / "classes.json").read_text(encoding="utf-8")) == ["mass", "clear", "cow"]
    (out / "privacy.json").unlink()
    again = load_base(pin(str(out)))
    with (tmp_path / "drawn" / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            (image,) = again.sample([row["label"]], [int(row["seed"])], steps=2, guidance=1.0)
            with Image.open(tmp_path / "drawn" / row["file_name"]) as kept:
                assert np.abs(np.asarray(kept).astype(int) - np.asarray(image)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["class grey pixels", "none", "none pixels"])
def test_the_other_kinds_are_released_drawn_and_exported(tmp_path: Path, kind: str) -> None:
    run = go(study_on(tmp_path, kind, FIVE[:3], 2, learning_rate=2.0))
    card = (run / "release" / "README.md").read_text(encoding="utf-8")
    pipeline = {"class grey pixels": "UNet2DModel", "none": "LDMPipeline", "none pixels": "DDIMPipeline"}[kind]
    assert f"{pipeline}.from_pretrained" in card
    for arguments in (
        ("generate", run / "release", "--prompt", "mass", "-n", 2, "--steps", 2),
        ("export", run / "release"),
    ):
        found = call(*arguments, "--out", tmp_path / str(arguments[0]))
        assert found.exit_code == 0, found.output
    (tmp_path / "export" / "privacy.json").unlink()
    again, base = pin(str(tmp_path / "export")), pin(str(tmp_path / "base"))
    assert (again.kind, again.parts, again.image_size) == (base.kind, base.parts, base.image_size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["class", "class grey pixels"])
def test_a_release_is_evaluated_and_its_simulation_looked_at(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone_cli.evaluating.classifiers.SHUFFLES", 1)
    monkeypatch.setattr("undertone.evaluation.classifier.STRENGTHS", (0.01,))
    monkeypatch.setattr("undertone_cli.diagnostics.STEPS", 1)
    monkeypatch.setattr("undertone_cli.diagnostics.RANDOM_DIRECTIONS", 1)
    study = study_on(tmp_path, kind, FIVE[:3], 1, learning_rate=2.0)
    write_folder(tmp_path / "data", 120, 32, sites=FIVE[:3])
    simulate(study, tmp_path / "data", tmp_path / "run", split_by="site", holdout=0.5)
    found = json.loads((tmp_path / "run" / "diagnostics.json").read_text(encoding="utf-8"))
    assert (found["by the base's own autoencoder"] is None) == ("pixels" in kind)
    assert set(found["classifiers"]) >= {"before", "after"}
    write_folder(tmp_path / "real", 24, 32, first=500)
    quick = ("-n", 8, "--steps", 1, "--random-directions", 1, "--class-column", "finding")
    sides = ("--real", tmp_path / "real", "--members", tmp_path / "data")
    evaluated = call("evaluate", tmp_path / "run" / "release", *sides, *quick)
    assert evaluated.exit_code == 0, (evaluated.output, evaluated.exception)
