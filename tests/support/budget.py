"""A second, slow accountant of budgets, written from the papers: mpmath, 80 digits, no code of the package.

Events and caps come as the JSON that a ledger holds. The Renyi divergence of the Poisson-sampled Gaussian at an integer
order is the whole binomial sum (Mironov, Talwar, Zhang 2019); the sum of shares adds its log-ratio (Kairouz, Liu,
Steinke 2021); each order converts on its own delta w_alpha delta (Canonne, Kamath, Steinke 2020), and the deltas must
not add up to more than delta.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import mpmath
from mpmath import mpf

DIGITS = 80
WHOLE = 10**9

Fields = tuple[tuple[str, Any], ...]


def fields(event: Mapping[str, Any]) -> Fields:
    """An event's JSON as a key, without its count."""
    return tuple(sorted((name, value) for name, value in event.items() if name != "count"))


@lru_cache(maxsize=100_000)
def divergence(event: Fields, order: int) -> mpf:
    """One charge, at one order."""
    named = dict(event)
    with mpmath.workdps(DIGITS):
        shares = named.get("shares", 1)
        sigma = mpf(named["sigma_local"] if "sigma_local" in named else named["sigma"])
        inverse = mpf(named["sensitivity"]) ** 2 / (sigma**2 * shares)
        p = mpf(named["sampling_rate"])
        if p == 1:
            gaussian = order * inverse / 2
        else:
            terms = (
                mpmath.binomial(order, k) * p**k * (1 - p) ** (order - k) * mpmath.exp(k * (k - 1) * inverse / 2)
                for k in range(order + 1)
            )
            gaussian = mpmath.log(mpmath.fsum(terms)) / (order - 1)
        ratio = sum(10 * mpmath.exp(-2 * mpmath.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, shares))
        return gaussian + mpf(2 * order - 1) / (order - 1) * ratio * named.get("dimension", 1)


def conversion(order: int, share: mpf, delta: float) -> mpf:
    """What is added to a divergence to give epsilon at `share` of delta."""
    with mpmath.workdps(DIGITS):
        return mpmath.log(mpf(order - 1) / order) - mpmath.log(order * share * mpf(delta)) / (order - 1)


class SlowAccountant:
    """Keeps every charge that was ever made, and never gives anything back."""

    def __init__(self, cap: Mapping[str, Any]) -> None:
        self.epsilon, self.delta = mpf(cap["epsilon"]), cap["delta"]
        self.shares = {int(order): mpf(share) / WHOLE for order, share in cap["billionths"].items()}
        if sum(cap["billionths"].values()) > WHOLE:
            raise AssertionError("the orders share more than one delta")
        self.charges: Counter[Fields] = Counter()

    def charge(self, event: Mapping[str, Any], count: int = 1) -> None:
        self.charges[fields(event)] += count

    def finds(self, also: Mapping[Fields, int] | None = None) -> mpf:
        """The least epsilon that some order certifies with its own share of delta, for all charges and `also`."""
        counts = self.charges + Counter(also or {})
        with mpmath.workdps(DIGITS):
            return min(
                sum((count * divergence(event, order) for event, count in counts.items()), mpf(0))
                + conversion(order, share, self.delta)
                for order, share in self.shares.items()
            )


def plain_epsilon(counts: Mapping[Fields, int], delta: float, orders: tuple[int, ...]) -> mpf:
    """Epsilon of events that were all fixed before the first: the best order, and all of delta for it."""
    with mpmath.workdps(DIGITS):
        return min(
            sum((count * divergence(event, order) for event, count in counts.items()), mpf(0))
            + conversion(order, mpf(1), delta)
            for order in orders
        )
