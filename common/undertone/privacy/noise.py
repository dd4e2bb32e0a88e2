"""The only place where noise is drawn (PRIVACY 7, 8).

Central: V = Q + rint(N) with N ~ Normal(0, sigma^2 I) and Q an integer vector. Because Q is an integer,
V = rint(Q + N): the Gaussian mechanism followed by rounding. Rounding is post-processing, so every bound for the
continuous Gaussian, the privacy loss distribution (PLD) among them, holds for V as it stands.

Distributed: each site adds a noise share, a discrete Gaussian, P(j) ~ exp(-j^2 / 2 sigma^2).

Both are drawn exactly, by inversion. A uniform word is an interval of reals: a sign, and p in [m, m + 1) / 2^64
with p < 1/2. Then |N| = sigma |z(p)|, where z(p) < 0 is the normal quantile.

1. *Fast*: z is computed in floating point for whole arrays (`scipy.special.ndtri`) and sigma |z| is rounded.
2. *Exact*: where sigma |z| is nearer to a rounding boundary than sigma 2^-40, or p is below 2^-20, floats decide
   nothing. p is compared with the boundary's exact probability in integers (`normal_bounds.py`), and gains
   another word of bits until the comparison is decided. No value is out of reach, no mass is cut off.
3. *Discrete*: j from the rounded law is kept with probability A_0 / A_j (`gauss.keep`), else drawn again. The
   rounded law gives j a mass proportional to exp(-j^2 / 2 sigma^2) A_j, so what is kept has the discrete law.
   A_j is the integral over |u| <= 1/2 of cosh(ju / sigma^2) exp(-u^2 / 2 sigma^2), hence A_0 <= A_j.

**Why 2^-40 is enough.** Three errors separate the computed z from z(p), where |z| < 4.8:
(a) the float that stands for p is off by at most 2^-52 p + 2^-65 (two roundings, half an interval). z moves by
that divided by the density at z. p / density <= 1.26 (Mills) and density > 2^-17.7, so by less than 2^-47.
(b) ndtri is documented with relative errors of 7.2e-16 at most, under 2^-48 here.
(c) the product with sigma, below 2^-50. Together under 2^-45: the margin is 32 times as wide. (b) is measured, not
proved: before the first draw of a process `check_quantiles` has the integers confirm ndtri to 2^-47.

How long a draw takes depends on the noise (not on the data); timing is not protected (PRIVACY 17).
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import exp

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from undertone.core.bounds import SIGMA
from undertone.errors import MechanismViolation
from undertone.privacy.distributed import SMALLEST_SHARE
from undertone.privacy.entropy import Entropy
from undertone.privacy.keystream import WORD_BITS, WordStream, fresh_key
from undertone.privacy.normal_bounds import below_keep, below_tail, tail

SMALLEST_SIGMA = 64
# Beyond, the margin would reach from one rounding boundary to the next.
LARGEST_SIGMA = SIGMA

_MARGIN = 2.0**-40
_SMALLEST_P = 2.0**-20
# ndtri is checked at so many points, to 2^-47.
_QUANTILES = 64
_QUANTILE_BITS = 47
_CHECK_BITS = 128
# The words, floats and results of one chunk stay in the second-level cache.
_CHUNK = 1 << 14
_CHUNKS_WORTH_A_THREAD = 16
_MOST_THREADS = 8

Values = NDArray[np.int64] | NDArray[np.uint32]
Draw = Callable[[WordStream, int, int], NDArray[np.int64]]


def rounded_gaussian(entropy: Entropy, sigma: int, size: int) -> NDArray[np.int64]:
    """`size` independent draws of rint(N(0, sigma^2)), exact.

    Args:
        entropy: the source of the key; `OsEntropy` outside tests.
        sigma: standard deviation in grid units, an integer in [64, 2^38].
        size: how many draws.

    Returns:
        [size] int64.

    Raises:
        MechanismViolation: sigma is none that the sampler is made for.
    """
    values = np.zeros(size, dtype=np.int64)
    add_rounded_gaussian(values, sigma, entropy)
    return values


def add_rounded_gaussian(values: Values, sigma: int, entropy: Entropy) -> None:
    """Add rint(N(0, sigma^2)) to each value in place, in constant memory.

    Args:
        values: [d] int64, or [d] uint32 in the ring of integers modulo 2^32.
        sigma: as in `rounded_gaussian`.
        entropy: the source of the key; `OsEntropy` outside tests.

    Raises:
        MechanismViolation: sigma is none that the sampler is made for; nothing was added.
    """
    check_sigma(sigma)
    _add(values, sigma, entropy, _rounded)


def discrete_gaussian(entropy: Entropy, sigma: int, size: int) -> NDArray[np.int64]:
    """`size` independent draws of the discrete Gaussian, exact; else as `rounded_gaussian`, sigma from 4."""
    values = np.zeros(size, dtype=np.int64)
    add_discrete_gaussian(values, sigma, entropy)
    return values


def add_discrete_gaussian(values: Values, sigma: int, entropy: Entropy) -> None:
    """Add a discrete Gaussian to each value in place; else as `add_rounded_gaussian`, sigma from 4."""
    check_sigma(sigma, SMALLEST_SHARE)
    _add(values, sigma, entropy, _discrete)


def check_sigma(sigma: int, smallest: int = SMALLEST_SIGMA) -> None:
    """Refuse a noise level that the sampler and the accounting are not made for.

    Raises:
        MechanismViolation: sigma is not an integer in [smallest, 2^38].
    """
    if isinstance(sigma, bool) or not isinstance(sigma, int) or not smallest <= sigma <= LARGEST_SIGMA:
        raise MechanismViolation(
            f"sigma is {sigma!r}; it must be an integer between {smallest} and 2^38 grid units. "
            "Plan the study anew: a finer grid (privacy.clip_norm, cohort.units) raises it"
        )


@cache
def check_quantiles() -> None:
    """Have exact integers confirm `ndtri`, at points spread over [2^-20, 1/2): once in a process.

    Raises:
        MechanismViolation: this scipy is less accurate than the margin supposes.
    """
    for p in np.exp2(np.linspace(-20, -1, _QUANTILES, endpoint=False)).tolist():
        numerator, denominator = (-float(ndtri(p))).as_integer_ratio()
        a, b = numerator << _QUANTILE_BITS, denominator << _QUANTILE_BITS
        exact = int(p * 2.0**_CHECK_BITS)
        if not tail(a + denominator, b, _CHECK_BITS)[1] < exact < tail(a - denominator, b, _CHECK_BITS)[0]:
            raise MechanismViolation(
                f"scipy.special.ndtri is off by more than 2^-{_QUANTILE_BITS} at {p:.3g}: noise drawn with it would "
                "not be exact. Install the version of scipy that constraints.txt names"
            )


def _add(values: Values, sigma: int, entropy: Entropy, draw: Draw) -> None:
    """Chunk by chunk, each from a stream of its own: threads change nothing in the result."""
    check_quantiles()
    key = fresh_key(entropy)

    def add_chunks(indices: range) -> None:
        for index in indices:
            part = values[index * _CHUNK : (index + 1) * _CHUNK]
            part += draw(WordStream(key, index), part.size, sigma).astype(part.dtype, copy=False)

    chunks = -(-values.size // _CHUNK)
    workers = max(1, min(os.cpu_count() or 1, _MOST_THREADS, chunks // _CHUNKS_WORTH_A_THREAD))
    if workers == 1:
        add_chunks(range(chunks))
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(add_chunks, [range(first, chunks, workers) for first in range(workers)]))


def _rounded(words: WordStream, size: int, sigma: int) -> NDArray[np.int64]:
    """[size] draws of rint(N(0, sigma^2)) from the next `size` words, and some more where those do not decide."""
    signed = words.take(size).view(np.int64)
    sign = signed >> (WORD_BITS - 1)
    m = signed ^ sign
    p = (m + 0.5) * 2.0**-WORD_BITS
    length: NDArray[np.float64] = ndtri(p) * -float(sigma)
    nearest = np.rint(length)
    magnitudes = nearest.astype(np.int64)
    doubtful = (np.abs(length - nearest) > 0.5 - sigma * _MARGIN) | (p < _SMALLEST_P)
    for index in np.flatnonzero(doubtful):
        magnitudes[index] = _exact_magnitude(int(m[index]), sigma, words)
    return (magnitudes ^ sign) - sign


def _exact_magnitude(m: int, sigma: int, words: WordStream) -> int:
    """rint(sigma |z(p)|) for p in [m, m + 1) / 2^64, refined by further words until it is certain."""
    bits = WORD_BITS
    k = _guess(m, bits, sigma)
    while True:
        # A small p lies far out: below the mass beyond a boundary means beyond that boundary.
        beyond_outer = below_tail(m, bits, 2 * k + 1, 2 * sigma)
        beyond_inner = k == 0 or below_tail(m, bits, 2 * k - 1, 2 * sigma)
        if beyond_outer is None or beyond_inner is None:
            m, bits = m << WORD_BITS | words.one(), bits + WORD_BITS
            k = _guess(m, bits, sigma)
        elif beyond_outer:
            k += 1
        elif not beyond_inner:
            k -= 1
        else:
            return k


def _guess(m: int, bits: int, sigma: int) -> int:
    """Where to begin the search: the rounded quantile in floats, good or not."""
    return round(-sigma * float(ndtri(max((2 * m + 1) / (2 << bits), sys.float_info.min))))


def _discrete(words: WordStream, size: int, sigma: int) -> NDArray[np.int64]:
    """[size] draws of the discrete Gaussian: rounded ones, thinned.

    A coin is a uniform real too; it keeps j if it is below A_0 / A_j. With h = |j| / 2 sigma^2 the integral of cosh
    alone is sinh(h) / h, and exp(-u^2 / 2 sigma^2) lies between g = exp(-1 / 8 sigma^2) and 1, so 1 - A_0 / A_j is
    at most (1 - h / sinh h) / g <= h^2 / 6g (compare the power series of sinh(h) (1 - h^2 / 6) and h). A coin below
    1 minus that keeps its j; the others (one in a hundred thousand at sigma = 64) are settled in integers.
    """
    values, coins = _rounded(words, size, sigma), words.take(size)
    slope = exp(1 / (8 * sigma**2)) / (24 * float(sigma) ** 4)
    # 2^-48 pays for the rounding of coin and bound.
    certain = (1.0 - 2.0**-48 - slope * np.square(values.astype(np.float64))) * 2.0**WORD_BITS
    doubtful = coins.astype(np.float64) >= certain
    for index in np.flatnonzero(doubtful):
        if not _kept(int(coins[index]), abs(int(values[index])), sigma, words):
            values[index] = _exact_discrete(sigma, words)
    return values


def _kept(coin: int, j: int, sigma: int, words: WordStream) -> bool:
    """True with probability A_0 / A_j, for a coin that is uniform on all words."""
    bits = WORD_BITS
    while (kept := below_keep(coin, bits, j, sigma)) is None:
        coin, bits = coin << WORD_BITS | words.one(), bits + WORD_BITS
    return kept


def _exact_discrete(sigma: int, words: WordStream) -> int:
    """One draw of the discrete Gaussian without floats."""
    while True:
        word = words.one()
        j = _exact_magnitude(word >> 1, sigma, words)
        if _kept(words.one(), j, sigma, words):
            return -j if word & 1 else j
