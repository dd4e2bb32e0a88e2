"""A study that starts from another's release: what both claim together, from the plan alone, and what is refused."""

import json
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dp_accounting import pld, rdp
from pydantic import ValidationError

from tests.support.dummy import DummyMethod
from tests.support.lineage import SITES, claiming, first_plan, second_plan, start_from, started
from tests.support.studies import study_with, write_study
from tests.support.world import make_plan, secure
from undertone.core.canonical import canonical_json
from undertone.errors import PlanChanged, UnderstatedClaim
from undertone.methods.registry import METHODS
from undertone.privacy.accounting import RDP_ORDERS, epsilon_claim
from undertone.release.statement import TookPart, privacy_statement
from undertone.release.trust import trust_assumptions
from undertone.study.claim import check_claim, epsilons, recompute_epsilon
from undertone.study.plan import Plan
from undertone.study.rehearsal import rehearsal_of
from undertone.study.resolve import resolve
from undertone.study.schema import parse_study

pytestmark = pytest.mark.usefixtures("dummy_method")

DISTRIBUTED: dict[str, Any] = {"noise": "distributed", "aggregation": secure(3)}
KINDS: list[dict[str, Any]] = [{}, DISTRIBUTED]
RELATION = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE


def pair(base: Path, **kind: Any) -> tuple[Plan, Plan]:
    """Two studies that were planned together."""
    second = second_plan(base, **kind)
    ancestor = first_plan(base, second, **kind)
    return ancestor, started(second, ancestor)


def composed(plans: list[Plan]) -> dp_accounting.DpEvent:
    """All charges of these plans as one event of the library, spelled from their figures."""
    found: list[dp_accounting.DpEvent] = []
    for plan in plans:
        for stage in plan.stages:
            event = dp_accounting.GaussianDpEvent(stage.event.noise_multiplier)
            if stage.sampling_rate < 1:
                event = dp_accounting.PoissonSampledDpEvent(stage.sampling_rate, event)
            found.append(dp_accounting.SelfComposedDpEvent(event, stage.max_attempts))
    return dp_accounting.ComposedDpEvent(found)


# --- the claim over both --------------------------------------------------------------------------


def test_the_claim_of_two_studies_is_one_composed_call(dummy_base: Path) -> None:
    ancestor, plan = pair(dummy_base)
    accountant = pld.PLDAccountant(RELATION, value_discretization_interval=1e-3)
    accountant.compose(composed([ancestor, plan]))
    both = float(accountant.get_epsilon(plan.privacy.delta))
    assert plan.privacy.epsilon == pytest.approx(both, rel=1e-9)
    # The first study's plan claims the same, to the bit: the events are the same.
    assert (ancestor.privacy.epsilon, ancestor.privacy.epsilon_rdp) == (plan.privacy.epsilon, plan.privacy.epsilon_rdp)
    for one in (ancestor, plan):
        alone, _ = epsilons(one.charges, one.privacy.delta)
        assert 0.1 < alone < 0.99 * plan.privacy.epsilon
        check_claim(one)


def test_with_distributed_noise_it_is_one_composed_call_by_rdp(dummy_base: Path) -> None:
    ancestor, plan = pair(dummy_base, **DISTRIBUTED)
    accountant = rdp.RdpAccountant(list(RDP_ORDERS), RELATION)
    accountant.compose(composed([ancestor, plan]))
    both = float(accountant.get_epsilon(plan.privacy.delta))
    assert plan.privacy.epsilon == plan.privacy.epsilon_rdp == pytest.approx(both, rel=1e-9)  # tau is next to nothing
    assert ancestor.privacy.epsilon == plan.privacy.epsilon


@pytest.mark.parametrize("kind", KINDS, ids=["central", "distributed"])
def test_a_plan_that_forgets_its_ancestor_is_refused(dummy_base: Path, kind: dict[str, Any]) -> None:
    """With the figures that its own charges come to, which would be true without the first study."""
    _, plan = pair(dummy_base, **kind)
    epsilon, epsilon_rdp = epsilons(plan.charges, plan.privacy.delta)
    claim = plan.privacy.model_copy(update={"epsilon": epsilon, "epsilon_rdp": epsilon_rdp})
    with pytest.raises(UnderstatedClaim, match="attempts of two studies"):
        check_claim(plan.model_copy(update={"privacy": claim}))


