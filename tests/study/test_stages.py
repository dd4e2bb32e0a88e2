"""Rounds that differ: each is asked of its own stage, and the claim composes them all (PRIVACY 25)."""

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
from dp_accounting import pld, rdp

from tests.arch.tree import MODULES
from tests.support.dummy import DIMENSION, FEATURES, DummyMethod
from tests.support.studies import study_with
from tests.support.world import make_plan, secure
from undertone.core.canonical import canonical_json
from undertone.errors import MechanismViolation, PlanChanged, StudyError, UnderstatedClaim
from undertone.methods.registry import METHODS
from undertone.models.pinned import pin
from undertone.privacy.accounting import (
    RDP_ORDERS,
    GaussianEvent,
    calibrate,
    epsilon_claim,
    epsilon_pld,
    epsilon_rdp,
)
from undertone.study.claim import check_claim, recompute_epsilon
from undertone.study.plan import Plan
from undertone.study.planned import planned_method, planned_stage
from undertone.study.rehearsal import rehearsal_of
from undertone.study.resolve import resolve
from undertone.study.schema import parse_study

UNITS = {"north": 30, "east": 20, "south": 10}
FIGURES: dict[str, Any] = {"staged": {"sampling_rate": 0.25, "max_attempts": 2}, "sampling_rate": 0.5}


@pytest.fixture
def plan(dummy_base: Path) -> Plan:
    return make_plan(dummy_base, UNITS, **FIGURES, rounds=4, max_attempts=7, sigma=2000)


def test_each_round_has_the_figures_of_its_own_stage(plan: Plan) -> None:
    first, last = plan.stages
    assert (first.name, first.rounds, first.max_attempts, first.dimension) == ("selection", range(1, 2), 2, FEATURES)
    assert (last.name, last.rounds, last.max_attempts, last.dimension) == ("rounds", range(2, 5), 5, DIMENSION)
    assert [plan.stage_of(round_) for round_ in (1, 2, 3, 4)] == [first, last, last, last]
    assert first.event == GaussianEvent(4096, 2048, 0.25, 1)
    assert last.event == GaussianEvent(2000, 1024, 0.5, 1)
    assert (first.clip_norm, last.clip_norm) == (2.0, 4.0)
    assert plan.denominator(1, ("east", "north")) == 1024 * 0.25 * 50
    assert plan.denominator(2, ("east", "north")) == 256 * 0.5 * 50
    for round_ in (0, 5, -1):
        with pytest.raises(MechanismViolation, match="no stage"):
            plan.stage_of(round_)


def test_a_plan_of_one_stage_is_spelled_as_ever(dummy_base: Path, plan: Plan) -> None:
    one = make_plan(dummy_base, UNITS, rounds=3, max_attempts=4)
    spelled = json.loads(one.as_bytes())
    assert {"earlier", "sent", "row"}.isdisjoint({*spelled, *spelled["method"]})
    assert [stage.rounds for stage in one.stages] == [range(1, 4)]
    assert Plan.from_bytes(plan.as_bytes()) == plan
    assert json.loads(plan.as_bytes())["earlier"][0]["sigma"] == 4096


def test_the_claim_of_two_stages_is_one_composed_call(plan: Plan) -> None:
    """Each stage counts at its own most attempts: 2 of the selection, 5 of the others."""
    first = dp_accounting.PoissonSampledDpEvent(0.25, dp_accounting.GaussianDpEvent(2.0))
    then = dp_accounting.PoissonSampledDpEvent(0.5, dp_accounting.GaussianDpEvent(2000 / 1024))
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    both = dp_accounting.ComposedDpEvent(
        [dp_accounting.SelfComposedDpEvent(first, 2), dp_accounting.SelfComposedDpEvent(then, 5)]
    )
    by_pld = pld.PLDAccountant(relation, 1e-3).compose(both).get_epsilon(plan.privacy.delta)
    by_rdp = rdp.RdpAccountant(list(RDP_ORDERS), relation).compose(both).get_epsilon(plan.privacy.delta)
    assert recompute_epsilon(plan) == (plan.privacy.epsilon, plan.privacy.epsilon_rdp)
    assert plan.privacy.epsilon == pytest.approx(by_pld, rel=1e-9)
    assert plan.privacy.epsilon_rdp == pytest.approx(by_rdp, rel=1e-9)
    assert plan.charges == (GaussianEvent(4096, 2048, 0.25, 2), GaussianEvent(2000, 1024, 0.5, 5))


