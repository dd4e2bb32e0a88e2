"""Float sums in fixed slots (PRIVACY 14): Delta, what surplus units cost, and who stands where."""

from collections import Counter
from fractions import Fraction
from itertools import permutations
from math import comb, exp, isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from tests.support.entropy import InsecureTestEntropy
from undertone.errors import MechanismViolation
from undertone.privacy.quantise import Grid
from undertone.privacy.slots import (
    ETA,
    overflow_delta,
    place,
    round_sum,
    site_sum_of_slots,
    slots_for,
    sum_clip_norm,
    sum_sensitivity,
)
from undertone.stages import FLOAT_SUM, Sensitivity

GRID = Grid(scale=1 << 10, clip_units=4096, site_clamp=1 << 28, modulus_bits=32)


def tail(units: int, slots: int, rate: Fraction) -> Fraction:
    """P(Bin(units, rate) > slots), term by term in fractions."""
    terms = (comb(units, k) * rate**k * (1 - rate) ** (units - k) for k in range(slots + 1, units + 1))
    return sum(terms, start=Fraction(0))


@pytest.mark.parametrize(("units", "slots", "rate"), [(40, 20, 0.25), (300, 90, 0.125), (7, 6, 0.5), (600, 64, 0.0625)])
def test_surplus_units_cost_the_binomial_tail(units: int, slots: int, rate: float) -> None:
    true = float(tail(units, slots, Fraction(rate))) * 12 * (1 + exp(2.0))
    assert overflow_delta(units, slots, rate, 12, 2.0) == pytest.approx(true, rel=1e-9)


def test_with_a_slot_for_every_unit_nothing_is_lost() -> None:
    assert overflow_delta(40, 40, 0.9, 10, 8.0) == 0.0
    assert slots_for(40, 1.0, 10, 8.0, 1e-5) == 40


@pytest.mark.parametrize(("units", "rate"), [(300, 0.125), (1000, 0.02), (12, 0.9), (1, 1.0), (50, 1e-9)])
def test_slots_are_the_fewest_that_cost_a_thousandth_of_delta(units: int, rate: float) -> None:
    slots = slots_for(units, rate, 22, 4.0, 1e-5)
    assert 1 <= slots <= units
    assert overflow_delta(units, slots, rate, 22, 4.0) <= 1e-8
    assert slots == 1 or overflow_delta(units, slots - 1, rate, 22, 4.0) > 1e-8


def test_delta_counts_a_rounding_for_each_value_and_a_thousandth_of_the_clip_norm() -> None:
    assert sum_sensitivity(4096, 10_000) == 4096 + 100 + 5
    assert sum_sensitivity(4000, 10_001) == 4000 + 101 + 4


def clipped(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector * min(1.0, sum_clip_norm(GRID) / max(float(np.linalg.norm(vector)), 1e-300))


def squared(values: NDArray[np.int64]) -> int:
    return sum(int(value) ** 2 for value in values)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(0, 5), st.floats(-3, 3))
def test_one_unit_moves_a_rounded_sum_by_at_most_delta(seed: int, d: int, others: int, size: float) -> None:
    """The others' floats may move too, by eta / 10 of C each way: kernels that see another neighbour."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    beside = sum((clipped(10**size * rng.standard_normal(d)) for _ in range(others)), start=np.zeros(d))
    wobble = rng.standard_normal(d)
    wobble *= float(ETA) / 10 * GRID.clip_norm / np.linalg.norm(wobble)
    one = clipped(10**size * rng.standard_normal(d))
    moved = round_sum(beside + wobble + one, GRID) - round_sum(beside, GRID)
    assert squared(moved) <= sum_sensitivity(GRID.clip_units, d) ** 2


def test_the_clip_bound_alone_would_be_too_little() -> None:
    """Each rounding can move by one more than the float did: what the second term of Delta is for."""
    d = 40_000
    one = np.full(d, sum_clip_norm(GRID) / d**0.5)  # 20.46 grid units in each place
    beside = np.full(d, 0.05 / GRID.scale)
    moved = squared(round_sum(beside + one, GRID) - round_sum(beside, GRID))
    assert GRID.clip_units**2 < moved <= sum_sensitivity(GRID.clip_units, d) ** 2
    assert isqrt(moved) + 1 > GRID.clip_units + 80


def test_the_site_clamp_and_the_relation() -> None:
    total = np.array([1 << 40, -(1 << 40), 7], dtype=np.int64)
    found = site_sum_of_slots(total, GRID)
    assert found.values.tolist() == [GRID.site_clamp, -GRID.site_clamp, 7]
    assert found.sensitivity == Sensitivity(sum_sensitivity(GRID.clip_units, 3), FLOAT_SUM)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0**43])
def test_what_clipped_rows_cannot_sum_to_is_refused(bad: float) -> None:
    with pytest.raises(MechanismViolation, match="nothing was summed"):
        round_sum(np.array([0.0, bad]), GRID)


def injections(units: int, slots: int, draws: int, placing=place) -> tuple[list[int], int]:
    """How often each injection came, in a fixed order of all; and how many there are."""
    names = [f"u{number}" for number in range(units)]
    entropy = InsecureTestEntropy(5)
    found = Counter(tuple(placing(entropy, names, slots)) for _ in range(draws))
    empty = [None] * max(slots - units, 0)
    every = set(permutations([*names, *empty], slots))
    assert set(found) <= every
    return [found[one] for one in every], len(every)


@pytest.mark.parametrize(("units", "slots"), [(2, 4), (3, 3), (4, 2), (1, 5), (0, 3)])
def test_units_stand_in_a_uniformly_random_injection(units: int, slots: int) -> None:
    counts, number = injections(units, slots, 600 * (1 + units) * slots)
    assert number == 1 or chisquare(counts).pvalue > 1e-4


def test_a_shuffle_that_prefers_an_order_is_found_out() -> None:
    def biased(entropy, names, slots):
        placed = [*names, *[None] * (slots - len(names))]
        for at in range(slots):  # the well-known mistake: each place is swapped with any other
            other = entropy.bits(8) % slots
            placed[at], placed[other] = placed[other], placed[at]
        return placed

    counts, _ = injections(3, 4, 20_000, biased)
    assert chisquare(counts).pvalue < 1e-6


def test_others_keep_their_law_when_a_unit_comes() -> None:
    """The argument's step: where u stands beside them or not, the others' slots have one law."""
    entropy = InsecureTestEntropy(9)
    with_u = Counter(
        tuple(None if name == "u" else name for name in place(entropy, ["a", "b", "u"], 4)) for _ in range(24_000)
    )
    without = Counter(tuple(place(entropy, ["a", "b"], 4)) for _ in range(24_000))
    assert set(with_u) == set(without)
    expected = 24_000 / len(without)
    assert chisquare([with_u[key] for key in without], [expected] * len(without)).pvalue > 1e-4
