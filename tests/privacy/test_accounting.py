"""Epsilon against other people's accountants and against the exact Gaussian."""

import json
import math
from itertools import pairwise

import pytest
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis import rdp as opacus_rdp
from scipy import optimize, stats

from undertone.errors import MechanismViolation, StudyError
from undertone.privacy.accounting import (
    RDP_ORDERS,
    GaussianEvent,
    calibrate,
    epsilon_pld,
    epsilon_rdp,
    epsilon_spent,
)

DELTA = 1e-5
UNIT = 1 << 20  # Delta in grid units

# (p, z, T)
QUICK = [(1.0, 1.0, 1), (1.0, 40.0, 1000), (0.01, 1.0, 1000), (0.1, 2.0, 100), (0.5, 5.0, 50), (0.05, 2.0, 500)]
SLOW = [(0.001, 0.7, 10_000), (0.02, 1.0, 5000), (0.2, 3.0, 2000), (0.3, 0.6, 20), (0.9, 8.0, 200), (0.01, 0.5, 100)]
GRID = [*QUICK, *(pytest.param(*point, marks=pytest.mark.slow) for point in SLOW)]


def event(p: float, z: float, count: int) -> GaussianEvent:
    return GaussianEvent(sigma=round(z * UNIT), sensitivity=UNIT, sampling_rate=p, count=count)