def test_a_claim_without_the_selection_is_understated(plan: Plan) -> None:
    last = [replace(plan.stages[1].event, count=5)]
    figures = {"epsilon": epsilon_pld(last, 1e-5), "epsilon_rdp": epsilon_rdp(last, 1e-5)}
    assert figures["epsilon"] < plan.privacy.epsilon
    with pytest.raises(UnderstatedClaim):
        check_claim(plan.model_copy(update={"privacy": plan.privacy.model_copy(update=figures)}))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rounds": 4}, "leave it no round"),
        ({"rounds": 0}, "rounds"),
        ({"max_attempts": 5}, "fewer attempts"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"sensitivity": 2047}, "not the clip bound"),
        ({"dimension": 1 << 20}, "too coarse"),
        ({"sigma_local": 9}, "no noise shares"),
        ({"sigma": 63}, "sigma"),
        ({"sampling_rate": 1.5}, "sampling_rate"),
        ({"name": "Selection\x1b"}, "name"),
        ({"grid": {"scale": 1023}}, "power of two"),
        ({"grid": {"modulus_bits": 24, "site_clamp": 1}}, "different moduli"),
        ({"grid": {"site_clamp": (1 << 31) - 1}}, "fit the modulus"),
        ({"grid": {"noise_margin": 1}}, "no noise shares"),
    ],
)
def test_a_first_stage_is_checked_like_the_last(plan: Plan, changes: dict[str, Any], why: str) -> None:
    tables: Any = json.loads(plan.as_bytes())
    for key, value in changes.items():
        stage = tables["earlier"][0]
        stage[key] = stage[key] | value if isinstance(value, dict) else value
    with pytest.raises(PlanChanged, match=why):
        Plan.from_bytes(canonical_json(tables))


def test_the_stages_before_the_last_are_few(plan: Plan) -> None:
    tables: Any = json.loads(plan.as_bytes())
    tables["earlier"] *= 4
    tables["privacy"] |= {"rounds": 10, "max_attempts": 100}
    with pytest.raises(PlanChanged, match="earlier"):
        Plan.from_bytes(canonical_json(tables))


def test_format_1_has_one_stage(plan: Plan) -> None:
    tables: Any = json.loads(plan.as_bytes())
    tables["format"] = 1
    del tables["rehearsal"], tables["privacy"]["ready_seconds_per_unit"]
    with pytest.raises(PlanChanged, match="one stage"):
        Plan.from_bytes(canonical_json(tables))


def test_a_rehearsal_has_a_round_of_each_stage(plan: Plan) -> None:
    made = rehearsal_of(plan, "rehearsal-1")
    assert [(len(stage.rounds), stage.max_attempts) for stage in made.stages] == [(1, 2), (1, 3)]
    assert [stage.event for stage in made.stages] == [stage.event for stage in plan.stages]
    assert made.privacy.epsilon == recompute_epsilon(made)[0]
    assert Plan.from_bytes(made.as_bytes()) == made


@pytest.mark.usefixtures("dummy_method")
def test_a_plan_with_other_stages_than_the_methods_is_refused(plan: Plan, dummy_base: Path) -> None:
    base = pin(str(dummy_base))
    assert planned_method(plan, base).name == "dummy"
    assert [type(planned_stage(plan, base, round_).method).__name__ for round_ in (1, 2, 4)] == [
        "LargestFeature",
        "OneFeature",
        "OneFeature",
    ]
    other = {"earlier": [], "method": plan.method.model_copy(update={"sent": None})}
    for changes in (
        other,
        {"earlier": [plan.earlier[0].model_copy(update={"name": "counts"})]},
        {"earlier": [plan.earlier[0].model_copy(update={"rounds": 2})]},
        {"earlier": [plan.earlier[0].model_copy(update={"dimension": 3})]},
        {"method": plan.method.model_copy(update={"sent": DIMENSION + 2})},
        {"method": plan.method.model_copy(update={"row": 3})},
    ):
        with pytest.raises(PlanChanged, match="has the stages selection, rounds here"):
            planned_method(plan.model_copy(update=changes), base)


