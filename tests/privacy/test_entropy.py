"""Coins: exact for every float p, fresh, and at the stated rate."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.support.entropy import FixedBits, InsecureTestEntropy
from undertone.errors import StudyError
from undertone.privacy.entropy import OsEntropy, bernoulli, poisson_sample

# Tests on real entropy may fail by chance once in a million runs.
CHANCE = 1e-6


def rate_p_value(coins: np.ndarray, p: float) -> float:
    return float(stats.binomtest(int(coins.sum()), coins.size, p).pvalue)


@given(st.integers(0, 8).flatmap(lambda e: st.tuples(st.just(e), st.integers(0, 2**e))))
def test_a_dyadic_coin_counts_out_exactly(exponent_and_numerator: tuple[int, int]) -> None:
    exponent, numerator = exponent_and_numerator
    p = Fraction(numerator, 2**exponent)
    bits = p.denominator.bit_length() - 1
    heads = sum(bernoulli(FixedBits(value), float(p)) for value in range(2**bits))
    assert Fraction(heads, 2**bits) == p


@given(st.floats(min_value=5e-324, max_value=1, exclude_max=True))
def test_any_float_is_met_to_the_last_bit(p: float) -> None:
    numerator, denominator = p.as_integer_ratio()
    below, at = FixedBits(numerator - 1), FixedBits(numerator)
    assert bernoulli(below, p)
    assert not bernoulli(at, p)
    assert below.asked == [denominator.bit_length() - 1]


@pytest.mark.parametrize(("p", "outcome"), [(0.0, False), (1.0, True)])
def test_certain_coins_need_no_bits(p: float, outcome: bool) -> None:
    never_asked = FixedBits(0)
    assert bernoulli(never_asked, p) is outcome
    assert never_asked.asked == [0]
    assert OsEntropy().bits(0) == 0
    assert poisson_sample(OsEntropy(), 5, p).tolist() == [outcome] * 5


@pytest.mark.parametrize("p", [-0.1, 1.0000001, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(p: float) -> None:
    with pytest.raises(StudyError, match=r"privacy\.sampling_rate"):
        bernoulli(OsEntropy(), p)
    with pytest.raises(StudyError, match=r"privacy\.sampling_rate"):
        poisson_sample(OsEntropy(), 0, p)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_sample_has_the_rate_and_no_other(p: float) -> None:
    coins = poisson_sample(OsEntropy(), 100_000, p)
    assert coins.shape == (100_000,)
    assert coins.dtype == np.bool_
    assert rate_p_value(coins, p) > CHANCE
    assert rate_p_value(coins, p - 0.03) < CHANCE
    assert rate_p_value(coins, p + 0.03) < CHANCE


def test_coins_of_one_sample_and_of_two_are_independent() -> None:
    first, second = (poisson_sample(OsEntropy(), 100_000, 0.5) for _ in range(2))
    assert rate_p_value(first == second, 0.5) > CHANCE
    assert rate_p_value(first[1:] == first[:-1], 0.5) > CHANCE


def test_no_unit_is_sampled_from_no_units() -> None:
    assert poisson_sample(OsEntropy(), 0, 0.5).shape == (0,)


@given(st.integers(0, 200))
def test_bits_stay_below_two_to_the_k(k: int) -> None:
    assert 0 <= OsEntropy().bits(k) < 1 << k or k == 0
    assert len(OsEntropy().bytes(k)) == k


def test_bits_are_uniform() -> None:
    entropy = OsEntropy()
    counts = np.bincount([entropy.bits(5) for _ in range(64_000)], minlength=32)
    assert stats.chisquare(counts).pvalue > CHANCE


def test_os_entropy_has_nothing_to_reveal() -> None:
    entropy = OsEntropy()
    entropy.bytes(64)
    assert vars(entropy) == {}
    assert pickle.loads(pickle.dumps(entropy)).bytes(16) != entropy.bytes(16)


def test_test_entropy_repeats() -> None:
    assert InsecureTestEntropy(7).bytes(16) == InsecureTestEntropy(7).bytes(16)
    assert InsecureTestEntropy(7).bits(64) != InsecureTestEntropy(8).bits(64)
