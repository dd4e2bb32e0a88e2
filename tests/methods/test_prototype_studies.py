"""Whole studies of dp-prototypes: five sites are one place to the bit; killed and resumed; drawn from (PRIVACY 16)."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from tests.support.bases import tiny_class_base
from tests.support.failpoints import Killed, at
from tests.support.gradient_studies import FIVE, plan_of
from tests.support.prototypes import prototype_study, write_digits
from tests.support.runs import call, coordinator_of
from undertone.errors import DirectionsDiffer, StudyError
from undertone.methods.protocol import NoiseAware, UnitRecords
from undertone.methods.prototypes import kept_latents
from undertone.methods.prototypes.release import PROTOTYPES
from undertone.methods.weights import attach, read_weights
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.privacy.ledger import Ledger
from undertone.privacy.quantise import clip_and_quantise
from undertone.study.planned import planned_method, planned_stage
from undertone.study.resolve import resolve
from undertone.study.schema import load_study
from undertone_cli.commands.simulate import simulate
from undertone_client.compute import reading
from undertone_server import gate, release, run_study, telemetry
from undertone_server.run_folder import RunFolder

DIGITS = ["1", "0", "2"]  # in no order
THREE = dict.fromkeys(FIVE[:3], 8)


@pytest.fixture
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "epsilon_spent", lambda *_: 0.0)
    monkeypatch.setattr(
        release, "_draw_samples", lambda _pinned, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )


def go(study: Path, **options: Any) -> Path:
    simulate(study, study.parent / "data", study.parent / "run", split_by="site", **options)
    return study.parent / "run"


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> dict[str, UnitRecords]:
    """Every unit that a site has read, by its name: latents to the bit as the sites have them."""
    found: dict[str, UnitRecords] = {}
    read = reading.Reader.unit

    def noted(self: Any, unit: str) -> UnitRecords | None:
        records = read(self, unit)
        if records is not None:
            found[unit] = records
        return records

    monkeypatch.setattr(reading.Reader, "unit", noted)
    return found


# --- one place ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_samples")
@pytest.mark.parametrize("classes", [DIGITS, []], ids=["three classes", "none"])
def test_five_sites_are_one_place_to_the_bit(
    tmp_path: Path,
    tiny_base: Path,
    classes: list[str],
    units: dict[str, UnitRecords],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every state: integers of all rows in one sum, over the public N, are what secure aggregation opens."""
    monkeypatch.setattr(gate, "rounded_gaussian", lambda _entropy, _sigma, size: np.zeros(size, dtype=np.int64))
    run = go(prototype_study(tmp_path, tiny_base, dict.fromkeys(FIVE, 6), classes))
    plan, pinned = plan_of(run), pin(str(tiny_base))
    base, state = load_base(pinned), planned_method(plan, pinned).initial_state(pinned)
    assert len(units) == 30
    starts = []
    for round_ in (1, 2, 3):
        method, stage = planned_stage(plan, pinned, round_).method, plan.stage_of(round_)
        rows = method.rows(base, state, list(units.values()), lambda _steps: None)
        total = clip_and_quantise(rows, stage.grid.as_grid()).sum(0)
        assert isinstance(method, NoiseAware)
        denominator = plan.denominator(round_, FIVE)
        starts.append(state)
        state = method.step_from(state, total / denominator, stage.noise_in(5) / denominator)
        kept = RunFolder(run).kept_state(round_)
        assert kept is not None
        np.testing.assert_array_equal(kept, state)
        assert not np.array_equal(state, starts[-1])
    assert plan.method.row == rows.shape[1]


# --- killed and resumed -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_samples")
@pytest.mark.parametrize(("step", "times"), [("rounds/updated", 1), ("rounds/state durable", 2)])
def test_a_run_killed_within_a_stage_goes_on_and_pays_once(
    tmp_path: Path, tiny_base: Path, step: str, times: int
) -> None:
    study = prototype_study(tmp_path, tiny_base, THREE, DIGITS)
    with at(step, times), pytest.raises(Killed):
        go(study)
    kept_latents.forget()  # as in a new process
    run = go(study, resume=True)
    plan, folder, pinned = plan_of(run), RunFolder(run), pin(str(tiny_base))
    state = planned_method(plan, pinned).initial_state(pinned)
    for round_ in (1, 2, 3):
        method, stage, kept = (
            planned_stage(plan, pinned, round_).method,
            plan.stage_of(round_),
            folder.kept_noised(round_),
        )
        assert kept is not None
        assert isinstance(method, NoiseAware)
        denominator = plan.denominator(round_, kept[2])
        state = method.step_from(state, kept[1] / denominator, stage.noise_in(len(kept[2])) / denominator)
        np.testing.assert_array_equal(folder.kept_state(round_), state)
    with Ledger.open(folder.ledger, read_only=True) as ledger:
        charges = ledger.charges(plan.digest)
    assert [(charge.round, charge.attempt) for charge in charges] == [(1, 1), (2, 1), (3, 1)]
    assert charges[0].event == charges[1].event != charges[2].event


