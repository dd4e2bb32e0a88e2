"""Renyi divergence of an event at `RDP_ORDERS`, as integers and never too low: what the budget filter adds up.

`accounting.epsilon_rdp` is a figure for people: dp-accounting computes it in floats, whose errors go either way and
are as large as the divergence itself where a rate is tiny, and 10^6 charges would add them up. A budget that is kept
for ever wants a sum whose error has a direction, and that is the same on every machine. So each charge is an integer
number of units of 2^-64, rounded up, and sums of integers are exact.

**One charge.** With noise multiplier z and rate p, at integer alpha >= 2 (Mironov, Talwar, Zhang 2019, section 3.3),

    A_alpha = sum over k = 0 .. alpha of C(alpha, k) (1 - p)^(alpha - k) p^k e^(k (k - 1) / 2 z^2)
            = 1 + sum over k >= 2 of C(alpha, k) (1 - p)^(alpha - k) p^k (e^(k (k - 1) / 2 z^2) - 1),

because the binomial terms add up to 1 and the exponent is 0 at k = 0 and 1. rho(alpha) = ln A_alpha / (alpha - 1)
bounds the divergence in both directions (theorem 5 there), for lattice noise too (PRIVACY 9). No term of the second
sum is negative, so it is evaluated in decimals of 50 digits whose every step rounds up: an upper bound, too high by
less than 2^-64 + 1e-20 rho. p and z^2 are exact: a float and a ratio of integers. At p = 1 rho(alpha) = alpha / 2 z^2
is a ratio of integers; with noise below Delta / 16 the same is taken at any rate: it is an upper bound, since
unsampled is worse. Distributed noise adds (2 alpha - 1) tau d / (alpha - 1) (`privacy/distributed.py`).
"""

import decimal
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import ceil
from operator import add, sub
from typing import TypeAlias

from undertone.privacy.accounting import LEAST_NOISE, RDP_ORDERS, Event
from undertone.privacy.distributed import DistributedEvent

Vector: TypeAlias = tuple[int, ...]
"""[`RDP_ORDERS`] a divergence for each order, in units of 2^-64 nats."""

UNIT = 1 << 64
NOTHING: Vector = (0,) * len(RDP_ORDERS)

_DIGITS = 50
_TRAPS = [decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow]
UP, DOWN = (
    decimal.Context(_DIGITS, rounding, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=_TRAPS)
    for rounding in (decimal.ROUND_CEILING, decimal.ROUND_FLOOR)
)
# The float tau d is some 2^-40 of itself from the true one: exponents below 745, sums of less than 1,000 terms.
_TAU_ROUNDING = 1 + Fraction(1, 1 << 32)


def spend(events: Iterable[Event]) -> Vector:
    """What all the events cost together, whatever their order; a count of 10^6 takes no longer than one of 1."""
    total = NOTHING
    for event in events:
        one = _of_one(replace(event, count=1))
        total = tuple(sum_ + event.count * single for sum_, single in zip(total, one, strict=True))
    return total


def draw(event: Event, count: int) -> Vector:
    """What a plan takes from a cap that may charge `event` `count` times: its `max_attempts`."""
    return spend([replace(event, count=count)])


def plus(left: Vector, right: Vector) -> Vector:
    """Order by order; exact."""
    return tuple(map(add, left, right))


def minus(left: Vector, right: Vector) -> Vector:
    """Order by order; exact."""
    return tuple(map(sub, left, right))


@lru_cache(maxsize=1024)
def _of_one(event: Event) -> Vector:
    """The cost of one charge."""
    if isinstance(event, DistributedEvent):
        variance = Fraction(event.sigma_local**2 * event.shares, event.sensitivity**2)
        log_ratio = Fraction(event.log_ratio) * _TAU_ROUNDING
    else:
        variance, log_ratio = Fraction(event.sigma**2, event.sensitivity**2), Fraction(0)
    if event.sampling_rate == 1 or variance < LEAST_NOISE**2:
        central = [order / (2 * variance) for order in RDP_ORDERS]
    else:
        central = [Fraction(rho) for rho in _sampled(variance, event.sampling_rate)]
    extra = [Fraction(2 * order - 1, order - 1) * log_ratio for order in RDP_ORDERS]
    return tuple(ceil(UNIT * (rho + more)) for rho, more in zip(central, extra, strict=True))


def _sampled(variance: Fraction, rate: float) -> list[Decimal]:
    """rho(alpha) of the Poisson-subsampled Gaussian with z^2 = `variance`, at a rate below 1: upper bounds."""
    most = RDP_ORDERS[-1]
    with decimal.localcontext(UP):
        p = +Decimal(rate)
        growth = (Decimal(variance.denominator) / Decimal(variance.numerator)).exp().next_plus()  # e^(1 / z^2)
        with_, without = _powers(p, most), _powers(1 - Decimal(rate), most)
        # excess[k] = p^k (e^(k (k - 1) / 2 z^2) - 1): from k to k + 1 the exponent grows by k / z^2.
        excess, moment, steps = [Decimal(0)] * 2, Decimal(1), _powers(growth, most)
        for k in range(2, most + 1):
            moment *= steps[k - 1]
            excess.append(with_[k] * (moment - 1))
        return [_divergence(order, excess, without) for order in RDP_ORDERS]


def _divergence(order: int, excess: list[Decimal], without: list[Decimal]) -> Decimal:
    """The divergence ln A_alpha / (alpha - 1), within a context that rounds up."""
    terms = (choices * excess[k] * without[order - k] for k, choices in enumerate(_binomials(order)))
    return (1 + sum(terms, Decimal(0))).ln().next_plus() / (order - 1)


def _powers(base: Decimal, most: int) -> list[Decimal]:
    """base^0 .. base^most, in the rounding of the context."""
    powers = [Decimal(1)]
    for _ in range(most):
        powers.append(powers[-1] * base)
    return powers


@lru_cache(maxsize=len(RDP_ORDERS))
def _binomials(order: int) -> tuple[Decimal, ...]:
    """C(order, 0) .. C(order, order), each at most 1e-46 of itself too high."""
    choices = [Decimal(1)]
    for k in range(order):
        choices.append(choices[-1] * (order - k) / (k + 1))
    return tuple(choices)
