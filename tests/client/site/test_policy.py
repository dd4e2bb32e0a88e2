"""policy.toml is fail closed: what it does not say is refused, and a plan's violations are all named at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.approvals import HUB, wide_policy
from tests.support.lineage import first_plan, second_plan, started
from tests.support.world import make_plan, secure
from undertone.core.config import parse_tables
from undertone.core.keys import PLAN_DOMAIN, create_key, public_hex, sign
from undertone.errors import NotApproved, StudyError
from undertone.study.plan import Plan
from undertone_client.approval.unattended import narrowest_policy
from undertone_client.site.policy import Policy
from undertone_client.site.violations import check_policy, violations

UNITS = {"north": 40, "east": 30, "south": 30, "west": 20}
KEY = "ab" * 32
Planned = Callable[..., Plan]


@pytest.fixture
def planned(dummy_base: Path, dummy_method: None) -> Planned:
    """A plan of four sites with secure aggregation and central noise, but for some of its numbers."""
    del dummy_method

    def made(**changes: Any) -> Plan:
        defaults: dict[str, Any] = {"aggregation": secure(4), "min_sites": 3, "sampling_rate": 0.5, "rounds": 2}
        return make_plan(dummy_base, UNITS, **defaults | {"max_attempts": 3} | changes)

    return made


def allowed(plan: Plan, **changes: Any) -> Policy:
    """A policy that allows the plan, but for some keys."""
    return Policy.model_validate(wide_policy(plan, KEY).model_dump() | changes)


def test_an_empty_policy_allows_nothing_of_a_plan(planned: Planned) -> None:
    found = violations(planned(), parse_tables(Policy, {}, "policy.toml"))
    keys = ["methods", "models", "noise", "largest_sampling_rate", "largest_rounds"]
    assert [one.key for one in found] == [*keys, "fewest_sites", "fewest_patients", "fewest_honest_shares"]
    assert all(one.policy == "nothing" for one in found)
    with pytest.raises(NotApproved, match=r"no coordinator that policy\.toml names"):
        Policy().coordinator_of(planned().digest, "ab" * 64)


def test_a_policy_that_was_written_for_a_plan_allows_it(planned: Planned) -> None:
    for plan in (planned(), planned(aggregation={"mode": "plain", "threshold": 0, "colluders": 0}), shared(planned)):
        assert violations(plan, allowed(plan)) == []
        assert violations(plan, narrowest_policy(plan, HUB, KEY)) == []


def shared(planned: Planned, **changes: Any) -> Plan:
    return planned(noise="distributed", **changes)


FREE = secure(4, rosters="free")
# name -> what of the plan, what of the policy; the one key that is violated; words of the violation
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "another method": ({}, {"methods": ["other"]}, "methods", "the plan says dummy, the policy other"),
    "another base": ({}, {"models": ["0" * 64]}, "models", "the policy 00000000"),
    "central noise": ({}, {"noise": ["distributed"]}, "noise", "the plan says central, the policy distributed"),
    "distributed noise": ({"noise": "distributed"}, {"noise": ["central"]}, "noise", "the plan says distributed"),
    "a higher p": ({}, {"largest_sampling_rate": 0.49}, "largest_sampling_rate", "the plan says 0.5, the policy 0.49"),
    "more rounds": ({}, {"largest_rounds": 1}, "largest_rounds", "the plan says 2 rounds in up to 3 attempts"),
    "more attempts": ({}, {"largest_rounds": 2}, "largest_rounds", "the policy 2; 3 or more would do"),
    "fewer sites": ({}, {"fewest_sites": 4}, "fewest_sites", "the plan says 3 (the sites of the smallest sum)"),
    "fewer patients": ({}, {"fewest_patients": 121}, "fewest_patients", "the plan says 120"),
    "no patients": ({"unit": "record"}, {"fewest_patients": 1}, "fewest_patients", "its unit is a record"),
    "fewer honest shares": ({}, {"fewest_honest_shares": 3}, "fewest_honest_shares", "the plan says 2 (t - c)"),
    "fewer noise shares": (
        {"noise": "distributed"},
        {"fewest_honest_shares": 3},
        "fewest_honest_shares",
        "the plan says 2 (t - c)",
    ),
    "free rosters": (
        {"aggregation": FREE},
        {"allow_free_rosters": False},
        "allow_free_rosters",
        "learn one site's sum",
    ),
    "figures that nobody published": (
        {"units_origin": "filled in by simulate"},
        {"allow_filled_in_figures": False},
        "allow_filled_in_figures",
        "the plan says that its figures are filled in by simulate, the policy false",
    ),
    "plain": (
        {"aggregation": {"mode": "plain", "threshold": 0, "colluders": 0}},
        {"allow_plain": False},
        "allow_plain",
        "the coordinator sees each site's sum",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_policy_does_not_allow_is_named(planned: Planned, case: str) -> None:
    plan_changes, policy_changes, key, words = REFUSED[case]
    plan = planned(**plan_changes)
    (found,) = violations(plan, allowed(plan, **policy_changes))
    assert found.key == key
    assert words in str(found)
    with pytest.raises(NotApproved, match=f"north does not allow plan {plan.digest[:8]}: {key}"):
        check_policy(plan, allowed(plan, **policy_changes), "north")


@pytest.mark.parametrize("case", REFUSED)
def test_at_the_very_bound_a_plan_is_allowed(planned: Planned, case: str) -> None:
    """Each bound is inclusive: what the narrowest policy says is what the plan says."""
    plan = planned(**REFUSED[case][0])
    assert violations(plan, narrowest_policy(plan, HUB, KEY)) == []


def test_figures_of_the_study_that_it_starts_from_count_too(dummy_base: Path, dummy_method: None) -> None:
    """What was counted from images stands in its plan, and the claim of both covers nobody's count."""
    del dummy_method
    second = second_plan(dummy_base)
    plan = started(second, first_plan(dummy_base, second, units_origin="filled in by simulate"))
    assert (plan.joint, plan.cohort.units_origin) == (True, "published")
    (found,) = violations(plan, allowed(plan, allow_filled_in_figures=False))
    assert "the figures of dummy-study are filled in by simulate, the policy false" in str(found)
    assert violations(plan, narrowest_policy(plan, HUB, KEY)) == []
    fine = started(second, first_plan(dummy_base, second))
    assert violations(fine, allowed(fine, allow_filled_in_figures=False)) == []


