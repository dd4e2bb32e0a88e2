"""Shares of the noise: what they add up to, what that costs, and why at least one site is counted as lost."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants.analysis import rdp as opacus_rdp
from scipy import stats

from tests.support.laws import CHANCE
from undertone.errors import MechanismViolation
from undertone.privacy.accounting import (
    RDP_ORDERS,
    GaussianEvent,
    calibrate,
    epsilon_claim,
    epsilon_pld,
    epsilon_rdp,
    read_event,
)
from undertone.privacy.distributed import DistributedEvent, noise_margin, noise_share_sigma, tau
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.noise import discrete_gaussian

DELTA = 1e-5
EVENT = DistributedEvent(sigma_local=5000, shares=4, dimension=100, sensitivity=4096, sampling_rate=0.1, count=20)


# --- tau --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "value"), [(1, 5.4e-4), (2, 7.2e-17), (3, 2.7e-38), (4, 2.6e-68)])
def test_tau_has_the_values_of_the_research_page(sigma: int, value: float) -> None:
    for shares in (5, 20):
        assert tau(sigma, shares) == pytest.approx(value, rel=0.02)


def lattice_law(variance: mpmath.mpf, reach: int) -> dict[int, mpmath.mpf]:
    weights = {x: mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * variance)) for x in range(-reach, reach + 1)}
    total = mpmath.fsum(weights.values())
    return {x: weight / total for x, weight in weights.items()}


@pytest.mark.parametrize(("sigma", "shares"), [(1, 2), (1, 3), (1, 6), (2, 2), (2, 4)])
def test_the_log_ratio_of_sum_and_gaussian_stays_below_tau(sigma: int, shares: int) -> None:
    """The theorem behind the term, by adding the shares up with 80 digits."""
    with mpmath.workdps(80):
        reach = 60 * sigma
        share = lattice_law(mpmath.mpf(sigma) ** 2, reach)
        total = share
        for _ in range(shares - 1):
            total = {
                x: mpmath.fsum(
                    total[y] * share[x - y] for y in range(max(-reach, x - reach), min(reach, x + reach) + 1)
                )
                for x in range(-reach, reach + 1)
            }
        gaussian = lattice_law(shares * mpmath.mpf(sigma) ** 2, reach)
        worst = max(abs(mpmath.log(total[x] / gaussian[x])) for x in range(-6 * sigma, 6 * sigma + 1))
    assert worst < tau(sigma, shares)
    if shares == 2:  # where the bound is nearly reached
        assert worst > tau(sigma, shares) / 10


def test_tau_grows_with_shares_falls_with_sigma_and_never_vanishes() -> None:
    assert tau(4, 1) == 0.0
    assert all(low < high for low, high in pairwise(tau(1, shares) for shares in range(1, 8)))
    assert all(low > high for low, high in pairwise(tau(sigma, 3) for sigma in range(1, 6)))
    assert tau(10**9, 2) > 0


# --- the claim --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "count"), [(1.0, 1), (1.0, 20), (0.01, 1000)])
@pytest.mark.parametrize("dimension", [1, 10**60, 10**66, 3 * 10**67])
def test_the_claim_is_opacus_rdp_and_the_term(rate: float, count: int, dimension: int) -> None:
    """A dimension that no model has makes the term large enough to be seen."""
    event = DistributedEvent(4, 9, dimension, 3, rate, count)
    orders = np.array(RDP_ORDERS)
    theirs = opacus_rdp.compute_rdp(q=rate, noise_multiplier=4 * 3 / 3, steps=count, orders=list(RDP_ORDERS))
    # log A_alpha / (alpha - 1), where A_alpha gains exp((2 alpha - 1) tau d).
    term = 10 * sum(math.exp(-2 * math.pi**2 * 16 * k / (k + 1)) for k in range(1, 9)) * dimension
    with_term = theirs + count * (2 * orders - 1) * term / (orders - 1)
    expected, _ = opacus_rdp.get_privacy_spent(orders=list(RDP_ORDERS), rdp=list(with_term), delta=DELTA)
    assert epsilon_rdp([event], DELTA) == pytest.approx(expected, rel=1e-6)
    if dimension > 10**65:
        without, _ = opacus_rdp.get_privacy_spent(orders=list(RDP_ORDERS), rdp=theirs, delta=DELTA)
        assert epsilon_rdp([event], DELTA) > without * 1.01


def test_the_term_is_charged_for_each_attempt_and_each_value() -> None:
    event = DistributedEvent(4, 2, 10**67, 1, 1.0, 1)
    base = epsilon_rdp([event], DELTA)
    assert epsilon_rdp([replace(event, dimension=2 * 10**67)], DELTA) > base + 0.2
    assert epsilon_rdp([event] * 3, DELTA) == epsilon_rdp([replace(event, count=3)], DELTA)


@settings(max_examples=25, deadline=None)
@given(
    sigma=st.integers(64, 10**7),
    shares=st.integers(2, 60),
    dimension=st.integers(1, 10**9),
    rate=st.sampled_from([1.0, 1.0, 0.02]),
    count=st.integers(1, 50),
)
def test_the_claim_is_never_below_that_of_a_gaussian_of_the_same_variance(
    sigma: int, shares: int, dimension: int, rate: float, count: int
) -> None:
    sigma_local = noise_share_sigma(sigma, shares)
    event = DistributedEvent(sigma_local, shares, dimension, 1 << 16, rate, count)
    assert event.noise_multiplier == pytest.approx(sigma_local * math.sqrt(shares) / 2**16, rel=1e-12)
    # A central sigma rounded up from sigma_local sqrt(shares) has at least that variance.
    central = GaussianEvent(math.ceil(sigma_local * math.sqrt(shares)), 1 << 16, rate, count)
    assert epsilon_rdp([event], DELTA) >= epsilon_rdp([central], DELTA)
    # And the shares have at least the variance that the plan's sigma stands for.
    assert epsilon_rdp([event], DELTA) <= epsilon_rdp([replace(central, sigma=sigma)], DELTA) * (1 + 1e-12)


def test_calibration_by_rdp_is_safe_and_tight() -> None:
    for epsilon, rate, rounds in ((4.0, 1.0, 1), (1.0, 0.01, 200), (0.05, 1.0, 1)):
        z = calibrate(epsilon, DELTA, rate, rounds, by_rdp=True)
        wide = 10**12
        at = [epsilon_rdp([GaussianEvent(math.ceil(m * wide), wide, rate, rounds)], DELTA) for m in (z, z * (1 - 1e-4))]
        assert at[0] <= epsilon < at[1]


def test_a_site_that_subtracts_its_own_share_is_why_one_is_always_counted_as_lost() -> None:
    """PRIVACY 8: t = 3 and c = 0, three shares counted. One site knows its own: epsilon 4 becomes 5.06 for it."""
    z, wide = 1.0811622, 10**9  # what `calibrate` gives
    assert epsilon_pld([GaussianEvent(round(z * wide), wide, 1.0, 1)], DELTA) == pytest.approx(4.0, abs=1e-5)
    seen = GaussianEvent(round(z * math.sqrt(2 / 3) * wide), wide, 1.0, 1)
    assert epsilon_pld([seen], DELTA) == pytest.approx(5.06, abs=0.005)
    # With c = 1 two noise shares are counted, and that site sees no less noise than the claim says.
    sigma = math.ceil(z * 4096)
    counted = DistributedEvent(noise_share_sigma(sigma, 2), 2, 10, 4096, 1.0, 1)
    assert epsilon_rdp([counted], DELTA) <= epsilon_rdp([GaussianEvent(sigma, 4096, 1.0, 1)], DELTA)


def test_no_pld_is_claimed() -> None:
    with pytest.raises(MechanismViolation, match="RDP"):
        epsilon_pld([EVENT], DELTA)
    with pytest.raises(MechanismViolation, match="RDP"):
        epsilon_pld([GaussianEvent(64, 32, 1.0, 1), EVENT], DELTA)
    assert epsilon_claim([EVENT], DELTA) == epsilon_rdp([EVENT], DELTA)
    central = GaussianEvent(128, 64, 1.0, 1)
    assert epsilon_claim([central], DELTA) == epsilon_pld([central], DELTA) < epsilon_rdp([central], DELTA)
    mixed = [central, EVENT]
    assert epsilon_claim(mixed, DELTA) == epsilon_rdp(mixed[::-1], DELTA) > epsilon_rdp([EVENT], DELTA)


# --- shares, margin, and what is drawn --------------------------------------------------------------------------------


@given(sigma=st.integers(64, 1 << 38), shares=st.integers(1, 1000))
def test_a_share_is_the_smallest_that_suffices(sigma: int, shares: int) -> None:
    share = noise_share_sigma(sigma, shares)
    assert share >= 4
    assert shares * share**2 >= sigma**2
    assert share == 4 or shares * (share - 1) ** 2 < sigma**2


@given(sigma_local=st.integers(4, 1 << 30), sites=st.integers(1, 1000), dimension=st.integers(1, 10**9))
def test_the_margin_covers_the_noise_of_all_sites(sigma_local: int, sites: int, dimension: int) -> None:
    exact = sigma_local * math.sqrt(sites * 2 * math.log(2 * dimension * 2**40))
    assert exact <= noise_margin(sigma_local, sites, dimension) <= exact * 1.02 + 1


def test_the_margin_has_the_values_of_the_research_page() -> None:
    for dimension, deviations in ((10**3, 8.4), (10**5, 8.9), (10**7, 9.4), (10**8, 9.7)):
        assert noise_margin(10**6, 100, dimension) / 10**7 == pytest.approx(deviations, rel=0.012)
    # b = 32, n = 100, d = 1e8, sigma_T = s C = 2^20: m = 1.0e7 and B = 2.1e7.
    margin = noise_margin(math.ceil(2**20 / 10), 100, 10**8)
    assert margin == pytest.approx(1.0e7, rel=0.03)
    assert ((1 << 31) - 1 - margin) // 100 == pytest.approx(2.1e7, rel=0.02)


def at_least(draws: np.ndarray, sigma: int) -> float:
    """P-value against "the variance is sigma^2 or more"."""
    return float(stats.chi2.cdf(float(np.sum(np.square(draws.astype(np.float64)))) / sigma**2, draws.size))


@pytest.mark.parametrize(("sites", "threshold", "colluders"), [(3, 3, 1), (5, 4, 1), (10, 7, 3), (100, 67, 33)])
def test_what_is_left_under_dropouts_and_collusion_has_the_promised_variance(
    sites: int, threshold: int, colluders: int
) -> None:
    """The fewest survivors, c of which take their shares off; one share too few is rejected."""
    sigma, draws = 7919, 200_000
    share = noise_share_sigma(sigma, threshold - colluders)
    shares = np.stack([discrete_gaussian(OsEntropy(), share, draws) for _ in range(threshold)])
    left = shares[colluders:].sum(axis=0)
    assert at_least(left, sigma) > CHANCE
    assert at_least(left - shares[-1], sigma) < CHANCE
    assert np.abs(shares.sum(axis=0)).max() < noise_margin(share, sites, draws)


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_survive_json_and_are_told_apart() -> None:
    golden = {
        "sigma_local": 5000,
        "shares": 4,
        "dimension": 100,
        "sensitivity": 4096,
        "sampling_rate": 0.1,
        "count": 20,
    }
    assert EVENT.as_dict() == golden
    for event in (EVENT, replace(EVENT, sampling_rate=1), GaussianEvent(64, 1, 0.5, 2)):
        assert read_event(json.loads(json.dumps(event.as_dict()))) == event


@pytest.mark.parametrize(
    "change",
    [
        {"sigma_local": 3},
        {"sigma_local": 4.0},
        {"sigma_local": "5000"},
        {"shares": 0},
        {"shares": True},
        {"dimension": 0},
        {"dimension": None},
        {"sensitivity": 0},
        {"count": 0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"sampling_rate": True},
        {"sampling_rate": "1"},
        {"sampling_rate": float("nan")},
        {"sigma": 64},
    ],
)
def test_events_that_are_no_mechanism_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MechanismViolation):
        read_event({**EVENT.as_dict(), **change})


@pytest.mark.parametrize("missing", ["sigma_local", "shares", "dimension", "sensitivity", "sampling_rate", "count"])
def test_events_with_a_missing_field_are_refused(missing: str) -> None:
    fields = EVENT.as_dict()
    del fields[missing]
    with pytest.raises(MechanismViolation):
        read_event(fields)


def test_a_ledger_keeps_both_kinds(tmp_path: Path) -> None:
    once = replace(EVENT, count=1)
    with Ledger.create(tmp_path / "ledger.sqlite", {"role": "test"}) as ledger:
        ledger.charge("a" * 64, 1, 1, once, "0" * 64, 2)
        ledger.charge("b" * 64, 1, 1, GaussianEvent(64, 1, 0.5, 1), "0" * 64, 2)
    with Ledger.open(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.events("a" * 64) == [once]
        assert ledger.events("b" * 64) == [GaussianEvent(64, 1, 0.5, 1)]