# --- from a study -----------------------------------------------------------------------------------------


@pytest.fixture
def staged(dummy_base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(METHODS, "dummy", DummyMethod)
    changes = {"method.staged": True, "privacy.rounds": 5, "privacy.sampling_rate": 0.5, "privacy.epsilon": 2.0}
    return study_with(changes, str(dummy_base))


def test_a_study_with_a_first_stage_spends_its_share_there_and_the_rest_after(staged: dict[str, Any]) -> None:
    found = resolve(parse_study(staged))
    first, last = found.stages
    assert (len(first.rounds), len(last.rounds)) == (1, 4)
    assert 0.19 < epsilon_claim([first.charges], 1e-5) <= 0.2  # a tenth
    assert 1.99 < found.privacy.epsilon <= 2.0
    assert epsilon_claim([last.charges], 1e-5) < found.privacy.epsilon
    assert (first.clip_norm, last.clip_norm) == (2.0, 1.0)
    assert (first.mechanism.clip_origin, found.method.sent) == ("study", DIMENSION + 1)
    assert found.privacy.max_attempts == first.max_attempts + last.max_attempts
    check_claim(found)


def test_attempts_that_a_study_names_are_shared_out(staged: dict[str, Any]) -> None:
    staged["privacy"]["max_attempts"] = 8
    first, last = resolve(parse_study(staged)).stages
    assert (first.max_attempts, last.max_attempts) == (2, 6)
    staged["privacy"]["max_attempts"] = 5
    assert [stage.max_attempts for stage in resolve(parse_study(staged)).stages] == [1, 4]


def test_a_study_without_a_round_for_the_last_stage_is_refused(staged: dict[str, Any]) -> None:
    staged["privacy"]["rounds"] = 1
    with pytest.raises(StudyError, match=r"selection \(1\): say 2 or more"):
        resolve(parse_study(staged))


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_noise_beside_settled_charges_is_the_least_that_keeps_the_claim(noise: str, dummy_base: Path) -> None:
    beside = [GaussianEvent(9000, 1000, 0.5, 2)]
    by_rdp, spent = noise == "distributed", epsilon_rdp if noise == "distributed" else epsilon_pld
    z = calibrate(1.0, 1e-5, 0.5, 6, by_rdp=by_rdp, beside=beside)

    def together(multiplier: float) -> float:
        return spent([*beside, GaussianEvent(round(multiplier * 10**6), 10**6, 0.5, 6)], 1e-5)

    assert together(z * 1.0001) <= 1.0 < together(z * 0.999)
    assert z > calibrate(1.0, 1e-5, 0.5, 6, by_rdp=by_rdp)
    with pytest.raises(StudyError, match="below what the accountant can certify"):
        calibrate(0.1, 1e-5, 0.5, 6, by_rdp=by_rdp, beside=[GaussianEvent(1000, 1000, 0.5, 9)])
    shared = make_plan(
        dummy_base,
        UNITS | {"west": 9},
        aggregation=secure(4),
        min_sites=3,
        noise="distributed",
        rounds=2,
        max_attempts=2,
        staged={},
        sigma=9000,
    )
    assert [type(stage.event).__name__ for stage in shared.stages] == ["DistributedEvent"] * 2
    assert shared.privacy.epsilon == shared.privacy.epsilon_rdp == recompute_epsilon(shared)[0]


# --- who reads what -----------------------------------------------------------------------------------------

_OF_A_STAGE = {"sigma", "sigma_local", "sensitivity", "sampling_rate", "clip_origin"}
# A study's own wishes, before there is a plan.
_BEFORE = {"undertone/study/plan.py", "undertone/study/settling.py", "undertone/study/schema.py"}


def test_figures_of_a_round_are_asked_of_its_stage() -> None:
    """Nobody reads noise, rate, bound or grid from where plan.json spells those of the last stage."""
    for module in MODULES:
        if module.file in _BEFORE:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                of_privacy = node.attr in _OF_A_STAGE and owner.split(".")[-1] == "privacy"
                assert not of_privacy, f"{module.file}:{node.lineno}: {ast.unparse(node)}"
                of_plan = node.attr == "grid" and owner.split(".")[-1] in ("plan", "_plan")
                assert not of_plan, f"{module.file}:{node.lineno}: {ast.unparse(node)}"