def test_all_violations_are_named_at_once(planned: Planned) -> None:
    plan = planned(aggregation=FREE)
    policy = allowed(plan, methods=[], largest_sampling_rate=0.1, fewest_sites=10, allow_free_rosters=False)
    keys = ["methods", "largest_sampling_rate", "fewest_sites", "allow_free_rosters"]
    assert [one.key for one in violations(plan, policy)] == keys
    with pytest.raises(NotApproved) as caught:
        check_policy(plan, policy, "north")
    assert all(f"{key}: the plan says" in str(caught.value) for key in keys)


def test_bounds_on_what_a_coordinator_sees_do_not_bind_distributed_noise(planned: Planned) -> None:
    plan = shared(planned)
    assert violations(plan, allowed(plan, largest_sampling_rate=None, largest_rounds=None)) == []


def test_names_that_a_coordinator_chose_stay_on_one_line(planned: Planned) -> None:
    plan = planned()
    model = plan.model.model_copy(update={"base": "a\n\x1b[31mb" + "c" * 4000})
    plan = plan.model_copy(update={"model": model, "method": plan.method.model_copy(update={"name": "x\ny"})})
    for found in violations(plan, Policy()):
        assert str(found).isprintable()
        assert len(str(found)) < 600


# --- coordinators and approvers -------------------------------------------------------------------


def test_each_of_several_coordinators_is_known_by_its_own_key(planned: Planned, tmp_path: Path) -> None:
    keys = {name: create_key(tmp_path / name) for name in ("hub", "lab", "stranger")}
    policy = Policy(coordinators={name: public_hex(keys[name]) for name in ("hub", "lab")})
    digest = planned().digest
    for name in ("hub", "lab"):
        assert policy.coordinator_of(digest, sign(keys[name], PLAN_DOMAIN, digest)) == name
    for signature in (sign(keys["stranger"], PLAN_DOMAIN, digest), sign(keys["hub"], b"other\x00", digest), "", "zz"):
        with pytest.raises(NotApproved, match="by no coordinator"):
            policy.coordinator_of(digest, signature)


@pytest.mark.parametrize(
    "tables",
    [
        {"coordinators": {"a": KEY, "b": KEY}},
        {"coordinators": {"a": KEY}, "approvers": {"b": KEY}},
        {"approvers": {"a": KEY, "b": KEY}},
    ],
)
def test_one_key_under_two_names_is_refused(tables: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="one key under two names"):
        parse_tables(Policy, tables, "policy.toml")


def test_keys_of_before_are_named_with_what_took_their_place() -> None:
    with pytest.raises(StudyError, match="unknown key coordinator; did you mean coordinators"):
        parse_tables(Policy, {"coordinator": KEY}, "policy.toml")


def test_every_key_says_what_it_is_for() -> None:
    assert all((field.description or "").endswith(".") for field in Policy.model_fields.values())