def exact_gaussian_epsilon(z: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, solved for epsilon."""

    def excess(epsilon: float) -> float:
        first = stats.norm.cdf(1 / (2 * z) - epsilon * z)
        second = math.exp(epsilon + stats.norm.logcdf(-1 / (2 * z) - epsilon * z))
        return float(first - second - delta)

    return float(optimize.brentq(excess, 0.0, 100.0, xtol=1e-12))


@pytest.mark.parametrize(("p", "z", "count"), GRID)
def test_pld_is_below_rdp(p: float, z: float, count: int) -> None:
    events = [event(p, z, count)]
    assert 0 < epsilon_pld(events, DELTA) < epsilon_rdp(events, DELTA)


@pytest.mark.parametrize(("p", "z", "count"), GRID)
def test_rdp_is_opacus_rdp_at_equal_orders(p: float, z: float, count: int) -> None:
    ours = event(p, z, count)
    theirs = opacus_rdp.compute_rdp(q=p, noise_multiplier=ours.noise_multiplier, steps=count, orders=list(RDP_ORDERS))
    epsilon, _ = opacus_rdp.get_privacy_spent(orders=list(RDP_ORDERS), rdp=theirs, delta=DELTA)
    assert epsilon_rdp([ours], DELTA) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize(
    ("p", "z", "count"), [QUICK[0], *(pytest.param(*point, marks=pytest.mark.slow) for point in [*QUICK[1:], *SLOW])]
)
def test_pld_is_within_two_percent_of_opacus_prv(p: float, z: float, count: int) -> None:
    theirs = PRVAccountant()
    theirs.history = [(z, p, count)]
    assert epsilon_pld([event(p, z, count)], DELTA) == pytest.approx(
        theirs.get_epsilon(DELTA, eps_error=1e-3), rel=0.02
    )


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize(("z", "count"), [(0.3, 1), (1.0, 1), (5.0, 1), (60.0, 1), (10.0, 100)])
def test_pld_of_the_plain_gaussian_is_exact_and_never_below(z: float, count: int, delta: float) -> None:
    exact = exact_gaussian_epsilon(z / math.sqrt(count), delta)
    ours = epsilon_pld([event(1.0, z, count)], delta)
    assert exact * (1 - 1e-6) <= ours <= exact * 1.001


def test_figures_that_were_worked_out_before() -> None:
    # z, p and T of studies that were planned.
    assert epsilon_pld([event(0.05, 2.0, 500)], DELTA) == pytest.approx(2.53, abs=0.005)
    assert epsilon_pld([event(0.01, 1.0, 1000)], DELTA) == pytest.approx(1.8282, abs=1e-4)
    assert epsilon_pld([event(1.0, 40.0, 1000)], DELTA) == pytest.approx(3.34141, abs=1e-4)


def test_epsilon_grows_with_rate_and_count_and_falls_with_noise_and_delta() -> None:
    for figure in (epsilon_pld, epsilon_rdp):
        by_noise = [figure([event(0.1, z, 20)], DELTA) for z in (4.0, 2.0, 1.9, 1.0)]
        by_rate = [figure([event(p, 2.0, 20)], DELTA) for p in (0.01, 0.1, 0.11, 0.999, 1.0)]
        by_count = [figure([event(0.1, 2.0, count)], DELTA) for count in (1, 20, 21, 200)]
        by_delta = [figure([event(0.1, 2.0, 20)], delta) for delta in (1e-3, 1e-5, 1e-8)]
        for figures in (by_noise, by_rate, by_count, by_delta):
            assert all(low < high for low, high in pairwise(figures))


def test_single_charges_give_the_plans_figure_to_the_bit() -> None:
    once, other = event(0.1, 2.0, 1), event(1.0, 9.0, 1)
    planned = [event(0.1, 2.0, 12), event(1.0, 9.0, 3)]
    charged = [once] * 5 + [other] * 2 + [once] * 7 + [other]
    for figure in (epsilon_pld, epsilon_rdp):
        assert figure(charged, DELTA) == figure(planned, DELTA) == figure(planned[::-1], DELTA)


def test_different_events_compose() -> None:
    together = [event(0.1, 2.0, 12), event(1.0, 9.0, 3)]
    for figure in (epsilon_pld, epsilon_rdp):
        parts = [figure([part], DELTA / 2) for part in together]
        assert max(parts) * 0.9 < figure(together, DELTA) < sum(parts)


@pytest.mark.parametrize(("p", "z", "count"), [(0.05, 2.0, 30), (1.0, 40.0, 100)])
def test_the_odometer_is_never_below_and_hardly_above(p: float, z: float, count: int) -> None:
    claim = epsilon_pld([event(p, z, count)], DELTA)
    assert claim <= epsilon_spent([event(p, z, count)], DELTA) < claim + 3e-6 * count
    assert epsilon_spent([], DELTA) == 0


def test_nothing_charged_costs_nothing() -> None:
    assert epsilon_pld([], DELTA) == 0
    assert epsilon_rdp([], DELTA) == 0


@pytest.mark.parametrize(
    ("epsilon", "delta", "p", "rounds"),
    [
        (4.0, 1e-5, 1.0, 1),
        (1.0, 1e-5, 0.1, 200),
        (0.1, 1e-6, 0.01, 5000),
        (0.5, 1e-5, 1.0, 100),
        pytest.param(2.0, 1e-5, 0.01, 1000, marks=pytest.mark.slow),
        pytest.param(8.0, 1e-5, 0.5, 20, marks=pytest.mark.slow),
        pytest.param(12.112, 1e-5, 0.5, 1, marks=pytest.mark.slow),  # z = 0.4, where the step width changes
        pytest.param(12.10, 1e-5, 0.5, 1, marks=pytest.mark.slow),
        pytest.param(12.13, 1e-5, 0.5, 1, marks=pytest.mark.slow),
        pytest.param(1.0, 1e-6, 0.001, 50_000, marks=pytest.mark.slow),
    ],
)
def test_calibration_is_safe_and_tight(epsilon: float, delta: float, p: float, rounds: int) -> None:
    z = calibrate(epsilon, delta, p, rounds)
    wide = 10**12

    def at(multiplier: float) -> float:
        return epsilon_pld([GaussianEvent(math.ceil(multiplier * wide), wide, p, rounds)], delta)

    assert at(z) <= epsilon < at(z * (1 - 1e-4))
    assert z == calibrate(epsilon, delta, p, rounds)


def test_calibration_of_one_plain_round_matches_the_closed_form() -> None:
    exact = optimize.brentq(lambda z: exact_gaussian_epsilon(z, DELTA) - 4.0, 0.5, 3.0, xtol=1e-12)
    assert exact * (1 - 1e-7) <= calibrate(4.0, DELTA, 1.0, 1) <= exact * 1.0002


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((0.0, DELTA, 0.1, 10), r"privacy\.epsilon"),
        ((-1.0, DELTA, 0.1, 10), r"privacy\.epsilon"),
        ((math.nan, DELTA, 0.1, 10), r"privacy\.epsilon"),
        ((math.inf, DELTA, 0.1, 10), r"privacy\.epsilon"),
        ((1.0, 0.0, 0.1, 10), r"privacy\.delta"),
        ((1.0, 1.0, 0.1, 10), r"privacy\.delta"),
        ((1.0, math.nan, 0.1, 10), r"privacy\.delta"),
        ((1.0, DELTA, 0.0, 10), r"privacy\.sampling_rate"),
        ((1.0, DELTA, 1.5, 10), r"privacy\.sampling_rate"),
        ((1.0, DELTA, 0.1, 0), r"privacy\.rounds"),
    ],
)
def test_calibration_names_the_key_at_fault(arguments: tuple[float, float, float, int], key: str) -> None:
    with pytest.raises(StudyError, match=key):
        calibrate(*arguments)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    for figure in (epsilon_pld, epsilon_rdp):
        with pytest.raises(StudyError, match=r"privacy\.delta"):
            figure([], delta)


def test_events_survive_json() -> None:
    for original in (event(0.1, 2.0, 12), GaussianEvent(64, 1, 1, 1)):
        assert GaussianEvent.from_dict(json.loads(json.dumps(original.as_dict()))) == original
    golden = {"sigma": 128, "sensitivity": 64, "sampling_rate": 1.0, "count": 1}
    assert GaussianEvent(128, 64, 1, 1).as_dict() == golden
    assert GaussianEvent(128, 64, 1.0, 1).noise_multiplier == 2.0


BAD_FIELDS = [
    {"sigma": 0},
    {"sigma": -64},
    {"sigma": 64.0},
    {"sigma": True},
    {"sigma": "64"},
    {"sigma": None},
    {"sensitivity": 0},
    {"sensitivity": 1.5},
    {"count": 0},
    {"count": True},
    {"sampling_rate": 0.0},
    {"sampling_rate": 1.01},
    {"sampling_rate": "1"},
    {"sampling_rate": None},
    {"sampling_rate": float("nan")},
    {"extra": 1},
]


@pytest.mark.parametrize("change", BAD_FIELDS)
def test_events_that_are_no_mechanism_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(MechanismViolation):
        GaussianEvent.from_dict({**event(0.1, 2.0, 12).as_dict(), **change})


@pytest.mark.parametrize("missing", ["sigma", "sensitivity", "sampling_rate", "count"])
def test_events_with_a_missing_field_are_refused(missing: str) -> None:
    fields = event(0.1, 2.0, 12).as_dict()
    del fields[missing]
    with pytest.raises(MechanismViolation):
        GaussianEvent.from_dict(fields)