def test_a_plan_that_forgets_its_successor_is_refused(dummy_base: Path) -> None:
    ancestor, _ = pair(dummy_base)
    epsilon, epsilon_rdp = epsilons(ancestor.charges, ancestor.privacy.delta)
    claim = ancestor.privacy.model_copy(update={"epsilon": epsilon, "epsilon_rdp": epsilon_rdp})
    with pytest.raises(UnderstatedClaim, match="attempts of two studies"):
        check_claim(ancestor.model_copy(update={"privacy": claim}))


def test_a_plan_whose_ancestor_understates_is_refused(dummy_base: Path) -> None:
    """A reader is told the ancestor's figure too, though this plan's own claim does not rest on it."""
    second, first = second_plan(dummy_base), first_plan(dummy_base)
    lower = first.privacy.model_copy(update={"epsilon": 0.01, "epsilon_rdp": 0.01})
    plan = started(second, first.model_copy(update={"privacy": lower}))
    assert recompute_epsilon(plan) == (plan.privacy.epsilon, plan.privacy.epsilon_rdp)
    with pytest.raises(UnderstatedClaim, match=r"claims epsilon 0\.01"):
        check_claim(plan)


NOT_JOINT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one attempt more": ({"max_attempts": 4}, {}),
    "one attempt fewer": ({"max_attempts": 2}, {}),
    "less noise": ({"sigma": 2999}, {}),
    "another rate": ({"sampling_rate": 0.25}, {}),
    "another unit": ({"unit": "record"}, {}),
    "another delta": ({"delta": 1e-6}, {}),
    "no successor": ({}, {"successor": None}),
}


@pytest.mark.parametrize("case", NOT_JOINT)
def test_events_that_the_ancestor_did_not_hold_share_no_claim(dummy_base: Path, case: str) -> None:
    changes, missing = NOT_JOINT[case]
    ancestor = claiming(first_plan(dummy_base, second_plan(dummy_base)), missing)
    own = second_plan(dummy_base, **changes)
    plan = started(own, ancestor)
    assert not plan.joint
    assert plan.claimed == own.charges
    assert plan.privacy.epsilon == own.privacy.epsilon
    check_claim(plan)


def test_another_placement_of_noise_shares_no_claim(dummy_base: Path) -> None:
    """Even if somebody had written the right event into the ancestor's plan: the adversaries differ."""
    second = second_plan(dummy_base, **DISTRIBUTED)
    ancestor = first_plan(dummy_base, second)
    assert not started(second, ancestor).joint


def test_another_column_of_the_unit_shares_no_claim(dummy_base: Path) -> None:
    second = second_plan(dummy_base, data={"unit_column": "ward"})
    assert not started(second, first_plan(dummy_base, second)).joint


# --- what is no start -----------------------------------------------------------------------------


def test_the_plan_is_read_back_as_it_was_and_without_a_start_it_is_what_it_was(dummy_base: Path) -> None:
    ancestor, plan = pair(dummy_base)
    for one in (ancestor, plan):
        assert Plan.from_bytes(one.as_bytes()) == one
    bare = second_plan(dummy_base)
    assert {"start", "successor"}.isdisjoint(json.loads(bare.as_bytes()))
    spelled = plan.model_dump(mode="json")
    del spelled["start"]
    spelled["privacy"] |= {"epsilon": bare.privacy.epsilon, "epsilon_rdp": bare.privacy.epsilon_rdp}
    assert canonical_json(spelled) == bare.as_bytes()


def changed(plan: Plan, key: str, value: Any) -> bytes:
    """plan.json with one key of `start` put in by hand."""
    spelled: Any = plan.model_dump(mode="json")
    spelled["start"][key] = value
    return canonical_json(spelled)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("manifest", "ab", "manifest"),
        ("coordinator", "0" * 64, "start"),
        ("signature", "0" * 128, "start"),
        ("images", 0, "images"),
        ("images", 10**9, "images"),
        ("steps", 10**9, "steps"),
        ("plan", "{}", "start"),
        ("plan", "x" * (1 << 21), "bytes"),
        ("more", 1, "more"),
    ],
)
def test_a_start_that_is_none_is_refused(dummy_base: Path, key: str, value: Any, why: str) -> None:
    _, plan = pair(dummy_base)
    with pytest.raises(PlanChanged, match=why):
        Plan.from_bytes(changed(plan, key, value))


