"""Where every private coin, key and noise bit comes from: the operating system, and nothing seeded.

A seeded generator would let whoever learns the seed subtract the noise, so the package has none. The
tests bring their own `InsecureTestEntropy`, which is why functions take an `Entropy` as argument.
"""

import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from undertone.errors import StudyError


class Entropy(Protocol):
    """A source of uniform, independent bits."""

    def bytes(self, n: int) -> bytes:
        """`n` uniform bytes, n >= 0."""
        ...

    def bits(self, k: int) -> int:
        """A uniform integer in [0, 2^k); 0 when k = 0."""
        ...


class OsEntropy:
    """Entropy from the kernel.

    It keeps no buffer: a buffer copied by fork or pickle would hand two processes the same noise.
    So there is no state that a repr, a pickle or a core file could reveal.
    """

    def bytes(self, n: int) -> bytes:
        """`n` bytes of `os.urandom`."""
        return os.urandom(n)

    def bits(self, k: int) -> int:
        """A uniform integer in [0, 2^k); 0, without asking the kernel, when k = 0."""
        if k == 0:
            return 0
        size = (k + 7) // 8
        return int.from_bytes(os.urandom(size), "little") >> (8 * size - k)


def bernoulli(entropy: Entropy, p: float) -> bool:
    """One coin that is True with probability exactly the float `p`.

    A float in [0, 1] is m / 2^e for integers m and e, so e bits read as an integer are below m with
    probability m / 2^e, with no rounding anywhere. p = 0 and p = 1 have e = 0 and draw no bits.

    Raises:
        StudyError: p is not in [0, 1].
    """
    numerator, exponent = _dyadic(p)
    return entropy.bits(exponent) < numerator


def poisson_sample(entropy: Entropy, n: int, p: float) -> NDArray[np.bool_]:
    """Who takes part in this attempt: n independent coins of probability exactly p, [n] bool (PRIVACY 2).

    The result is secret. It must stay at the node and be drawn afresh for each attempt.

    Raises:
        StudyError: p is not in [0, 1].
    """
    numerator, exponent = _dyadic(p)
    return np.array([entropy.bits(exponent) < numerator for _ in range(n)], dtype=np.bool_)


def below(entropy: Entropy, n: int) -> int:
    """A uniform integer in [0, n), n >= 1: bits are drawn anew until they are below n."""
    while (drawn := entropy.bits((n - 1).bit_length())) >= n:
        pass
    return drawn


def _dyadic(p: float) -> tuple[int, int]:
    """(m, e) with p = m / 2^e exactly."""
    if not 0.0 <= p <= 1.0:
        raise StudyError(f"privacy.sampling_rate is {p}; give a number between 0 and 1")
    numerator, denominator = float(p).as_integer_ratio()
    return numerator, denominator.bit_length() - 1
