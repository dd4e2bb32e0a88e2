"""The slow oracle of `undertone.privacy.noise`: the same laws by rejection, with integers alone and no quantile.

1. j ~ discrete Gaussian: P(j) ~ exp(-j^2 / 2 sigma^2) (Canonne, Kamath, Steinke 2020, algorithms 1-3).
2. u ~ uniform in [-1/2, 1/2). Keep j with probability exp(-gamma), else start again, where
   gamma = 6/sigma + (2ju + u^2) / 2 sigma^2 = (12 sigma + 2ju + u^2) / 2 sigma^2.

Then P(j kept) ~ integral over u of exp(-(j + u)^2 / 2 sigma^2), which is the mass of N between j - 1/2 and
j + 1/2. The keeping probability is at most 1 because gamma >= 0: j beyond 12 sigma is rejected in step 1, and
for |j| <= 12 sigma and |u| <= 1/2 one has 2ju + u^2 >= -|j| >= -12 sigma. The tail beyond (3e-33) is missing.

Uniform reals are never rounded: they are intervals, known to one word, and gain another word as long as a
comparison is undecided.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from undertone.privacy.entropy import Entropy

_TAIL = 12
_WORD_BITS = 64
_WORDS_PER_READ = 512
_FORMATS = {8: "B", 16: "H", 32: "I", 64: "Q"}


def rejection_rounded(entropy: Entropy, sigma: int, size: int) -> NDArray[np.int64]:
    """`size` draws of rint(N(0, sigma^2))."""
    words = _words(entropy)
    return np.array([_draw(words, sigma) for _ in range(size)], dtype=np.int64)


def rejection_discrete(entropy: Entropy, sigma: int, size: int) -> NDArray[np.int64]:
    """`size` draws of the discrete Gaussian."""
    words = _words(entropy)
    return np.array([_discrete_gaussian(words, sigma) for _ in range(size)], dtype=np.int64)


def _words(entropy: Entropy) -> Iterator[int]:
    """Uniform words, read in blocks. What one call leaves over is thrown away, so no bit is used twice."""
    layout = struct.Struct(f"<{_WORDS_PER_READ}{_FORMATS[_WORD_BITS]}")
    while True:
        yield from layout.unpack(entropy.bytes(layout.size))


def _draw(words: Iterator[int], sigma: int) -> int:
    """One exact draw: propose until kept."""
    while True:
        proposal = _discrete_gaussian(words, sigma)
        if _keep(words, proposal, sigma):
            return proposal


def _discrete_gaussian(words: Iterator[int], sigma: int) -> int:
    """P(j) ~ exp(-j^2 / 2 sigma^2) on |j| <= 12 sigma (Canonne, Kamath, Steinke 2020, algorithm 3).

    A discrete Laplace j of scale sigma is kept with probability exp(-(|j| - sigma)^2 / 2 sigma^2).
    """
    limit = _TAIL * sigma
    while True:
        magnitude = _geometric(words, sigma)
        # Two signs for zero would count it twice, so "minus zero" is drawn again.
        negative = next(words) & 1
        if magnitude > limit or (negative and magnitude == 0):
            continue
        if _bernoulli_exp(words, (magnitude - sigma) ** 2, 2 * sigma * sigma):
            return -magnitude if negative else magnitude


def _geometric(words: Iterator[int], scale: int) -> int:
    """P(x) ~ exp(-x / scale) on x = 0, 1, 2, ... (the same paper, algorithm 2)."""
    # Words from the last, incomplete stretch of `scale` values are thrown away: no modulo bias.
    accepted = (1 << _WORD_BITS) - (1 << _WORD_BITS) % scale
    while True:
        word = next(words)
        if word >= accepted:
            continue
        remainder = word % scale
        if _bernoulli_exp(words, remainder, scale):
            break
    quotient = 0
    while _bernoulli_exp(words, 1, 1):
        quotient += 1
    return remainder + scale * quotient


def _bernoulli_exp(words: Iterator[int], numerator: int, denominator: int) -> bool:
    """True with probability exactly exp(-numerator / denominator) (the same paper, algorithm 1)."""
    while numerator > denominator:
        if not _bernoulli_exp(words, 1, 1):
            return False
        numerator -= denominator
    # With coins of probability gamma / k the first failure comes at an odd k with probability exp(-gamma).
    k = 1
    while _below(words, numerator, denominator * k):
        k += 1
    return k % 2 == 1


def _below(words: Iterator[int], numerator: int, denominator: int) -> bool:
    """True with probability exactly numerator / denominator: is a uniform real below it?"""
    value = next(words)
    target = numerator << _WORD_BITS
    while True:
        # The real lies in [value, value + 1) units of the last word.
        if (value + 1) * denominator <= target:
            return True
        if value * denominator >= target:
            return False
        value = value << _WORD_BITS | next(words)
        target <<= _WORD_BITS


def _keep(words: Iterator[int], j: int, sigma: int) -> bool:
    """True with probability exp(-(12 sigma + 2ju + u^2) / 2 sigma^2) for a fresh uniform u in [-1/2, 1/2).

    As in `_bernoulli_exp`, with coins v < gamma(u) / k. Both u and v are intervals of width 2^-bits; u is the
    same real for every k, so what was learnt of it is kept.
    """
    bits = _WORD_BITS
    u = next(words) - (1 << (bits - 1))
    k = 1
    while True:
        v = 0
        for _ in range(bits // _WORD_BITS):
            v = v << _WORD_BITS | next(words)
        while True:
            low, high = _gamma_bounds(j, sigma, u, bits)
            step = 2 * sigma * sigma * k << bits
            if (v + 1) * step <= low:
                break
            if v * step >= high:
                return k % 2 == 1
            u = u << _WORD_BITS | next(words)
            v = v << _WORD_BITS | next(words)
            bits += _WORD_BITS
        k += 1


def _gamma_bounds(j: int, sigma: int, u: int, bits: int) -> tuple[int, int]:
    """Least and largest 4^bits * (12 sigma + 2ju + u^2) for u in [u, u + 1) / 2^bits.

    The parabola turns at -j, and -j is never inside such an interval, so the ends are the extremes.
    """
    constant = 2 * _TAIL * sigma << (2 * bits - 1)
    slope = 2 * j << bits
    first = constant + u * (slope + u)
    last = constant + (u + 1) * (slope + u + 1)
    return (first, last) if first <= last else (last, first)
