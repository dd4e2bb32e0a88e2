"""The sampler against the exact law, against OpenDP, and against a wrong sigma."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import mpmath
import numpy as np
import opendp.prelude as dp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from tests.support.entropy import InsecureTestEntropy
from undertone.errors import MechanismViolation
from undertone.privacy import noise
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.noise import rounded_gaussian, tail_mass

# On real entropy a right sampler fails once in a million runs. At 200,000 draws a sigma that is 2 % off
# misses by more than twelve standard errors.
CHANCE = 1e-6
DRAWS = 200_000
Draws = NDArray[np.int64]


def p_value(draws: Draws, sigma: float) -> float:
    """Is this rint(N(0, sigma^2))? Mean, variance and the exact cell masses; Bonferroni over the three."""
    n = draws.size
    variance = sigma**2 + 1 / 12
    mean_p = 2 * stats.norm.sf(abs(draws.mean()) / math.sqrt(variance / n))
    spread = float(np.sum(np.square(draws.astype(np.float64)))) / variance
    spread_p = 2 * min(stats.chi2.cdf(spread, n), stats.chi2.sf(spread, n))
    edges = np.round(np.linspace(-2.5, 2.5, 41) * sigma) - 0.5
    counts = np.bincount(np.searchsorted(edges, draws), minlength=42)
    masses = np.diff(np.concatenate([[0.0], stats.norm.cdf(edges / sigma), [1.0]]))
    cells_p = stats.chisquare(counts, masses * n).pvalue
    return float(min(1.0, 3 * min(mean_p, spread_p, cells_p)))


def two_sample_p_value(ours: Draws, theirs: Draws) -> float:
    """Do both come from one law? Chi-square over 40 cells of equal weight, and the ratio of variances."""
    edges = np.quantile(np.concatenate([ours, theirs]), np.linspace(0, 1, 41)[1:-1]) + 0.5
    table = [np.bincount(np.searchsorted(np.unique(edges), part), minlength=40)[:40] for part in (ours, theirs)]
    cells_p = stats.chi2_contingency(np.array(table)).pvalue
    spread = np.var(ours) / np.var(theirs)
    tail = stats.f.sf(spread, ours.size, theirs.size)
    return float(min(1.0, 2 * min(cells_p, 2 * min(tail, 1 - tail))))


@pytest.mark.parametrize("sigma", [64, 1000, 3 << 21])
def test_draws_have_the_exact_law(sigma: int) -> None:
    draws = rounded_gaussian(OsEntropy(), sigma, DRAWS)
    assert draws.dtype == np.int64
    assert p_value(draws, sigma) > CHANCE


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_sigma_two_percent_off_is_rejected(factor: float) -> None:
    draws = rounded_gaussian(OsEntropy(), round(1000 * factor), DRAWS)
    assert p_value(draws, 1000) < CHANCE


def test_the_test_rejects_a_shift_and_a_wrong_shape() -> None:
    normal = np.random.default_rng(3).normal
    assert p_value(np.rint(normal(20, 1000, DRAWS)).astype(np.int64), 1000) < CHANCE
    laplace = np.random.default_rng(3).laplace(0, 1000 / math.sqrt(2), DRAWS)
    assert p_value(np.rint(laplace).astype(np.int64), 1000) < CHANCE


def test_draws_agree_with_opendp() -> None:
    """OpenDP draws the discrete Gaussian: at sigma = 1000 its variance differs from ours by 1/12 in a million."""
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
    theirs = np.array(dp.m.make_gaussian(*space, scale=1000.0)([0] * 100_000), dtype=np.int64)
    assert p_value(theirs, 1000) > CHANCE
    assert two_sample_p_value(rounded_gaussian(OsEntropy(), 1000, DRAWS), theirs) > CHANCE
    for wrong in (960, 1040):
        assert two_sample_p_value(rounded_gaussian(OsEntropy(), wrong, DRAWS), theirs) < CHANCE


def test_draws_are_independent_within_and_between_calls() -> None:
    first, second = (rounded_gaussian(OsEntropy(), 64, 100_000).astype(np.float64) for _ in range(2))
    for left, right in ((first, second), (first[1:], first[:-1]), (np.abs(first[1:]), np.abs(first[:-1]))):
        correlation = np.corrcoef(left, right)[0, 1]
        assert abs(correlation) * math.sqrt(left.size) < stats.norm.isf(CHANCE / 2)


def keep_probability(j: int, sigma: int) -> float:
    """Integral over u in [-1/2, 1/2] of exp(-(12 sigma + 2ju + u^2) / 2 sigma^2)."""
    value, _ = integrate.quad(lambda u: math.exp(-(12 * sigma + 2 * j * u + u * u) / (2 * sigma**2)), -0.5, 0.5)
    return value


def kept(words: Iterator[int], j: int, sigma: int, trials: int) -> int:
    return sum(noise._keep(words, j, sigma) for _ in range(trials))


# The rounding step is invisible in whole draws at sigma >= 64, so it is tested where it is large: a small sigma
# and a proposal at the edge, where leaving out u would change the probability by 3 %.
@pytest.mark.parametrize("j", [-156, -40, 0, 1, 156])
def test_the_rounding_step_keeps_with_the_exact_probability(j: int) -> None:
    trials, sigma = 100_000, 13
    count = kept(noise._words(OsEntropy()), j, sigma, trials)
    assert stats.binomtest(count, trials, keep_probability(j, sigma)).pvalue > CHANCE
    if abs(j) == 156:
        without_u = math.exp(-6 / sigma)
        assert stats.binomtest(count, trials, without_u).pvalue < CHANCE


def test_keeping_times_proposal_is_the_mass_of_the_rounded_gaussian() -> None:
    """The identity in the module's docstring, with 30 digits: discrete Gaussian * keep ~ erf differences."""
    sigma = mpmath.mpf(64)

    def ratio(j: int) -> mpmath.mpf:
        inner = mpmath.quad(lambda u: mpmath.exp(-(12 * sigma + 2 * j * u + u * u) / (2 * sigma**2)), [-0.5, 0, 0.5])
        mass = mpmath.ncdf((j + mpmath.mpf(0.5)) / sigma) - mpmath.ncdf((j - mpmath.mpf(0.5)) / sigma)
        return mpmath.exp(-(mpmath.mpf(j) ** 2) / (2 * sigma**2)) * inner / mass

    with mpmath.workdps(60):
        ratios = [ratio(j) for j in (-768, -100, -1, 0, 1, 5, 300, 768)]
        assert all(abs(value / ratios[0] - 1) < mpmath.mpf(10) ** -25 for value in ratios)