def test_a_coordinator_that_makes_other_latents_refuses_before_a_site_is_asked(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = run_study.planned_method

    def elsewhere(*arguments: Any) -> Any:
        kept_latents.forget()
        monkeypatch.setattr(kept_latents, "_read", lambda *_: None)
        monkeypatch.setattr(kept_latents, "_SEED", 7)
        return planned(*arguments)

    monkeypatch.setattr(run_study, "planned_method", elsewhere)
    with pytest.raises(DirectionsDiffer):
        go(prototype_study(tmp_path, tiny_base, THREE, DIGITS))
    kept_latents.forget()
    assert RunFolder(tmp_path / "run").attempts_asked(1) == []


# --- plans ------------------------------------------------------------------------------------------------


def test_a_plan_says_both_stages_and_refuses_what_it_would_not_use(tmp_path: Path, tiny_base: Path) -> None:
    study = prototype_study(tmp_path, tiny_base, THREE, DIGITS)
    plan = resolve(load_study(study))
    assert [(stage.name, len(stage.rounds)) for stage in plan.stages] == [("centres", 2), ("rounds", 1)]
    assert {stage.mechanism.clip_origin for stage in plan.stages} == {"study"}
    first, last = plan.stages
    assert first.clip_norm == last.clip_norm == pytest.approx(5**0.5, rel=1e-3)
    result = call("plan", study)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.replace("\u2502", " ").split())
    assert "public components 3 of 256 values, from 12 drawings of all kinds; they keep" in said
    assert "floor of a class" in said
    text = study.read_text(encoding="utf-8")
    for before, after, why in (
        ("rounds = 3", "rounds = 4", "open 3 noised sums"),
        ("rounds = 3", "rounds = 2", "say 3 or more"),
        ("rounds = 3", "rounds = 3\nclip_norm = 1.0", "leave clip_norm out"),
        ("classes = ", "# ", "typed by a person"),
    ):
        study.write_text(text.replace(before, after), encoding="utf-8")
        with pytest.raises(StudyError, match=why):
            resolve(load_study(study))


# --- a whole study ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def letters_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Told one of three letters: it knows no digit."""
    return tiny_class_base(tmp_path_factory.mktemp("letters") / "base", ("a", "b", "c"), side=32)