def test_an_ancestor_that_another_key_signed_is_refused(dummy_base: Path) -> None:
    ancestor, plan = pair(dummy_base)
    other = start_from(ancestor, Ed25519PrivateKey.generate())
    with pytest.raises(ValidationError, match="start"):
        Plan.model_validate(plan.model_dump() | {"start": other | {"coordinator": plan.start.coordinator}})  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("where", "value"),
    [("privacy.sigma", 1 << 50), ("privacy.max_attempts", 10**7), ("method.dimension", 1 << 40)],
)
def test_an_ancestor_of_huge_figures_is_refused_before_they_are_used(dummy_base: Path, where: str, value: int) -> None:
    ancestor, plan = pair(dummy_base)
    spelled: Any = ancestor.model_dump(mode="json")
    table, key = where.split(".")
    spelled[table][key] = value
    with pytest.raises(PlanChanged, match=key):
        Plan.from_bytes(changed(plan, "plan", canonical_json(spelled).decode()))


def test_a_successor_of_huge_figures_is_refused(dummy_base: Path) -> None:
    ancestor, _ = pair(dummy_base)
    for key, value in (("count", 10**7), ("sigma", 1 << 50), ("sampling_rate", 2.0), ("sensitivity", 0)):
        spelled: Any = ancestor.model_dump(mode="json")
        spelled["successor"]["events"][0][key] = value
        with pytest.raises(PlanChanged, match=key):
            Plan.from_bytes(canonical_json(spelled))
    spelled = ancestor.model_dump(mode="json")
    spelled["successor"]["events"] *= 5
    with pytest.raises(PlanChanged, match="events"):
        Plan.from_bytes(canonical_json(spelled))


def test_a_start_on_another_base_is_refused(dummy_base: Path) -> None:
    ancestor, plan = pair(dummy_base)
    model = plan.model.model_copy(update={"files": dict.fromkeys(plan.model.files, "0" * 64)})
    with pytest.raises(ValidationError, match="another base"):
        Plan.model_validate(plan.model_copy(update={"model": model}).model_dump())
    assert ancestor.model == plan.model


def test_classes_that_nothing_can_be_drawn_of_are_refused(dummy_base: Path) -> None:
    listed = {"class_column": "finding", "classes": ["clear", "mass"]}
    second = second_plan(dummy_base, data=listed)
    with pytest.raises(ValidationError, match="other classes"):
        started(second, first_plan(dummy_base))
    started(second, first_plan(dummy_base, data=listed | {"classes": ["mass", "clear", "edema"]}))
    started(second_plan(dummy_base), first_plan(dummy_base, data=listed))


def test_studies_make_no_chain(dummy_base: Path) -> None:
    ancestor, plan = pair(dummy_base)
    with pytest.raises(ValidationError, match="itself starts from a release"):
        started(second_plan(dummy_base), plan)
    with pytest.raises(ValidationError, match="no start of another"):
        Plan.model_validate(plan.model_dump() | {"successor": ancestor.successor.model_dump()})  # type: ignore[union-attr]


def test_a_rehearsal_has_neither(dummy_base: Path) -> None:
    for one in pair(dummy_base):
        rehearsal = rehearsal_of(one, "a-rehearsal")
        assert (rehearsal.start, rehearsal.successor) == (None, None)
        check_claim(rehearsal)
        with pytest.raises(ValidationError, match="a rehearsal starts from the base"):
            Plan.model_validate(one.model_dump() | {"rehearsal": True, "privacy": rehearsal.privacy.model_dump()})


def test_format_1_spells_neither(dummy_base: Path) -> None:
    for one in pair(dummy_base):
        with pytest.raises(ValidationError, match="no start and successor"):
            Plan.model_validate(one.model_dump() | {"format": 1})


# --- what is said ---------------------------------------------------------------------------------


def stated(plan: Plan) -> dict[str, Any]:
    everyone = TookPart(sorted(SITES), {}, len(SITES))
    return privacy_statement(plan, setting="simulation", ledger_head="0" * 64, charges=1, took_part=everyone)


