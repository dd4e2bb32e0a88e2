"""What "auto" is: plain numbers in the plan, from public things alone; a number that the study names stays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.studies import study_with
from undertone.errors import NoisyRelease, StudyError
from undertone.methods.gradient import public_directions
from undertone.methods.gradient.optimisers import OptimiserOptions
from undertone.methods.gradient.step_length import cauchy_distance, rate_of_way
from undertone.methods.ldm.method import DPLDM
from undertone.methods.lora.method import DPLoRA
from undertone.methods.registry import METHODS, method_for
from undertone.methods.textual_inversion.dpagg_ti import DPAggTI
from undertone.methods.textual_inversion.dpsgd_ti import DPSGDTI
from undertone.models.pinned import pin
from undertone.study import automatic
from undertone.study.automatic import filled, fitted
from undertone.study.remedies import what_works
from undertone.study.resolve import Resolved, refuse_noise, resolved
from undertone.study.schema import Study, parse_study

FEW: dict[str, Any] = {"directions": 4, "direction_drawings": 8, "draws": 1}


def study_of(base: Path | str, **changes: Any) -> Study:
    """The good study, whose numbers are all left out, with some keys put in."""
    keys = {"privacy.clip_norm": None} | {key.replace("__", "."): value for key, value in changes.items()}
    return parse_study(study_with(keys, str(base)))


@pytest.fixture(scope="module")
def lora(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Resolved:
    """`dp-lora` on a small base, by auto alone but for the size of its directions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERTONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return resolved(study_of(tiny_base, method={"name": "dp-lora", **FEW}, data__caption="a picture"))


def test_a_plan_holds_numbers_and_never_the_word(lora: Resolved) -> None:
    plan = lora.plan
    assert all(plan.method.options[key] != "auto" for key in (*DPLoRA.automatic.options, DPLoRA.automatic.measured))
    assert (plan.privacy.rounds, plan.privacy.sampling_rate) == (DPLoRA.automatic.rounds, 1.0)
    for key, value in ({key: choice.value for key, choice in DPLoRA.automatic.options.items()} | FEW).items():
        assert plan.method.options[key] == value
    assert isinstance(plan.method.options["learning_rate"], float)
    clip = plan.grid.clip_units / plan.grid.scale
    assert lora.rows is not None
    assert clip == pytest.approx(float(f"{DPLoRA.automatic.clip_share * lora.rows.median:.2g}"), rel=1e-4)


def test_each_choice_is_said_with_its_reason_and_once(lora: Resolved) -> None:
    said = dict(lora.said)
    assert len(said) == len(lora.said)
    for key in ("rounds", "sampling_rate", "min_time", "optimiser", "learning_rate"):
        value, _, reason = said[f"auto: {key}"].partition(": ")
        assert value
        assert reason
    assert "auto: directions" not in said, "the study says how many"


def test_a_plan_is_the_same_each_time_and_the_word_says_what_leaving_out_says(
    tiny_base: Path, lora: Resolved, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "another"))
    spelled = dict.fromkeys(("learning_rate", "min_time"), "auto")
    privacy = dict.fromkeys(("privacy__rounds", "privacy__sampling_rate", "privacy__clip_norm"), "auto")
    method = {"name": "dp-lora", **FEW, **spelled}
    again = resolved(study_of(tiny_base, method=method, data__caption="a picture", **privacy))
    assert again.plan.digest == lora.plan.digest


def test_a_number_overrides_auto(dummy_method: None, dummy_base: Path, tiny_base: Path) -> None:
    numbers = {"learning_rate": 0.25, "min_time": 0.5, "momentum": 0.5, "optimiser": "sgd"}
    options = {"name": "dp-ldm", "blocks": ["mid_block"], **numbers, "directions": 0}
    found = resolved(study_of(tiny_base, method=options, data__caption="a picture", privacy__clip_norm=0.5))
    assert {key: found.plan.method.options[key] for key in numbers} == numbers
    study, _ = filled(study_of(dummy_base, privacy__rounds=5, privacy__sampling_rate=0.25))
    assert (study.privacy.rounds, study.privacy.sampling_rate) == (5, 0.25)


def test_another_optimiser_keeps_its_own_defaults(tiny_base: Path) -> None:
    study, _ = filled(study_of(tiny_base, method={"name": "dp-ldm", "optimiser": "adam"}, data__caption="a picture"))
    assert study.method.options["optimiser"] == "adam"
    assert "momentum" not in study.method.options


def test_a_method_of_one_round_stays_one(dummy_method: None, dummy_base: Path) -> None:
    study, _ = filled(study_of(dummy_base))
    assert (study.privacy.rounds, study.privacy.sampling_rate) == (1, 1.0)
    assert METHODS["dpagg-ti"].automatic.rounds == 1


def test_fewer_attempts_than_rounds_by_auto_are_refused(tiny_base: Path) -> None:
    with pytest.raises(StudyError, match=r"max_attempts = 3 is below privacy.rounds, which is \d+ where it is left"):
        filled(study_of(tiny_base, method={"name": "dp-lora"}, privacy__max_attempts=3))


@pytest.mark.parametrize(("key", "value"), [("learning_rate", "automatic"), ("rank", "auto"), ("min_time", "0.3")])
def test_other_words_and_other_keys_are_refused(tiny_base: Path, key: str, value: str) -> None:
    with pytest.raises(StudyError, match=key):
        resolved(study_of(tiny_base, method={"name": "dp-lora", key: value}, data__caption="a picture"))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_node_takes_the_word_from_a_plan(name: str) -> None:
    with pytest.raises(StudyError, match="learning_rate"):
        method_for(name, {"learning_rate": "auto"})