@pytest.fixture
def narrow_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of 8 bits: comparisons tie about once in a hundred, and refinement decides."""
    monkeypatch.setattr(noise, "_WORD_BITS", 8)


@pytest.mark.usefixtures("narrow_words")
def test_the_law_survives_when_refinement_decides() -> None:
    assert p_value(rounded_gaussian(OsEntropy(), 64, DRAWS), 64) > CHANCE
    trials = 100_000
    for j in (-156, 0, 156):
        count = kept(noise._words(OsEntropy()), j, 13, trials)
        assert stats.binomtest(count, trials, keep_probability(j, 13)).pvalue > CHANCE


@pytest.mark.usefixtures("narrow_words")
@pytest.mark.parametrize(("numerator", "denominator"), [(1, 3), (1, 1000), (999, 1000), (0, 5), (5, 5)])
def test_a_fraction_no_word_can_hold_is_met_exactly(numerator: int, denominator: int) -> None:
    words, trials = noise._words(OsEntropy()), 100_000
    count = sum(noise._below(words, numerator, denominator) for _ in range(trials))
    if numerator in (0, denominator):
        assert count == trials * numerator // denominator
    else:
        assert stats.binomtest(count, trials, numerator / denominator).pvalue > CHANCE


THIRD = 0x5555555555555555  # 1/3 is 0.0101... in binary: each such word is a tie
TOP = (1 << 64) - 1


@pytest.mark.parametrize(
    ("words", "outcome", "read"),
    [
        ([THIRD - 1], True, 1),
        ([THIRD + 1], False, 1),
        ([THIRD, 0], True, 2),
        ([THIRD, TOP], False, 2),
        ([THIRD, THIRD, THIRD, 0], True, 4),
        ([THIRD, THIRD, THIRD, TOP], False, 4),
    ],
)
def test_ties_are_settled_by_further_words(words: list[int], outcome: bool, read: int) -> None:
    script = iter(words)
    assert noise._below(script, 1, 3) is outcome
    assert len(words) - len(list(script)) == read


def test_ties_in_the_rounding_step_refine_both_reals() -> None:
    # sigma 64, j 100, u = 0 so far: gamma = 768/8192 and a little more, exactly a word's edge for v.
    half, edge = 1 << 63, 768 << 64 >> 13
    # v refined above gamma: the first coin fails, k = 1 is odd, keep.
    assert noise._keep(iter([half, edge, 0, TOP]), 100, 64) is True
    # u refined upwards and v not: the first coin succeeds; the second, drawn with 128 bits at once, fails.
    assert noise._keep(iter([half, edge, TOP, 0, TOP, TOP]), 100, 64) is False


@given(j=st.integers(-768, 768), u=st.integers(-(1 << 15), (1 << 15) - 1), part=st.fractions(0, 1))
def test_gamma_lies_between_its_bounds(j: int, u: int, part: Fraction) -> None:
    low, high = noise._gamma_bounds(j, 64, u, 16)
    real = (u + part) / 2**16
    assert low <= (12 * 64 + 2 * j * real + real**2) * 4**16 <= high
    # No wider than the interval of u makes it.
    assert high - low <= (2 * abs(j) + 1) * 2**16


@pytest.mark.usefixtures("narrow_words")
@pytest.mark.parametrize("scale", [100, 129, 255])
def test_the_geometric_has_no_modulo_bias(scale: int) -> None:
    words = noise._words(OsEntropy())
    draws = np.array([noise._geometric(words, scale) for _ in range(100_000)])
    counts = np.bincount(np.minimum(draws // 10, 60), minlength=61)
    edges = np.exp(-np.arange(0, 610, 10) / scale)
    masses = np.append(edges[:-1] - edges[1:], edges[-1])
    assert stats.chisquare(counts, masses * draws.size).pvalue > CHANCE


def test_a_proposal_that_is_not_kept_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    proposals = iter([5, 6, 7])
    monkeypatch.setattr(noise, "_discrete_gaussian", lambda words, sigma: next(proposals))
    monkeypatch.setattr(noise, "_keep", lambda words, j, sigma: j == 7)
    assert rounded_gaussian(OsEntropy(), 64, 1).tolist() == [7]


def test_a_seeded_run_repeats_and_uses_each_bit_once() -> None:
    draw: Callable[[], Draws] = lambda: rounded_gaussian(InsecureTestEntropy(5), 64, 50)  # noqa: E731
    assert np.array_equal(draw(), draw())
    source = InsecureTestEntropy(5)
    assert not np.array_equal(rounded_gaussian(source, 64, 50), rounded_gaussian(source, 64, 50))


def test_no_draw_is_legal() -> None:
    assert rounded_gaussian(OsEntropy(), 64, 0).shape == (0,)


@pytest.mark.parametrize(("magnitudes", "expected"), [([64 * 12 + 1, 64 * 40, 64], 64), ([64 * 12], 64 * 12)])
def test_proposals_beyond_twelve_sigma_are_rejected(
    magnitudes: list[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter(magnitudes)
    monkeypatch.setattr(noise, "_geometric", lambda words, scale: next(script))
    monkeypatch.setattr(noise, "_bernoulli_exp", lambda words, numerator, denominator: True)
    assert noise._discrete_gaussian(iter([0] * 10), 64) == expected
    assert list(script) == []


def test_minus_zero_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_geometric", lambda words, scale: 0)
    # Sign bit 1: again. Sign bit 0: zero, kept by a coin that fails at k = 1.
    script = iter([1, 0, TOP])
    assert noise._discrete_gaussian(script, 64) == 0
    assert list(script) == []


def test_the_tail_bound_is_above_the_tail_and_small() -> None:
    for sigma in (64, 1000, 1 << 22):
        with mpmath.workdps(40):
            tail = mpmath.erfc((12 + mpmath.mpf(1) / (2 * sigma)) / mpmath.sqrt(2))
        assert tail < tail_mass(sigma) < 100 * tail
        assert tail_mass(sigma) < 5.4e-32


@pytest.mark.parametrize("sigma", [63, 0, -64, True, 64.0, 100.5, (1 << 56) + 1])
def test_a_sigma_without_a_guarantee_is_refused(sigma: int) -> None:
    with pytest.raises(MechanismViolation, match="sigma"):
        rounded_gaussian(OsEntropy(), sigma, 1)
    with pytest.raises(MechanismViolation, match="sigma"):
        tail_mass(sigma)
