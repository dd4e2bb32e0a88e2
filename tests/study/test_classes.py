"""Classes in a study, a plan, and what people read of both (PRIVACY 23)."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.studies import study_with
from undertone.errors import NotVerified, PlanChanged, StudyError
from undertone.methods.registry import method_for
from undertone.models.pinned import pin
from undertone.release.statement import TookPart, privacy_statement
from undertone.release.verify import _check_weights
from undertone.study.plan import Plan
from undertone.study.planned import class_prompts, planned_method
from undertone.study.resolve import resolved
from undertone.study.schema import Study, parse_study
from undertone_server.card import model_card

CLASSES = ["pneumonia", "none"]
DATA = {"data.class_column": "finding", "data.classes": CLASSES, "data.caption": "a {token}"}
PER_CLASS: dict[str, Any] = {
    "method": {"name": "dpagg-ti", "steps": 3, "learning_rate": 0.2, "per_class": True, "share_scale": 0.5},
    **DATA,
}


def study(base: Path | str = "BASE", **changes: Any) -> Study:
    return parse_study(
        study_with(PER_CLASS | {key.replace("__", "."): value for key, value in changes.items()}, str(base))
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data__classes": None}, "typed by a person"),
        ({"data__classes": []}, "typed by a person"),
        ({"data__class_column": None}, "needs data.class_column"),
        ({"data__class_column": "patient_id"}, "names the patient"),
        ({"data__classes": ["one"]}, "1 classes"),
        ({"data__classes": ["none", "None"]}, "one class"),
        ({"data__classes": "none"}, "data.classes"),
        ({"data__classes": [0, 1]}, "data.classes"),
        ({"data__classes": ["a"] * 1001}, "data.classes"),
        ({"data__class_colum": "finding"}, "did you mean class_column"),
    ],
)
def test_a_study_says_column_and_list_or_neither(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(StudyError, match=why):
        study(**changes)


# Nothing of it is measured.
TRAINED: dict[str, Any] = {
    "name": "dpsgd-ti",
    "per_class": True,
    "draws": 1,
    "min_time": 0.2,
    "optimiser": "sgd",
    "learning_rate": 1.0,
}


def statement_of(plan: Plan) -> Any:
    took = TookPart(sorted(plan.cohort.units), {}, len(plan.cohort.units))
    return privacy_statement(plan, setting="simulation", ledger_head="0" * 64, charges=1, took_part=took)


def plan_of(base: Path, **changes: Any) -> Plan:
    return resolved(study(base, **changes)).plan


def test_the_plan_holds_the_list_as_it_was_typed(tiny_base: Path) -> None:
    plan = plan_of(tiny_base)
    assert (plan.data.class_column, plan.data.classes) == ("finding", CLASSES)
    assert plan.method.options["class_names"] == CLASSES
    again = Plan.from_bytes(plan.as_bytes())
    assert again == plan
    assert again.digest != plan_of(tiny_base, data__classes=CLASSES[::-1]).digest
    assert planned_method(plan, pin(str(tiny_base))).token == "<private-pneumonia>"


def test_a_plan_without_classes_says_nothing_of_them(tiny_base: Path) -> None:
    plain = {"name": "dpagg-ti", "steps": 3, "learning_rate": 0.2}
    plan = plan_of(tiny_base, method=plain, data__class_column=None, data__classes=None)
    assert set(json.loads(plan.as_bytes())["data"]) == {"caption", "unit_column"}
    assert "classes" not in statement_of(plan)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": CLASSES[::-1]},
        {"classes": [*CLASSES, "mass"]},
        {"classes": ["none", "NONE"]},
        {"classes": ["one"]},
        {"classes": []},
        {"class_column": None},
        {"classes": [], "class_column": None},
    ],
)
def test_a_plan_with_another_list_is_none(tiny_base: Path, change: dict[str, Any]) -> None:
    """Of a node, and of `verify`: what a method learns, and which records a site takes, are of one list."""
    plan = plan_of(tiny_base)
    said = plan.model_dump() | {"data": plan.data.model_dump() | change}
    with pytest.raises((PlanChanged, ValueError)):
        planned_method(Plan.model_validate(said), pin(str(tiny_base)))


def test_verify_refuses_words_of_other_classes_than_the_plans(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tiny_base)
    monkeypatch.setattr("undertone.release.verify.check_weights", lambda *_: None)
    _check_weights(tmp_path, plan)
    other = plan.model_copy(update={"data": plan.data.model_copy(update={"classes": CLASSES[::-1]})})
    with pytest.raises(NotVerified, match="other classes"):
        _check_weights(tmp_path, other)


def test_format_1_has_no_classes(tiny_base: Path) -> None:
    said = plan_of(tiny_base, method={"name": "dpagg-ti", "steps": 3, "learning_rate": 0.2}).model_dump()
    with pytest.raises(ValueError, match="no classes"):
        Plan.model_validate(said | {"format": 1})


def test_rows_have_shares_before_the_words_and_one_clip(tiny_base: Path) -> None:
    plan = plan_of(tiny_base)
    (stage,) = plan.stages
    assert (stage.dimension, plan.method.dimension) == (plan.method.dimension + 2, plan.state_size)
    assert stage.sensitivity.l2 == plan.grid.clip_units


def test_plan_says_the_floor_in_units(tiny_base: Path) -> None:
    """F = 4 sigma / (s a), of numbers that stand in the plan; at p = 1 and whole rows as many units."""
    found = resolved(study(tiny_base))
    plan, said = found.plan, dict(found.said)["floor of a class"]
    floor = 4 * plan.privacy.sigma / (plan.grid.scale * plan.method.options["share_scale"])  # type: ignore[operator]
    assert f"F = {floor:.3g} = 4 sigma / (s a): below about {-(-floor // 1):.0f} units" in said
    found = resolved(study(tiny_base, method=TRAINED, privacy__rounds=3))
    (first, _) = found.plan.stages
    assert f"F = {4 * first.sigma / first.grid.scale:.3g} " in dict(found.said)["floor of a class"]
    assert first.clip_norm == 1.0


def test_auto_gives_the_share_scale_a_number_and_says_why(tiny_base: Path) -> None:
    method = {key: value for key, value in PER_CLASS["method"].items() if key != "share_scale"}
    found = resolved(study(tiny_base, method=method))
    assert isinstance(found.plan.method.options["share_scale"], float)
    assert "auto: share_scale" in dict(found.said)


def test_per_class_without_a_list_is_refused(tiny_base: Path) -> None:
    with pytest.raises(StudyError, match="a list that you type"):
        plan_of(tiny_base, data__class_column=None, data__classes=None)


def test_the_first_round_of_shares_costs_its_part_of_epsilon(tiny_base: Path) -> None:
    plan = plan_of(tiny_base, method=TRAINED | {"share_epsilon": 0.1}, privacy__rounds=3)
    first, last = plan.stages
    assert [(stage.name, list(stage.rounds), stage.dimension) for stage in plan.stages] == [
        ("class shares", [1], 2),
        ("rounds", [2, 3], plan.method.dimension),
    ]
    assert first.event != last.event
    assert plan.privacy.epsilon <= 4.0


def test_what_people_read_names_the_classes(tiny_base: Path) -> None:
    plan = plan_of(tiny_base)
    said = statement_of(plan)
    assert said["classes"] == {"column": "finding", "list": CLASSES}
    assert any("The list of classes is public" in str(line) for line in said["trust"])
    method = method_for(plan.method.name, plan.method.options)
    after = {name: pair[1] for name, pair in class_prompts(plan).items()}
    card = model_card(plan, after, 3, method.release_format.describe())
    assert "- `pneumonia`: `a <private-pneumonia>`" in card
    assert "- `none`: `a <private-none>`" in card
    assert "load_textual_inversion([" in card