# --- the length of steps ----------------------------------------------------------------------------------------------


def quadratic(curvature: float, distances: list[float]) -> Any:
    """Losses h/2 |w - m|^2 whose minima lie so far from the start, each in another direction."""

    def gradient(w: NDArray[np.float32], index: int) -> NDArray[np.float64]:
        minimum = np.zeros(4)
        minimum[index] = distances[index]
        found: NDArray[np.float64] = curvature * (w.astype(np.float64) - minimum)
        return found

    return gradient


@pytest.mark.parametrize("curvature", [0.5, 2.0])
def test_the_distance_is_that_of_a_quadratics_minimum(curvature: float) -> None:
    found = cauchy_distance(quadratic(curvature, [1.0, 2.0, 3.0]), np.zeros(4, dtype=np.float32), 3, "a method")
    assert found == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("curvature", [-1.0, 0.0])
def test_losses_without_a_minimum_ask_for_a_number(curvature: float) -> None:
    with pytest.raises(StudyError, match=r'learning_rate = "auto".*a method.*give a number'):
        cauchy_distance(quadratic(curvature, [1.0, 2.0]), np.zeros(4, dtype=np.float32), 2, "a method")


def test_t_rounds_go_the_way_and_no_further_whatever_c_is() -> None:
    options = OptimiserOptions(optimiser="sgd", momentum=0.5)
    for clip, rounds in ((0.1, 4), (10.0, 16)):
        rate, why = rate_of_way(options, 8.0, clip, rounds, 64)
        assert rounds * rate * clip / (1 - options.momentum) == pytest.approx(8.0, rel=0.05)
        assert why.startswith(f"{rounds} steps")
    rate, _ = rate_of_way(OptimiserOptions(optimiser="adam"), 8.0, 0.1, 4, 64)
    assert 4 * rate * 8 == pytest.approx(8.0, rel=0.05)
    for clip, rounds in ((0.1, 4), (10.0, 16)):
        assert rate_of_way(OptimiserOptions(optimiser="dog"), 7.5, clip, rounds, 64)[0] == pytest.approx(0.5)


def test_a_word_is_measured_by_the_initial_words_embedding(tiny_base: Path) -> None:
    base = pin(str(tiny_base))
    length = float(np.linalg.norm(base.embedding_of("picture").astype(np.float64)))
    shared, own = method_for("dpsgd-ti", {}), method_for("dpagg-ti", {})
    assert isinstance(shared, DPSGDTI)
    assert isinstance(own, DPAggTI)
    assert shared.step_scale(base) == pytest.approx(length)
    assert (own.step_scale(base) or 0) * np.sqrt(base.embedding_width) == pytest.approx(length)


def test_directions_that_take_long_are_made_where_a_study_asks(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = study_of(tiny_base, method={"name": "dp-ldm"}, data__caption="a picture")
    base, method = pin(str(tiny_base)), method_for("dp-ldm", {"directions": 64})
    assert fitted(written, method, base)[0].options.directions == 64
    monkeypatch.setattr(automatic, "UNASKED", 0.0)
    without, said = fitted(written, method, base)
    assert without.options.directions == 0
    assert dict(said)["auto: directions"].startswith("0: ")
    asked = study_of(tiny_base, method={"name": "dp-ldm", "directions": 64}, data__caption="a picture")
    assert fitted(asked, method, base)[0] is method


def test_as_many_drawings_as_fit_make_directions(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, method = pin(str(tiny_base)), DPLDM(DPLDM.options_type(directions=8))
    d = method.layout(base).size
    for room, drawings, directions in ((20, 20, 8), (7, 256, 0)):
        monkeypatch.setattr(public_directions, "_LARGEST", 4 * d * (8 + room + public_directions._HELD_OUT))
        options = method.affordable(base, {"directions"}, lambda _method, _count: True)[0].options
        assert (options.direction_drawings, options.directions) == (drawings, directions)


# --- what is hopeless -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_values(tiny_base: Path) -> Resolved:
    """`dp-ldm` in all of its values: mostly noise."""
    method = {"name": "dp-ldm", "blocks": ["mid_block"], "directions": 0, "learning_rate": 0.1, "draws": 1}
    keys = {"data__caption": "a picture", "privacy__clip_norm": 1.0, "privacy__epsilon": 0.5}
    return resolved(study_of(tiny_base, method=method, privacy__allow_noisy=False, **keys))


def test_a_hopeless_plan_is_refused_with_what_works(many_values: Resolved) -> None:
    with pytest.raises(NoisyRelease, match=r"dp-ldm has noise 0\.\d+ times its signal: leave out directions and draws"):
        refuse_noise(many_values.plan, many_values.base)


def test_the_advice_is_another_method_or_none_for_fewer_units(
    many_values: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(units: int) -> str:
        cohort = many_values.plan.cohort.model_copy(update={"units": {"a": units, "b": units, "c": units}})
        return what_works(many_values.plan.model_copy(update={"cohort": cohort}), many_values.base)

    assert of(200).startswith("By auto alone dp-ldm has noise 0.")
    assert of(12).startswith('method.name = "dpsgd-ti" has noise 0.')
    assert of(2).startswith("No method has less noise than signal")
    monkeypatch.setattr(DPSGDTI, "needs", frozenset({"a part that no base has"}))
    assert of(12).startswith("No method")
