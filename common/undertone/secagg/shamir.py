"""Shamir's secret sharing of 32-byte secrets over the integers modulo p = 2^256 + 297, a prime.

Shamir, "How to Share a Secret", CACM 1979. Not constant in time: the secrets live for one session and are
handled off the network path.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**256 + 297
SHARE_BYTES = 33
SECRET_BYTES = 32


def deal(secret: bytes, coefficients: Sequence[int], points: Sequence[int]) -> list[bytes]:
    """The shares of `secret` at `points`, 33 bytes each.

    Args:
        secret: 32 bytes, the value at 0.
        coefficients: of x, x^2, ... x^(t - 1), each uniform in [0, p).
        points: x >= 1, all different.
    """
    polynomial = [int.from_bytes(secret, "big"), *coefficients]
    return [_value(polynomial, x).to_bytes(SHARE_BYTES, "big") for x in points]


def is_share(share: bytes) -> bool:
    """Whether 33 bytes are a field element in its one spelling."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME


def value_at(x: int, shares: Mapping[int, bytes]) -> int:
    """The value at `x` of the one polynomial of degree below len(shares) through `shares` (point -> share)."""
    points = tuple(shares)
    weights = _weights(points, x)
    return sum(w * int.from_bytes(shares[point], "big") for w, point in zip(weights, points, strict=True)) % PRIME


def reconstruct(shares: Mapping[int, bytes]) -> bytes | None:
    """The 32 secret bytes behind exactly t shares; None where their value at 0 is no 32 bytes."""
    value = value_at(0, shares)
    return value.to_bytes(SECRET_BYTES, "big") if value < 1 << (8 * SECRET_BYTES) else None


def _value(polynomial: Sequence[int], x: int) -> int:
    """Horner's rule modulo p."""
    result = 0
    for coefficient in reversed(polynomial):
        result = (result * x + coefficient) % PRIME
    return result


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...], x: int) -> tuple[int, ...]:
    """Lagrange's weights of `points` for the value at `x`: public numbers, the same for all secrets."""
    weights = []
    for point in points:
        above, below = 1, 1
        for other in points:
            if other != point:
                above = above * (x - other) % PRIME
                below = below * (point - other) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
