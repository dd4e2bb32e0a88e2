"""The budget for ever (PRIVACY 13), against a slow accountant that shares no code with it."""

import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, rdp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mpmath import mpf

from tests.support.adversary import delta_of_the_adversary
from tests.support.budget import DIGITS, SlowAccountant, conversion, divergence, fields, plain_epsilon
from undertone.core.canonical import canonical_json, digest_of
from undertone.errors import BudgetExceeded, InputError, MechanismViolation, NotApproved, PlanChanged
from undertone.privacy import renyi
from undertone.privacy.accounting import RDP_ORDERS, Event, GaussianEvent, calibrate, epsilon_pld, epsilon_rdp
from undertone.privacy.cap import WHOLE, Cap, suggested
from undertone.privacy.distributed import DistributedEvent
from undertone.privacy.filter import Filter
from undertone.privacy.renyi import NOTHING, UNIT, Vector, draw, minus, plus, spend

DELTA = 1e-5
GRID = 1 << 20  # Delta in grid units


def gaussian(z: float, p: float = 1.0, count: int = 1) -> GaussianEvent:
    return GaussianEvent(round(z * GRID), GRID, p, count)


def shares(z: float, p: float = 1.0, count: int = 1, dimension: int = 1000) -> DistributedEvent:
    """Four shares that come to noise multiplier z together."""
    return DistributedEvent(round(z * 4096 / 2), 4, dimension, 4096, p, count)


# One of each kind, and what a float has trouble with.
KINDS = {
    "one-shot": gaussian(4.0),
    "sampled": gaussian(1.0, 0.01),
    "sampled, little noise": gaussian(0.5, 0.001),
    "sampled, much noise": gaussian(2.0**17, 0.5),
    "tiny rate": gaussian(1.0, 1e-9),
    "tinier rate": gaussian(1 / 16, 1e-30),
    "rate next to one": gaussian(2.0, 1 - 2.0**-53),
    "least noise, half": gaussian(1 / 16, 0.5),
    "distributed": shares(4.0),
    "distributed, sampled": shares(2.0, 0.05),
    "most noise": GaussianEvent(1 << 38, 1, 0.5, 1),
}


def exactly(event: Event) -> list[mpf]:
    return [divergence(fields(event.as_dict()), order) for order in RDP_ORDERS]


@pytest.fixture(autouse=True)
def many_digits() -> Iterator[None]:
    with mpmath.workdps(DIGITS):
        yield


# --- one event ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_charge_is_the_slow_accountants_rounded_up(kind: str) -> None:
    event = KINDS[kind]
    for ours, exact in zip(draw(event, 1), exactly(event), strict=True):
        assert exact <= mpf(ours) / UNIT < exact * (1 + mpf("1e-20")) + mpf(1) / UNIT


@pytest.mark.parametrize("kind", ["sampled", "sampled, little noise", "least noise, half", "distributed, sampled"])
def test_every_decimal_is_rounded_up(kind: str) -> None:
    """Before it is a whole number of units: all but the last digits are right, and what is wrong is too high."""
    event = KINDS[kind]
    variance = Fraction(event.noise_multiplier) ** 2 if isinstance(event, GaussianEvent) else Fraction(4)
    for ours, exact in zip(renyi._sampled(variance, event.sampling_rate), exactly(event), strict=True):
        assert exact < mpf(str(ours)) < exact * (1 + mpf("1e-30")) + mpf("1e-45")


@pytest.mark.parametrize("z", [0.06, 1e-4])
def test_with_next_to_no_noise_sampling_counts_for_nothing(z: float) -> None:
    assert draw(gaussian(z, 0.01), 1) == draw(gaussian(z), 1)
    # A noise of a sixteenth is where amplification begins, and below it nothing is cheaper than it should be.
    assert all(a <= b for a, b in zip(draw(gaussian(1 / 16, 0.99), 1), draw(gaussian(1 / 16), 1), strict=True))
    for ours, exact in zip(draw(gaussian(z, 0.01), 1), exactly(gaussian(z)), strict=True):
        assert exact <= mpf(ours) / UNIT <= exact + mpf(1) / UNIT


@pytest.mark.parametrize("kind", ["one-shot", "sampled", "distributed", "distributed, sampled", "rate next to one"])
@pytest.mark.parametrize("count", [1, 500])
def test_the_sum_is_dp_accountings_where_floats_are_good(kind: str, count: int) -> None:
    event = replace(KINDS[kind], count=count)
    vector = spend([event])
    best = min(vector[i] / UNIT + float(conversion(order, mpf(1), DELTA)) for i, order in enumerate(RDP_ORDERS))
    assert best == pytest.approx(epsilon_rdp([event], DELTA), rel=1e-9)


