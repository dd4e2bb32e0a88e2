"""Sums of floats with a bound: fixed slots, for rows too long to be kept one by one (PRIVACY 14).

A round of a site has a fixed public number L of slots, computed some at a time in *micro-batches* of one shape. The
sampled units are put into them by a random injection, empty slots stay in the batch and count nothing, and surplus
units are dropped at random. Each micro-batch gives one float sum of gradients clipped to C(1 - eta), which is
rounded once to the grid.

**What one unit can move.** Let D' = D + u, and fix the coins and the slots of the units of D. Where u is not sampled,
the sums are equal. Where it is, it takes a slot that was empty, uniform among those; the others keep theirs, whose
law is that of a random injection of D's units alone. So u touches one micro-batch. There the float sum moves by at
most C, and by what kernels that see another neighbour add, at most eta C (measured for each device to be below
eta / 10, `undertone_client/summing.py`). Rounding moves two values at most one further apart:

    Delta = s C + ceil(sqrt(d)) + ceil(s C eta).

The outcome without u and the mixture over u's slots are then within Delta, and joint quasi-convexity gives the
Poisson-subsampled Gaussian as before. **Surplus.** Where more than L units are sampled, u's presence may push out
another. With N_i units and rate p that has probability P(Bin(N_i, p) > L) in a round; T rounds cost
T (1 + e^epsilon) times it, which is set aside from delta. It holds for sites that have no more units than they publish,
and that is checked when a plan is approved.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import exp, isqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from undertone.errors import MechanismViolation
from undertone.privacy.entropy import Entropy, below
from undertone.privacy.quantise import Grid
from undertone.stages import FLOAT_SUM, ClippedSum, Sensitivity

ETA = Fraction(1, 1000)
"""How much of C is left for floating point."""
# The most of delta that surplus units may cost; PRIVACY 7 allows a near-exact sampler as much.
_SHARE_OF_DELTA = 1e-3


def sum_clip_norm(grid: Grid) -> float:
    """C (1 - eta): what gradients of a float sum are clipped to."""
    return grid.clip_norm * float(1 - ETA)


def sum_sensitivity(clip_units: int, dimension: int) -> int:
    """Delta = s C + ceil(sqrt(d)) + ceil(s C eta), in grid units."""
    return clip_units + isqrt(dimension - 1) + 1 + -(-clip_units * ETA.numerator // ETA.denominator)


def overflow_delta(units: int, slots: int, sampling_rate: float, attempts: int, epsilon: float) -> float:
    """T (1 + e^epsilon) P(Bin(N_i, p) > L): what surplus units of one site cost of delta in all attempts."""
    if slots >= units:
        return 0.0
    return float(attempts * (1 + exp(epsilon)) * bdtrc(slots, units, sampling_rate))


def slots_for(units: int, sampling_rate: float, attempts: int, epsilon: float, delta: float) -> int:
    """L: the fewest slots with which surplus units cost at most a thousandth of delta."""
    low, high = 0, units
    while low < high:
        middle = (low + high) // 2
        if overflow_delta(units, middle, sampling_rate, attempts, epsilon) <= _SHARE_OF_DELTA * delta:
            high = middle
        else:
            low = middle + 1
    return max(low, 1)


def place(entropy: Entropy, units: Sequence[str], slots: int) -> list[str | None]:
    """A uniformly random injection of the units into the slots; of too many, which are left out is random.

    Args:
        entropy: `OsEntropy` outside tests.
        units: the sampled units.
        slots: L.

    Returns:
        Who stands in each slot, L entries; None: nobody.
    """
    placed: list[str | None] = [*units, *[None] * (slots - len(units))]
    for last in range(len(placed) - 1, 0, -1):  # Fisher and Yates
        other = below(entropy, last + 1)
        placed[last], placed[other] = placed[other], placed[last]
    return placed[:slots]


def site_sum_of_slots(total: NDArray[np.int64], grid: Grid) -> ClippedSum:
    """A site's sum [d] of rounded micro-batches, clamped to +-B; clamping brings no two sums further apart."""
    sensitivity = Sensitivity(sum_sensitivity(grid.clip_units, total.size), FLOAT_SUM)
    return ClippedSum(np.clip(total, -grid.site_clamp, grid.site_clamp), sensitivity)


def round_sum(total: NDArray[np.float64], grid: Grid) -> NDArray[np.int64]:
    """One micro-batch's float sum [d] -> integers [d], each rounded to the nearest.

    Raises:
        MechanismViolation: a value that clipped rows cannot have summed to.
    """
    scaled = np.ldexp(total, grid.scale.bit_length() - 1)
    if not bool(np.isfinite(scaled).all()) or bool((np.abs(scaled) >= 2.0**52).any()):
        raise MechanismViolation("a sum of clipped gradients is not a number of the grid's range; nothing was summed")
    return np.rint(scaled).astype(np.int64)