@pytest.fixture(scope="module", params=["text", "class"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    base = tiny_base if request.param == "text" else request.getfixturevalue("letters_base")
    folder = tmp_path_factory.mktemp("prototypes")
    caption = "a digit, {digit}" if request.param == "text" else "{digit}"
    study = prototype_study(folder, base, dict.fromkeys(FIVE[:3], 20), DIGITS, data__caption=caption)
    result = call("simulate", study, "--data", folder / "data", "--split-by", "site", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_its_release_verifies_and_is_prototypes_of_each_class(run: Path) -> None:
    assert call("verify", run / "release", *coordinator_of(run)).exit_code == 0
    held = load_file(run / "release" / PROTOTYPES)
    assert set(held) == {f"{part}.{name}" for part in ("centres", "weights", "factor") for name in DIGITS}
    assert held["centres.0"].shape == (2, 4, 8, 8)
    assert held["factor.2"].shape == (3, 4, 8, 8)
    assert sum(held[f"weights.{name}"].sum() for name in DIGITS) == pytest.approx(1)
    assert json.loads((run / "release" / "privacy.json").read_bytes())["classes"]["list"] == DIGITS
    assert (run / "release" / "samples.png").is_file()
    card = (run / "release" / "README.md").read_text(encoding="utf-8")
    assert "- `1`: `1`\n- `0`: `0`\n- `2`: `2`" in card


def test_generate_draws_each_class_and_refuses_words(run: Path, tmp_path: Path) -> None:
    result = call("generate", run / "release", "-n", 2, "--out", tmp_path / "images")
    assert result.exit_code == 0, result.output
    assert sorted(one.name for one in (tmp_path / "images").iterdir()) == ["0", "1", "2", "metadata.csv"]
    assert call("generate", run / "release", "--prompt", "2", "-n", 1, "--out", tmp_path / "two").exit_code == 0
    assert call("generate", run / "release", "--prompt", "", "-n", 1, "--out", tmp_path / "any").exit_code == 0
    result = call("generate", run / "release", "--prompt", "a castle", "-n", 1, "--out", tmp_path / "castle")
    assert result.exit_code == 2
    assert '"a castle" is no class of these prototypes: ask for "0", "1", "2"' in " ".join(result.stderr.split())


def test_the_cards_lines_draw_with_numpy_and_the_autoencoder_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in the release's folder; what they draw is what our own drawer draws, of the same numbers."""
    card = (run / "release" / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert block is not None
    assert "undertone" not in block[1]
    plan = plan_of(run)
    names: dict[str, Any] = {"BASE": plan.model.base}

    class Fixed:
        """Always the first centre, no step."""

        def choice(self, count: int, p: NDArray[np.float64]) -> int:
            assert p.sum() == pytest.approx(1)
            return count - count

        def standard_normal(self, count: int) -> NDArray[np.float64]:
            return np.zeros(count)

    monkeypatch.setattr(np.random, "default_rng", Fixed)
    before = Path.cwd()
    os.chdir(run / "release")
    try:
        exec(block[1], names)
    finally:
        os.chdir(before)
    assert isinstance(names["image"], Image.Image)
    base = load_base(pin(plan.model.base))
    centre = load_file(run / "release" / PROTOTYPES)["centres.1"][:1]
    np.testing.assert_allclose(np.asarray(names["image"]).astype(int), base.decode(centre)[0].astype(int), atol=1)


def test_it_is_no_pipeline_and_export_says_what_draws(run: Path, tmp_path: Path) -> None:
    for options in ([], ["--format", "kohya"]):
        result = call("export", run / "release", *options, "--out", tmp_path / "x.safetensors")
        assert result.exit_code == 2
        assert "prototypes" in result.stderr
    assert not (tmp_path / "x.safetensors").exists()


def test_prototypes_that_do_not_fit_are_refused(run: Path) -> None:
    base, held = load_base(pin(plan_of(run).model.base)), dict(read_weights(run / "release")[PROTOTYPES])
    drawer = base.drawer
    bad = [
        {name: tensor for name, tensor in held.items() if name != "weights.0"},
        held | {"centres.0": np.zeros((3, 4, 8, 8), np.float32)},
        held | {"centres": held["centres.0"], "weights": held["weights.0"], "factor": held["factor.0"]},
        {name: (tensor[..., :4] if tensor.ndim == 4 else tensor) for name, tensor in held.items()},
    ]
    for tensors in bad:
        with pytest.raises(Exception, match="no prototypes in latents"):
            attach(base, {PROTOTYPES: tensors})
        assert base.drawer is drawer
    attach(base, {PROTOTYPES: held})
    assert base.drawer is not drawer


@pytest.mark.slow
def test_a_whole_study_of_drawn_digits_on_the_embedded_base(tmp_path: Path) -> None:
    """Held out, with controls: nearer than random directions; a classifier learns from it which digit is which."""
    options = {"kinds": ["letter"], "public_drawings": 128, "components": 12, "radius": 3.0}
    named = {f"method__{key}": value for key, value in options.items()}
    study = prototype_study(
        tmp_path, "embedded:tiny", dict.fromkeys(FIVE[:3], 70), DIGITS, privacy__epsilon=50.0, **named
    )
    text = study.read_text(encoding="utf-8").replace("= 70", "= 49")
    study.write_text(text, encoding="utf-8")
    data, out = tmp_path / "data", tmp_path / "run"
    result = call("simulate", study, "--data", data, "--split-by", "site", "--holdout", 0.3, "--out", out)
    assert result.exit_code == 0, result.output
    # The base itself is no bar by distance: it has seen drawn digits, and draws whole ones of any kind. It is one by
    # class, since it does not know which digit is meant.
    found = json.loads((out / "diagnostics.json").read_bytes())
    distance, named = found["distance"], found["classifiers"]
    others = [f"random direction {number}" for number in (1, 2, 3)]
    assert all(distance["after"] < 0.95 * distance[other] for other in others)
    for other in ("before", *others):
        assert named["after"]["auc"]["value"] > named[other]["auc"]["value"] + 0.1
        assert named["after"]["accuracy"]["value"] > named[other]["accuracy"]["value"] + 0.1


@pytest.mark.slow
def test_a_release_is_evaluated_by_what_it_draws(run: Path, tmp_path: Path) -> None:
    """It has no denoiser, so the base's losses are not shown as an attack on it."""
    real = write_digits(tmp_path / "real", 24, 32, ["x"])
    table = (real / "metadata.csv").read_text(encoding="utf-8")
    (real / "metadata.csv").write_text(table.replace("patient-", "held-out-"), encoding="utf-8")
    for image in (real / "images").iterdir():  # other images than those that were trained on
        Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    quick = ("-n", 8, "--steps", 1, "--random-directions", 1, "--class-column", "digit")
    sides = ("--real", real, "--members", run.parent / "data")
    result = call("evaluate", run / "release", *sides, *quick)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "no attack by loss" in " ".join(result.stdout.split())
    assert "loss less base" not in result.stdout