def test_floats_are_too_low_where_noise_is_large() -> None:
    """By 1e-5 of a divergence: why the sum of a budget is not dp-accounting's."""
    event = gaussian(2.0**18, 0.5)
    library = rdp.RdpAccountant(list(RDP_ORDERS))
    library.compose(PoissonSampledDpEvent(event.sampling_rate, GaussianDpEvent(event.noise_multiplier)))
    exact = exactly(event)
    assert any(mpf(theirs) < exact[i] * (1 - mpf("1e-6")) for i, theirs in enumerate(library.rdp))
    assert all(mpf(ours) / UNIT >= exact[i] for i, ours in enumerate(draw(event, 1)))


OTHER_ARITHMETIC = """
import sys
sys.modules["_decimal"] = None  # the decimals of Python's own, in place of those in C
from tests.privacy import test_filter
print(test_filter.figures_to_compare())
"""


def figures_to_compare() -> str:
    caps = [Cap.register(epsilon, delta).as_dict() for epsilon, delta in [(0.5, 1e-6), (4.0, DELTA), (10.0, DELTA)]]
    return digest_of([caps, list(map(str, draw(gaussian(1.0, 0.01), 7))), list(map(str, draw(shares(2.0, 0.3), 7)))])


def test_another_implementation_of_decimals_gives_the_same_integers() -> None:
    run = subprocess.run([sys.executable, "-c", OTHER_ARITHMETIC], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [figures_to_compare()]


def test_a_sum_does_not_depend_on_order_or_grouping() -> None:
    events = [gaussian(4.0, 0.1, 7), shares(3.0, 1.0, 2), gaussian(4.0, 0.1, 5)]
    together = spend(events)
    assert together == spend(events[::-1]) == plus(draw(events[0], 12), draw(events[1], 2))
    assert minus(together, draw(events[1], 2)) == draw(events[0], 12)
    assert spend([]) == NOTHING


def test_a_million_charges_take_no_longer_than_one() -> None:
    start = time.perf_counter()
    million = draw(gaussian(1.25, 0.0123), 10**6)
    assert time.perf_counter() - start < 1
    assert million == tuple(10**6 * single for single in draw(gaussian(1.25, 0.0123), 1))


def test_the_sum_of_shares_pays_for_not_being_one_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares are so wide that it is less than a unit, and it is rounded up to one."""
    exact = [order * UNIT // 32 for order in RDP_ORDERS]
    assert draw(replace(shares(4.0), shares=1, sigma_local=4 * 4096), 1) == tuple(exact)
    assert draw(shares(4.0), 1) == tuple(units + 1 for units in exact)
    monkeypatch.setattr(DistributedEvent, "log_ratio", property(lambda _: 0.125))
    for order, ours, without in zip(RDP_ORDERS, draw(shares(4.0, dimension=9), 1), exact, strict=True):
        more = (2 * order - 1) / (order - 1) / 8 * UNIT
        assert more <= ours - without <= more * (1 + 1e-9)


# --- the cap --------------------------------------------------------------------------------------

CAPS = [(epsilon, delta) for epsilon in (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0) for delta in (1e-5, 1e-6)]


def slow_cap(cap: Cap, order: int, share: mpf | None = None) -> mpf:
    """The formula of PRIVACY 13, as it stands there."""
    if share is None:
        share = mpf(cap.billionths[RDP_ORDERS.index(order)]) / WHOLE
    a = mpf(order)
    return mpf(cap.epsilon) - mpmath.log((a - 1) / a) + mpmath.log(a * share * mpf(cap.delta)) / (a - 1)


def at_one_order(order: int, units: int) -> Vector:
    """Spent at one order, and too much at all others."""
    return tuple(units if each == order else 10**9 * UNIT for each in RDP_ORDERS)


@pytest.mark.parametrize(("epsilon", "delta"), [*CAPS, (0.05, 1e-3), (100.0, 1e-9), (0.3, 9e-3)])
def test_each_order_admits_what_the_formula_says_and_not_a_unit_more(epsilon: float, delta: float) -> None:
    cap = Cap.register(epsilon, delta)
    for order, share in zip(RDP_ORDERS, cap.billionths, strict=True):
        if not share:
            assert slow_cap(cap, order, mpf(1) / 2) <= 0  # it dropped out: even with half of delta nothing fits
            assert not cap.admits(at_one_order(order, 0))
            continue
        most = int(mpmath.floor(slow_cap(cap, order) * UNIT))
        if most < 0:
            assert not cap.admits(at_one_order(order, 0))
            continue
        assert not cap.admits(at_one_order(order, most + 1))
        assert cap.admits(at_one_order(order, max(most - 2, 0)))
        assert cap.figure(at_one_order(order, most + 1)) > epsilon
        assert cap.figure(at_one_order(order, max(most - 2, 0))) <= epsilon


@pytest.mark.parametrize(("epsilon", "delta"), CAPS)
def test_weights_add_up_to_one_and_half_is_on_the_order_that_a_gaussian_uses_best(epsilon: float, delta: float) -> None:
    cap = Cap.register(epsilon, delta)
    best = max(RDP_ORDERS, key=lambda order: slow_cap(cap, order, mpf(1) / 2) / order)
    assert cap.billionths[RDP_ORDERS.index(best)] * 2 == WHOLE
    assert WHOLE - 100 <= sum(cap.billionths) <= WHOLE
    others = [share for order, share in zip(RDP_ORDERS, cap.billionths, strict=True) if order != best and share]
    assert all(low >= high for low, high in pairwise(others))


def test_a_caps_weights_are_the_same_on_every_machine_and_for_ever() -> None:
    """Ledgers hold them: they may not move."""
    cap = Cap.register(4, DELTA)
    assert digest_of(cap.as_dict()) == "d02e1e501ce553793105e86e06844ad1915a6fc4c8b7f831d71165368d8d71a6"
    assert Cap.from_dict(json.loads(canonical_json(cap.as_dict()))) == cap == Cap.register(4.0, DELTA)


def test_a_cap_keeps_the_weights_of_its_registration() -> None:
    """Should the rule for weights change some day, what was registered before is read as it was."""
    registered = {"epsilon": 4.0, "delta": DELTA, "billionths": {"3": 10**8, "6": 9 * 10**8}}
    cap = Cap.from_dict(registered)
    assert cap.as_dict() == registered
    assert not cap.admits(at_one_order(5, 0))
    assert cap.admits(at_one_order(6, int(slow_cap(cap, 6) * UNIT) - 2))


GOOD = {"epsilon": 4.0, "delta": DELTA, "billionths": {"6": WHOLE // 2, "8": WHOLE // 2}}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"billionths": {"6": WHOLE + 1}}, MechanismViolation, "more than one delta"),
        ({"billionths": {"6": WHOLE // 2, "7": WHOLE // 2 + 1}}, MechanismViolation, "more than one delta"),
        ({"billionths": {"6": WHOLE, "7": -1}}, MechanismViolation, "add up"),
        ({"billionths": {}}, MechanismViolation, "add up"),
        ({"billionths": {"6": 0.5}}, MechanismViolation, "whole number"),
        ({"billionths": {"6": True}}, MechanismViolation, "whole number"),
        ({"billionths": {"6": "7"}}, MechanismViolation, "whole number"),
        ({"billionths": {"1": 5}}, MechanismViolation, "no order '1'"),
        ({"billionths": {"65": 5}}, MechanismViolation, "no order '65'"),
        ({"billionths": [1, 2]}, MechanismViolation, "has the keys"),
        ({"more": 1}, MechanismViolation, "has the keys"),
        ({"epsilon": 0.0}, InputError, "epsilon is 0"),
        ({"epsilon": float("nan")}, InputError, "epsilon is nan"),
        ({"epsilon": 100.1}, InputError, "up to 100"),
        ({"epsilon": "4"}, InputError, "epsilon is '4'"),
        ({"delta": 0.01}, InputError, "below 0.01"),
        ({"delta": 0.0}, InputError, "delta is 0"),
        ({"delta": None}, InputError, "delta is None"),
    ],
)
def test_what_is_no_cap_is_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    Cap.from_dict(GOOD)
    with pytest.raises(error, match=words):
        Cap.from_dict({**GOOD, **change})


def test_a_key_may_not_be_missing() -> None:
    with pytest.raises(MechanismViolation, match="has the keys"):
        Cap.from_dict({"epsilon": 4.0, "delta": DELTA})


def test_a_cap_that_admits_nothing_is_refused_and_says_what_would() -> None:
    with pytest.raises(InputError, match=r"admits no plan at all; give more than 0\.0\d+") as refused:
        Cap.register(0.004, DELTA)
    least = float(str(refused.value).rsplit(" ", 1)[1])
    Cap.register(least * 1.01, DELTA)
    with pytest.raises(InputError, match="admits no plan"):
        Cap.register(least * 0.99, DELTA)


@pytest.mark.parametrize(("epsilon", "delta"), CAPS)
def test_the_filter_keeps_92_percent_of_a_gaussians_budget(epsilon: float, delta: float) -> None:
    """Of the rounds that fit where all is fixed beforehand, and each order may have all of delta."""
    cap = Cap.register(epsilon, delta)
    small = gaussian(1000.0)
    ours = cap.room(NOTHING, small)
    one = fields(small.as_dict())
    fixed = max(int((slow_cap(cap, order, mpf(1))) / divergence(one, order)) for order in RDP_ORDERS)
    assert (
        plain_epsilon({one: fixed}, delta, RDP_ORDERS) <= epsilon < plain_epsilon({one: fixed + 1}, delta, RDP_ORDERS)
    )
    assert 0.92 <= ours / fixed < 1


@pytest.mark.parametrize(
    ("z", "p", "rounds", "least"),
    [(0.7349, 0.01, 1000, 0.9), (0.5343, 0.001, 10_000, 0.9), (1.7618, 0.1, 200, 0.94), (0.5906, 0.01, 100, 0.89)],
)
def test_sampled_plans_with_little_noise_are_not_starved(z: float, p: float, rounds: int, least: float) -> None:
    """Each claims 4 by PLD. With the rest of the weight spread evenly, up to a third of its epsilon was taken."""
    plan = gaussian(z, p, rounds)
    assert epsilon_rdp([plan], DELTA) >= least * suggested(spend([plan]), DELTA).epsilon


# --- figures for people ---------------------------------------------------------------------------


def test_figures_of_the_page() -> None:
    """A plan that claims 1.000 by PLD claims 1.093 by RDP and takes 1.136 from its cap."""
    z = calibrate(1.0, DELTA, 1.0, 1)
    plan = GaussianEvent(int(z * GRID) + 1, GRID, 1.0, 1)
    assert epsilon_pld([plan], DELTA) == pytest.approx(1.0, abs=5e-4)
    assert epsilon_rdp([plan], DELTA) == pytest.approx(1.093, abs=5e-4)
    cap = suggested(spend([plan]), DELTA)
    assert cap.epsilon == 1.136
    assert cap.figure(spend([plan])) == pytest.approx(1.1358, abs=2e-4)


@pytest.mark.parametrize(("epsilon", "delta"), CAPS)
def test_what_is_left_is_what_an_unsampled_plan_may_claim_by_rdp(epsilon: float, delta: float) -> None:
    """By dp-accounting's figure; with half of it gone, and with nothing gone."""
    cap = Cap.register(epsilon, delta)
    for spent in (NOTHING, draw(gaussian(1000.0), cap.room(NOTHING, gaussian(1000.0)) // 2)):
        left = cap.left(spent)
        assert 0.3 * epsilon < left < epsilon
        most = cap.room(spent, gaussian(10_000.0))
        assert cap.admits(plus(spent, draw(gaussian(10_000.0), most)))
        assert not cap.admits(plus(spent, draw(gaussian(10_000.0), most + 1)))
        claim = epsilon_rdp([gaussian(10_000.0, count=most)], delta)
        more = epsilon_rdp([gaussian(10_000.0, count=most + 1)], delta)
        assert claim <= left * (1 + 1e-12)
        assert left <= more


def test_nothing_spent_is_nothing_and_a_full_cap_leaves_nothing() -> None:
    cap = Cap.register(2.0, DELTA)
    assert cap.figure(NOTHING) == 0
    most = cap.room(NOTHING, gaussian(1000.0))
    full = draw(gaussian(1000.0), most + 1)
    assert cap.left(full) == 0
    assert cap.room(full, gaussian(1000.0)) == 0
    assert cap.figure(draw(gaussian(1000.0), most)) <= 2.0 < cap.figure(full)


@settings(max_examples=40, deadline=None)
@given(z=st.floats(0.3, 40.0), p=st.sampled_from([1.0, 0.3, 0.01]), count=st.integers(1, 3000))
def test_a_suggested_cap_holds_the_plan(z: float, p: float, count: int) -> None:
    drawn = draw(gaussian(round(z, 2), p), count)
    try:
        cap = suggested(drawn, DELTA)
    except InputError:
        assert not Cap.register(100.0, DELTA).admits(drawn)
        return
    assert cap.admits(drawn)
    assert cap == Cap.register(cap.epsilon, DELTA)
    assert round(cap.epsilon * 1000) == pytest.approx(cap.epsilon * 1000)
    if p == 1 and cap.epsilon > 0.05:
        assert not Cap.register(cap.epsilon - 0.001, DELTA).admits(drawn)


def test_a_suggestion_needs_a_delta() -> None:
    with pytest.raises(InputError, match="delta is 1"):
        suggested(NOTHING, 1.0)


# --- approvals ------------------------------------------------------------------------------------


def plan_of(epsilon: float, rounds: int = 10, beside: Vector = NOTHING, cap: Cap | None = None) -> GaussianEvent:
    """The unsampled plan whose figure, beside what is spent, is the largest up to `epsilon`."""
    cap = cap or Cap.register(4.0, DELTA)
    low, high = 1, 1 << 38  # sigma; figures fall with it
    while low < high:
        middle = (low + high) // 2
        fits = cap.figure(plus(beside, spend([GaussianEvent(middle, GRID, 1.0, rounds)]))) <= epsilon
        low, high = (low, middle) if fits else (middle + 1, high)
    return GaussianEvent(low, GRID, 1.0, rounds)


@pytest.mark.parametrize("second", [gaussian(9.0), gaussian(2.0, 0.05, 100), shares(9.0, 1.0, 10)])
def test_two_studies_that_claim_the_cap_together_pass_and_a_thousandth_more_is_refused(second: Event) -> None:
    cap = Cap.register(4.0, DELTA)
    first = plan_of(4.0, beside=spend([second]), cap=cap)
    assert 3.99999 < cap.figure(spend([first, second])) <= 4.0
    both = Filter(cap).approve("a" * 64, [first]).approve("b" * 64, [second])
    assert both.figures().committed == cap.figure(spend([first, second]))
    more = plan_of(4.001, beside=spend([second]), cap=cap)
    assert 4.0 < cap.figure(spend([more, second])) <= 4.001
    for order in ([more, second], [second, more]):
        with pytest.raises(BudgetExceeded, match=r"is 4\.001, above the cap"):
            Filter(cap).approve("a" * 64, [order[0]]).approve("b" * 64, [order[1]])


def test_a_refusal_says_spent_reserved_needed_cap_and_what_to_do() -> None:
    cap = Cap.register(4.0, DELTA)
    budget = Filter(cap).approve("a" * 64, [plan_of(3.0)]).spend("a" * 64, plan_of(3.0, 10))
    budget = budget.free("a" * 64).approve("b" * 64, [plan_of(2.0, 20)])
    with pytest.raises(BudgetExceeded) as refused:
        budget.approve("c" * 64, [plan_of(3.5, 100)])
    words = str(refused.value)
    assert "plan cccccccc needs epsilon 3.500" in words
    assert "of the cap of epsilon 4 at delta 1e-05, 3.000 is spent" in words
    assert f"and {math.ceil(budget.figures().committed * 1000) / 1000:.3f} spent and reserved" in words
    assert "above the cap" in words
    assert "reservation (bbbbbbbb)" in words
    room = cap.room(budget.committed, plan_of(3.5, 100))
    assert 0 < room < 100
    assert f"{room} of its attempts would fit" in words
    budget.approve("c" * 64, [replace(plan_of(3.5, 100), count=room)])
    with pytest.raises(BudgetExceeded):
        budget.approve("c" * 64, [replace(plan_of(3.5, 100), count=room + 1)])


def test_a_plan_of_stages_reserves_each_of_its_events() -> None:
    stages = [gaussian(9.0, 1.0, 1), gaussian(2.0, 0.05, 10)]
    budget = Filter(Cap.register(4.0, DELTA)).approve("a", stages)
    assert budget.committed == spend(stages)
    budget = budget.spend("a", gaussian(2.0, 0.05)).spend("a", gaussian(9.0))
    with pytest.raises(BudgetExceeded, match="reserved 1 charges of this kind and 2"):
        budget.spend("a", gaussian(9.0))
    budget = budget.spend("a", gaussian(2.0, 0.05, 9))
    assert budget.spent == budget.committed == spend(stages)


def test_unused_reservation_is_free_again_and_what_was_charged_is_not() -> None:
    plan = plan_of(3.9, 10)
    one = replace(plan, count=1)
    budget = Filter(Cap.register(4.0, DELTA)).approve("a", [plan])
    for _ in range(4):
        budget = budget.spend("a", one)
    with pytest.raises(BudgetExceeded):
        budget.approve("b", [replace(plan, count=6)])
    after = budget.free("a")
    assert after.committed == after.spent == draw(one, 4)
    with pytest.raises(BudgetExceeded):
        after.approve("b", [replace(plan, count=7)])
    assert after.approve("b", [replace(plan, count=6)]).committed == spend([plan])
    again = after.approve("a", [plan])
    assert again.committed == spend([plan])
    assert again.spent == draw(one, 4)
    with pytest.raises(BudgetExceeded, match="reserved 10 charges of this kind and 11"):
        again.spend("a", replace(plan, count=7))


def test_a_renamed_study_another_coordinator_and_a_second_user_get_no_fresh_budget() -> None:
    """A filter knows digests alone: whoever asks, all is one sum."""
    plan = plan_of(4.0, 10)
    budget = Filter(Cap.register(4.0, DELTA)).approve("a", [plan]).spend("a", plan).free("a")
    for digest in ("renamed", "another coordinator", "second user"):
        with pytest.raises(BudgetExceeded, match=r"4\.000 is spent"):
            budget.approve(digest, [replace(plan, count=1)])


def test_only_an_approved_plan_charges_and_only_its_own_events() -> None:
    plan = gaussian(9.0, 1.0, 2)
    new = Filter(Cap.register(4.0, DELTA))
    budget = new.approve("a", [plan])
    with pytest.raises(NotApproved, match="holds no reservation"):
        new.spend("a", gaussian(9.0))
    with pytest.raises(NotApproved, match="nothing to free"):
        new.free("a")
    with pytest.raises(NotApproved, match="ended, expired or been withdrawn"):
        budget.free("a").spend("a", gaussian(9.0))
    with pytest.raises(NotApproved, match="nothing to free"):
        budget.free("a").free("a")
    for other in (gaussian(8.0), gaussian(9.0, 0.5), shares(9.0)):
        with pytest.raises(MechanismViolation, match="no event of plan a"):
            budget.spend("a", other)
    with pytest.raises(MechanismViolation, match="approved already"):
        budget.approve("a", [plan])
    with pytest.raises(PlanChanged, match="other events"):
        budget.free("a").approve("a", [replace(plan, count=3)])
    with pytest.raises(MechanismViolation, match="no event"):
        new.approve("a", [])


def test_a_filter_over_its_cap_charges_nothing_any_more() -> None:
    """Nothing here leads there; a ledger that somebody has changed may."""
    plan = plan_of(3.0, 10)
    budget = Filter(Cap.register(4.0, DELTA)).approve("a", [plan])
    with pytest.raises(BudgetExceeded, match=r"2\.\d+ spent and reserved; nothing is charged"):
        replace(budget, cap=Cap.register(2.0, DELTA)).spend("a", replace(plan, count=1))


def test_a_filter_is_a_value() -> None:
    plan = gaussian(9.0, 1.0, 2)
    new = Filter(Cap.register(4.0, DELTA))
    approved = new.approve("a", [plan])
    charged = approved.spend("a", gaussian(9.0))
    assert new == Filter(Cap.register(4.0, DELTA))
    assert approved == new.approve("a", [plan])
    assert approved.spent == NOTHING
    assert charged.spent == draw(plan, 1)


def test_a_charge_computes_no_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    from undertone.privacy import filter as module

    budget = Filter(Cap.register(4.0, DELTA)).approve("a", [gaussian(300.0, 1.0, 10_000)])
    monkeypatch.setattr(module, "spend", lambda events: pytest.fail("a charge was added up"))
    start = time.perf_counter()
    for _ in range(10_000):
        budget = budget.spend("a", gaussian(300.0))
    assert time.perf_counter() - start < 5


# --- whoever chooses plans, in whatever order -------------------------------------------------------

FAVOUR_LOW, FAVOUR_HIGH = gaussian(0.8, 0.01), gaussian(8.0)


def best_order(event: Event, delta: float) -> int:
    counts = {fields(event.as_dict()): 20}
    return min(RDP_ORDERS, key=lambda order: plain_epsilon(counts, delta, (order,)))


@pytest.mark.parametrize("first", [0, 1])
def test_who_alternates_events_that_favour_different_orders_stays_within_the_cap(first: int) -> None:
    """One charge a plan, each chosen after the last, until neither fits."""
    assert best_order(FAVOUR_LOW, 1e-4) < best_order(FAVOUR_HIGH, 1e-4)
    budget = Filter(Cap.register(2.0, 1e-4))
    accountant = SlowAccountant(budget.cap.as_dict())
    refused = number = 0
    while refused < 2:
        event = (FAVOUR_LOW, FAVOUR_HIGH)[(number + first) % 2]
        number += 1
        try:
            approved = budget.approve(str(number), [event])
        except BudgetExceeded:
            refused += 1
            continue
        refused = 0
        budget = approved.spend(str(number), event)
        accountant.charge(event.as_dict())
        assert number < 200
    assert accountant.finds() <= 2.0
    assert accountant.finds({fields(FAVOUR_LOW.as_dict()): 1}) > 2.0
    assert accountant.finds({fields(FAVOUR_HIGH.as_dict()): 1}) > 2.0


def by_the_filter(*kinds: Event) -> Callable[[tuple[int, ...]], bool]:
    """Whether one plan of so many charges of each kind is approved."""
    budget = Filter(Cap.register(2.0, 1e-4))

    def admits(counts: tuple[int, ...]) -> bool:
        try:
            budget.approve("a", [replace(kind, count=n) for kind, n in zip(kinds, counts, strict=True) if n])
        except BudgetExceeded:
            return False
        return True

    return admits


@pytest.mark.parametrize(
    "prefers",
    [
        pytest.param(lambda losses, _: np.where(losses > 1, 0, 1), id="much noise after a large loss"),
        pytest.param(lambda losses, _: np.where(losses > 1, 1, 0), id="little noise after a large loss"),
        pytest.param(lambda losses, counts: np.full(losses.size, sum(counts) % 2), id="in turn"),
    ],
)
def test_the_true_delta_of_who_sees_every_loss_is_below_the_caps(prefers: Callable[..., Any]) -> None:
    """Computed from the law of the losses, with no divergence at all; a tenth of the cap's delta is reached."""
    admits = by_the_filter(FAVOUR_HIGH, FAVOUR_LOW)
    delta = delta_of_the_adversary([(8.0, 1.0), (0.8, 0.01)], 2.0, admits, prefers)
    assert 1e-8 < delta < 1e-4


def test_the_same_adversary_breaks_a_budget_that_is_given_out_twice() -> None:
    """And where nothing depends on what came out, its delta is that of PLD."""
    once = by_the_filter(FAVOUR_HIGH)
    most = max(n for n in range(1, 100) if once((n,)))
    high = [(8.0, 1.0)]
    first = delta_of_the_adversary(high, 2.0, once, lambda losses, _: np.zeros(losses.size, dtype=np.int64))
    assert epsilon_pld([replace(FAVOUR_HIGH, count=most)], first) == pytest.approx(2.0, rel=0.01)

    def twice(counts: tuple[int, ...]) -> bool:
        return all(n <= most for n in counts)

    def in_turn(losses: Any, counts: tuple[int, ...]) -> Any:
        return np.full(losses.size, sum(counts) % 2)

    assert delta_of_the_adversary(high * 2, 2.0, twice, in_turn) > 1e-3


# Large pieces of a small cap, so that refusals are common: each kind, favouring low, middle and high orders.
POOL: list[Event] = [
    gaussian(6.0),
    gaussian(12.0),
    gaussian(0.8, 0.01),
    gaussian(0.6, 0.002),
    gaussian(3.0, 0.3),
    shares(8.0),
    shares(2.0, 0.05),
]


class Interleavings(RuleBasedStateMachine):
    """Approvals, charges, voids, ends and crashes in any order, by studies that know of each other.

    The model keeps what each plan may still charge; the slow accountant keeps every charge that was ever made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cap = Cap.register(2.0, DELTA)
        self.budget = Filter(self.cap)
        self.accountant = SlowAccountant(self.cap.as_dict())
        self.log: list[Callable[[Filter], Filter]] = []
        self.plans: dict[str, list[Event]] = {}
        self.left: dict[str, Counter[Event]] = {}
        self.live: set[str] = set()

    def enter(self, step: Callable[[Filter], Filter]) -> None:
        """As a ledger does: the entry is allowed first, then durable, then known."""
        after = step(self.budget)
        self.log.append(step)
        self.budget = after

    def reserved(self, *digests: str) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        for digest in digests:
            for event, count in self.left[digest].items():
                counts[fields(event.as_dict())] += count
        return counts

    def approve(self, digest: str) -> None:
        events = self.plans[digest]
        wanted = self.reserved(*self.live, digest)
        try:
            self.enter(lambda budget: budget.approve(digest, events))
        except BudgetExceeded:
            assert self.accountant.finds(wanted) > self.cap.epsilon - 1e-12, "refused, and it would have fitted"
        else:
            assert self.accountant.finds(wanted) <= self.cap.epsilon, "approved above the cap"
            self.live.add(digest)

    @rule(kinds=st.lists(st.tuples(st.sampled_from(POOL), st.integers(1, 25)), min_size=1, max_size=2))
    def a_new_plan(self, kinds: list[tuple[Event, int]]) -> None:
        digest = f"{len(self.plans):064d}"
        self.plans[digest] = [replace(event, count=count) for event, count in kinds]
        self.left[digest] = Counter()
        for event, count in kinds:
            self.left[digest][event] += count
        self.approve(digest)

    @precondition(lambda self: set(self.plans) - self.live)
    @rule(data=st.data())
    def an_old_plan_again(self, data: st.DataObject) -> None:
        self.approve(data.draw(st.sampled_from(sorted(set(self.plans) - self.live))))

    @precondition(lambda self: any(+self.left[digest] for digest in self.live))
    @rule(data=st.data(), void=st.booleans())
    def a_charge(self, data: st.DataObject, void: bool) -> None:
        """It never fails within its reservation; where the attempt is void afterwards, nothing comes back."""
        digest = data.draw(st.sampled_from(sorted(digest for digest in self.live if +self.left[digest])))
        event = data.draw(st.sampled_from(sorted(+self.left[digest], key=repr)))
        self.enter(lambda budget: budget.spend(digest, event))
        self.left[digest][event] -= 1
        self.accountant.charge(event.as_dict())
        if void:
            assert self.budget.spent == spend(self._charged())

    @precondition(lambda self: self.live)
    @rule(data=st.data(), why=st.sampled_from(["ended", "withdrawn", "expired"]))
    def an_end(self, data: st.DataObject, why: str) -> None:
        digest = data.draw(st.sampled_from(sorted(self.live)))
        self.enter(lambda budget: budget.free(digest))
        self.live.discard(digest)
        with pytest.raises(NotApproved):
            self.budget.spend(digest, self.plans[digest][0])

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def one_charge_too_many(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.live)))
        event, left = data.draw(st.sampled_from(sorted(self.left[digest].items(), key=repr)))
        with pytest.raises(BudgetExceeded):
            self.budget.spend(digest, replace(event, count=left + 1))

    @rule()
    def a_crash(self) -> None:
        """What a ledger's entries give is what was there."""
        again = Filter(Cap.from_dict(json.loads(canonical_json(self.cap.as_dict()))))
        for step in self.log:
            again = step(again)
        assert again == self.budget

    def _charged(self) -> list[Event]:
        return [
            replace(event, count=count)
            for digest, events in self.plans.items()
            for event, allowed in Counter(
                {one: sum(e.count for e in events if replace(e, count=1) == one) for one in self.left[digest]}
            ).items()
            if (count := allowed - self.left[digest][event])
        ]

    @invariant()
    def what_was_charged_is_never_above_the_cap(self) -> None:
        assert not self.accountant.charges or self.accountant.finds() <= self.cap.epsilon

    @invariant()
    def nor_would_it_be_if_every_plan_charged_all_it_may(self) -> None:
        reserved = self.reserved(*self.live)
        charged = bool(self.accountant.charges or +reserved)
        assert not charged or self.accountant.finds(reserved) <= self.cap.epsilon

    @invariant()
    def sums_are_exact(self) -> None:
        reserved = [replace(e, count=n) for digest in self.live for e, n in (+self.left[digest]).items()]
        assert self.budget.spent == spend(self._charged())
        assert self.budget.committed == plus(self.budget.spent, spend(reserved))

    def teardown(self) -> None:
        """No approved study starves: all charge all they may, the last approved first, and the cap holds."""
        for digest in sorted(self.live, reverse=True):
            for event, count in (+self.left[digest]).items():
                for _ in range(count):
                    self.budget = self.budget.spend(digest, event)
                self.accountant.charge(event.as_dict(), count)
        self.what_was_charged_is_never_above_the_cap()


def interleaved(examples: int) -> settings:
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=quiet)


class LongInterleavings(Interleavings):
    """The same, more often."""


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = interleaved(40)
TestLongInterleavings = pytest.mark.slow(LongInterleavings.TestCase)
TestLongInterleavings.settings = interleaved(500)
