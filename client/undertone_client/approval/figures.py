"""Figures of the approval page: each is rounded to the side on which it promises less."""

from math import ceil, exp, floor, log10


def best_guess(epsilon: float, delta: float) -> float:
    """The best chance to guess whether a unit is in, both being equally likely: (e^epsilon + delta) / (1 + e^epsilon).

    From the two inequalities of (epsilon, delta) on the errors of any test (Kairouz, Oh, Viswanath 2015, theorem 2.1).
    """
    return min((1 + delta * exp(-epsilon)) / (1 + exp(-epsilon)), 1.0)


def rounded_up(value: float) -> str:
    """Three digits, rounded up."""
    step = 10.0 ** (floor(log10(value)) - 2)
    return f"{ceil(value / step) * step:.3g}"


def in_hundredths(share: float) -> str:
    """A share in hundredths, rounded up to a tenth."""
    return f"{ceil(share * 1000) / 10:g}"


def up(epsilon: float) -> str:
    """What is spent, to three places: never less than it is, but for a float's last bits."""
    return f"{ceil(epsilon * 1000) / 1000:.3f}"


def down(epsilon: float) -> str:
    """What is left, to three places: never more than it is, but for a float's last bits."""
    return f"{floor(epsilon * 1000) / 1000:.3f}"