def test_the_statement_lists_the_ancestor_and_says_one_claim(dummy_base: Path) -> None:
    ancestor, plan = pair(dummy_base)
    said = stated(plan)
    assert said["start"]["study"] == ancestor.study
    assert said["start"]["plan_digest"] == ancestor.digest
    assert said["start"]["manifest_sha256"] == "ab" * 32
    assert said["start"]["epsilon"] == said["guarantee"]["epsilon"] == ancestor.privacy.epsilon
    assert "One claim covers both" in said["start"]["together"]
    assert "together" in said["guarantee"]["claim"]
    assert stated(ancestor)["successor"]["events"] == [event.as_dict() for event in plan.charges]
    assert any("these two plans" in str(line) for line in trust_assumptions(plan))
    assert any(f"covers this study and {plan.study}" in str(line) for line in trust_assumptions(ancestor))


def test_without_a_joint_claim_both_figures_are_said_and_that_none_is_over_both(dummy_base: Path) -> None:
    ancestor = first_plan(dummy_base)
    plan = started(second_plan(dummy_base), ancestor)
    said = stated(plan)
    assert said["guarantee"]["epsilon"] == plan.privacy.epsilon != ancestor.privacy.epsilon
    assert said["start"]["epsilon"] == ancestor.privacy.epsilon
    assert "No figure is claimed over both" in said["start"]["together"]
    assert "filter" in said["start"]["together"]
    (line,) = [str(line) for line in trust_assumptions(plan) if "starts from the release" in str(line)]
    assert f"epsilon {ancestor.privacy.epsilon:.4g}" in line
    assert f"epsilon {plan.privacy.epsilon:.4g} by itself" in line
    assert not any("these two plans" in str(one) for one in trust_assumptions(plan))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"units_origin": "filled in by simulate"}, "The cohort's figures were counted from the images"),
        ({"sampling_rate": 0.5, "max_attempts": 2}, "How long a node takes is not protected"),
        ({"aggregation": secure(3, rosters="free"), "min_sites": 3}, "Which sites are in a sum is free"),
        ({"aggregation": secure(3), "min_sites": 3, "noise": "distributed"}, "Each site adds a noise share"),
    ],
)
def test_what_the_first_study_rests_on_is_said_of_the_second(
    dummy_base: Path, changes: dict[str, Any], words: str
) -> None:
    """Its images were drawn from that release, and a claim over both is no better than the worse of their grounds."""
    ancestor = first_plan(dummy_base, **changes)
    said = [str(line) for line in trust_assumptions(started(second_plan(dummy_base), ancestor))]
    own = [str(line) for line in trust_assumptions(ancestor) if words in str(line)]
    assert own
    assert all(f"Of {ancestor.study}: {line}" in said or line in said for line in own)
    assert len(said) == len(set(said))


def test_a_plan_without_either_says_what_it_always_said(dummy_base: Path) -> None:
    said = stated(make_plan(dummy_base, SITES))
    assert {"start", "successor"}.isdisjoint(said)


# --- from studies ---------------------------------------------------------------------------------


class Warm(DummyMethod):
    """The dummy, which can start from a release."""

    name = "dummy-warm"

    def warm_start(self, base: Any, latents: Any, classes: Any, steps: int, seed: int) -> Any:
        del base, classes, seed
        return np.full(self.dimension(None), latents.mean() * steps, dtype=np.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_a_first_study_of_several_stages_shares_out_what_its_successor_leaves(
    dummy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str
) -> None:
    """Were a stage's share one of both studies' epsilon, it would leave the last stage nothing here."""
    for method in (DummyMethod, Warm):
        monkeypatch.setitem(METHODS, method.name, method)
    common = {"privacy.noise": noise, "privacy.sampling_rate": 1.0}
    tables = study_with(common | {"method": {"name": "dummy-warm"}, "privacy.epsilon": 1.99}, str(dummy_base))
    second = write_study(tmp_path / "second.toml", tables)
    changes = {"privacy.epsilon": 2.0, "privacy.rounds": 5, "privacy.successor": str(second), "method.staged": True}
    plan = resolve(parse_study(study_with(common | changes, str(dummy_base))))
    assert plan.successor is not None
    assert 1.99 < plan.privacy.epsilon <= 2.0
    first, own = (epsilon_claim(events, 1e-5) for events in (plan.charges[:1], plan.charges))
    assert 0.05 < first / own < 0.3
    assert own < 0.2  # 1.99 and this compose to 2
    assert epsilon_claim(plan.successor.charges, 1e-5) <= 1.99
    check_claim(plan)
