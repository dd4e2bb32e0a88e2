"""The integers that settle doubtful draws: always around the truth, and tight."""

import math

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import rejection
from undertone.privacy import normal_bounds

# mpmath is the second implementation: other series, other rounding.
DIGITS = 400


def around(bounds: tuple[int, int], exact: mpmath.mpf, precision: int, slack_bits: int) -> None:
    low, high = bounds
    scaled = exact * mpmath.mpf(2) ** precision
    assert low <= scaled <= high
    assert high - low < 1 << slack_bits


@settings(max_examples=200, deadline=None)
@given(a=st.integers(0, 10**12), b=st.integers(1, 1 << 39), precision=st.integers(64, 400))
def test_the_tail_lies_between_its_bounds(a: int, b: int, precision: int) -> None:
    a = min(a, 12 * b)
    with mpmath.workdps(DIGITS):
        exact = mpmath.erfc(mpmath.mpf(a) / b / mpmath.sqrt(2)) / 2
        # Rounding is magnified by exp(t^2 / 2) inside the series and divided out again, but for some bits.
        around(normal_bounds.tail(a, b, precision), exact, precision, 24 + round(1.5 * (a / b) ** 2))


@settings(max_examples=150, deadline=None)
@given(sigma=st.integers(4, 10**6), part=st.floats(0, 9.5), precision=st.integers(200, 400))
def test_the_keep_probability_lies_between_its_bounds(sigma: int, part: float, precision: int) -> None:
    j = round(part * sigma)
    with mpmath.workdps(DIGITS):
        s = mpmath.mpf(sigma)

        def cell(k: int) -> mpmath.mpf:
            mass = mpmath.erf((k + 0.5) / s / mpmath.sqrt(2)) - mpmath.erf((k - 0.5) / s / mpmath.sqrt(2))
            return mass * mpmath.exp(mpmath.mpf(k) ** 2 / (2 * s**2))

        around(normal_bounds.keep(j, sigma, precision), cell(0) / cell(j), precision, 40 + 2 * sigma.bit_length() + 150)


@pytest.mark.parametrize("sigma", [4, 5, 64, 1000])
def test_thinning_turns_the_rounded_law_into_the_discrete_one(sigma: int) -> None:
    """The identity of the docstring: rounded mass * keep / exp(-j^2 / 2 sigma^2) is one number for all j."""
    with mpmath.workdps(60):
        root = sigma * mpmath.sqrt(2)
        ratios = []
        for j in (0, 1, 2, sigma, 3 * sigma + 1, 8 * sigma):
            mass = mpmath.erfc((j - mpmath.mpf(0.5)) / root) - mpmath.erfc((j + mpmath.mpf(0.5)) / root)
            kept = mpmath.mpf(normal_bounds.keep(j, sigma, 400)[0]) / mpmath.mpf(2) ** 400
            ratios.append(mass * kept / mpmath.exp(-(mpmath.mpf(j) ** 2) / (2 * sigma**2)))
        assert all(abs(ratio / ratios[0] - 1) < mpmath.mpf(10) ** -25 for ratio in ratios)


@settings(max_examples=200, deadline=None)
@given(sigma=st.integers(4, 1 << 38), part=st.floats(0, 40))
def test_the_bound_of_the_fast_path_is_above_the_chance_of_thinning(sigma: int, part: float) -> None:
    j = round(part * sigma)
    low, _ = normal_bounds.keep(j, sigma, 2500)
    slope = math.exp(1 / (8 * sigma**2)) / (24 * float(sigma) ** 4)
    assert 1 - low / (1 << 2500) <= slope * float(j) ** 2 + 2.0**-50


def test_what_a_series_leaves_out_is_in_its_upper_bound() -> None:
    # exp(2^-11) in units of 2^-11: the terms 2^11 and 1 are exact, and the sum goes on.
    low, high = normal_bounds._series(1, 1 << 10, 2, 11)
    assert low == (1 << 11) + 1 < math.exp(2.0**-11) * 2**11 < high


@pytest.mark.parametrize("compare", ["tail", "keep"])
def test_comparisons_answer_only_what_the_bits_tell(compare: str) -> None:
    """At every number of bits: the interval of p that holds the exact value is undecided, its neighbours are not."""
    a, b, j, sigma = 129, 128, 70, 64
    exact = normal_bounds.tail(a, b, 1000)[0] if compare == "tail" else normal_bounds.keep(j, sigma, 1000)[0]

    def ask(m: int, bits: int) -> bool | None:
        return (
            normal_bounds.below_tail(m, bits, a, b)
            if compare == "tail"
            else normal_bounds.below_keep(m, bits, j, sigma)
        )

    for bits in (64, 128, 192, 256, 640):
        m = exact >> (1000 - bits)
        assert ask(m, bits) is None
        assert ask(m - 1, bits) is True
        assert ask(m + 1, bits) is False
        assert ask(0, bits) is True
        assert ask((1 << bits) - 1, bits) is False


def test_a_middle_value_is_always_kept_and_too_little_precision_claims_nothing() -> None:
    assert normal_bounds.keep(0, 64, 100) == (1 << 100, 1 << 100)
    assert normal_bounds.below_keep((1 << 64) - 1, 64, 0, 64) is True
    low, high = normal_bounds.keep(64 * 9, 64, 8)
    assert low <= high == 1 << 8


@pytest.mark.parametrize("precision", [40, 88, 200, 1000, 4000])
def test_the_root_of_two_pi_lies_between_its_bounds(precision: int) -> None:
    with mpmath.workdps(1500):
        exact = mpmath.sqrt(2 * mpmath.pi) * mpmath.mpf(2) ** precision
        low, high = normal_bounds._root_of_two_pi(precision)
        assert low < exact < high
        assert high - low <= 2


@given(j=st.integers(-768, 768), u=st.integers(-(1 << 15), (1 << 15) - 1), part=st.fractions(0, 1))
def test_the_oracles_gamma_lies_between_its_bounds(j: int, u: int, part: object) -> None:
    low, high = rejection._gamma_bounds(j, 64, u, 16)
    real = (u + part) / 2**16  # type: ignore[operator]
    assert low <= (12 * 64 + 2 * j * real + real**2) * 4**16 <= high
