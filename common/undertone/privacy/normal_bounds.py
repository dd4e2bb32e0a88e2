"""The normal distribution against exact bits, with integers alone: the slow path of `privacy/noise.py`.

For a boundary of t = a/b standard deviations,

    I(t) = integral from 0 to t of exp(-x^2 / 2) dx = t S(t^2) / E(t^2)      (Abramowitz and Stegun 1964, 26.2.11)
    S(x) = sum over n of x^n / (3 * 5 * ... * (2n + 1))
    E(x) = sum over n of x^n / (2 * 4 * ... * 2n) = exp(x / 2)

All terms are positive: a sum rounded down term by term is a lower bound; one rounded up, with a bound on what is
left over, is an upper bound; no error analysis is needed. Functions return such pairs (low, high) of integers, in
units of 2^-precision. A comparison that falls between the two is undecided: the caller learns more bits of its
uniform real, and the next comparison has more precision.
"""

from functools import lru_cache
from math import isqrt

# Bits beyond those that are compared: rounding in the series costs a few.
_GUARD_BITS = 24

Bounds = tuple[int, int]


def below_tail(m: int, bits: int, a: int, b: int) -> bool | None:
    """Is the real p in [m, m + 1) / 2^bits below P(Z > a/b), for Z standard normal, a >= 0 and b > 0?

    Returns:
        True, False, or None if `bits` bits do not tell.
    """
    return _below(m, bits, tail(a, b, bits + _GUARD_BITS), _GUARD_BITS)


def below_keep(m: int, bits: int, j: int, sigma: int) -> bool | None:
    """Is the real p in [m, m + 1) / 2^bits below `keep(j, sigma)`? True, False, or None as in `below_tail`."""
    # A cell's mass, about exp(-j^2 / 2 sigma^2) / sigma, is the difference of two numbers near 1.
    extra = _GUARD_BITS + sigma.bit_length() + 2 * j * j // (sigma * sigma)
    return _below(m, bits, keep(j, sigma, bits + extra), extra)


def tail(a: int, b: int, precision: int) -> Bounds:
    """P(Z > a/b) = 1/2 - I(a/b) / sqrt(2 pi), for a >= 0, b > 0."""
    low, high = _integral(a, b, precision)
    root_low, root_high = _root_of_two_pi(precision)
    half = 1 << (precision - 1)
    return half - _up(high << precision, root_low), half - (low << precision) // root_high


def keep(j: int, sigma: int, precision: int) -> Bounds:
    """A_0 / A_j, where A_j is the integral over |u| <= 1/2 of exp(-(2ju + u^2) / 2 sigma^2) du; j >= 0.

    Since A_j = sigma E(j^2 / sigma^2) (I((j + 1/2) / sigma) - I((j - 1/2) / sigma)), pi and sigma cancel. Where
    the precision does not tell the two integrals apart, the upper bound is useless but true.
    """
    if j == 0:
        return 1 << precision, 1 << precision
    centre = _integral(1, 2 * sigma, precision)
    inner = _integral(2 * j - 1, 2 * sigma, precision)
    outer = _integral(2 * j + 1, 2 * sigma, precision)
    scale = _series(j * j, sigma * sigma, 2, precision)
    least, most = scale[0] * max(outer[0] - inner[1], 0), scale[1] * (outer[1] - inner[0])
    high = _up(2 * centre[1] << (2 * precision), least) if least else 1 << precision
    return (2 * centre[0] << (2 * precision)) // most, min(high, 1 << precision)


def _below(m: int, bits: int, bounds: Bounds, extra: int) -> bool | None:
    """Is p in [m, m + 1) / 2^bits below what `bounds` enclose, in units of 2^-(bits + extra)?"""
    if (m + 1) << extra <= bounds[0]:
        return True
    if m << extra >= bounds[1]:
        return False
    return None


def _integral(a: int, b: int, precision: int) -> Bounds:
    """I(a / b) for a >= 0, b > 0."""
    s_low, s_high = _series(a * a, b * b, 3, precision)
    e_low, e_high = _series(a * a, b * b, 2, precision)
    return (a * s_low << precision) // (b * e_high), _up(a * s_high << precision, b * e_low)


def _series(numerator: int, denominator: int, first: int, precision: int) -> Bounds:
    """The sum over n >= 0 of x^n / (d (d + 2) ... (d + 2n - 2)), with x = numerator / denominator, d = first."""
    low = high = low_sum = high_sum = 1 << precision
    divisor, step = denominator * first, 2 * denominator
    # From where x / d <= 1/2 on, all terms to come are together at most as large as the last one.
    while high > 1 or 2 * numerator > divisor:
        low, high = low * numerator // divisor, _up(high * numerator, divisor)
        low_sum, high_sum, divisor = low_sum + low, high_sum + high, divisor + step
    return low_sum, high_sum + high


@lru_cache
def _root_of_two_pi(precision: int) -> Bounds:
    """The square root of 2 pi, from Machin's pi / 4 = 4 arctan(1/5) - arctan(1/239)."""
    bits = 2 * precision
    # Each arctangent is off by less than two units for each of its terms, of which there are at most bits / 4.6 + 1.
    eight_times = 32 * _arctan_inverse(5, bits) - 8 * _arctan_inverse(239, bits)
    return isqrt(eight_times - 40 * bits), isqrt(eight_times + 40 * bits) + 1


def _arctan_inverse(q: int, bits: int) -> int:
    """2^bits * arctan(1 / q), off by less than two for each term."""
    power, total, n = (1 << bits) // q, 0, 1
    while power:
        total += power // n if n % 4 == 1 else -(power // n)
        power, n = power // (q * q), n + 2
    return total


def _up(numerator: int, denominator: int) -> int:
    """The quotient rounded up."""
    return -(-numerator // denominator)
