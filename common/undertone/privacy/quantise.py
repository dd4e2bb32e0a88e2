"""From float rows to bounded integers (PRIVACY 4, 5).

Clip in float64, multiply by a power of two (exact), cut towards zero, then check the norm in integers:
the bound that the noise is calibrated to never rests on a float. Each row is worked on alone, in an array
of its own, so that the order in which a sum of squares is rounded cannot depend on which other rows
are there. Otherwise removing one unit could shift the others by a unit of the grid.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from undertone.errors import MechanismViolation, StudyError
from undertone.gradients.clipping import LARGEST_CLIP_UNITS, MARGIN, SMALLEST_CLIP_UNITS
from undertone.privacy.stages import PER_ROW, ClippedSum, Contributions, Sensitivity

# A row of d values of like size has them at s C / sqrt(d): below this, cutting would cost a good part of each.
_SMALLEST_VALUE_UNITS = 64
# Every |q| is at most 2^22, so 2^18 squares sum to at most 2^62 and fit an int64.
_ROWS_AT_ONCE = 256
_SQUARES_PER_BLOCK = 1 << 18
RING_BITS = 32
_RING_MASK = (1 << RING_BITS) - 1


@dataclass(frozen=True)
class Grid:
    """The public integers of the mechanism; all stand in the plan.

    Attributes:
        scale: s, a power of two: one float unit is s grid units.
        clip_units: s*C, the L2 bound of a quantised row, which is Delta where rows are of units.
        site_clamp: B, the bound on each coordinate of a site's sum.
        modulus_bits: b, the width of the wire's modulus.
    """

    scale: int
    clip_units: int
    site_clamp: int
    modulus_bits: int

    def __post_init__(self) -> None:
        """Refuse what `choose_grid` could not have chosen.

        Raises:
            MechanismViolation: a value out of range.
        """
        if not (1 <= self.scale < 1 << 63 and self.scale & (self.scale - 1) == 0):
            raise MechanismViolation(f"scale {self.scale} is not a power of two below 2^63; plan again")
        if not SMALLEST_CLIP_UNITS <= self.clip_units <= LARGEST_CLIP_UNITS:
            raise MechanismViolation(f"clip_units {self.clip_units} is outside [2^10, 2^22]; plan again")
        if not (1 <= self.modulus_bits <= RING_BITS and 0 < self.site_clamp < 1 << (self.modulus_bits - 1)):
            raise MechanismViolation(
                f"site_clamp {self.site_clamp} does not fit a modulus of {self.modulus_bits} bits; plan the study anew"
            )

    @property
    def clip_norm(self) -> float:
        """C = clip_units / scale, exactly."""
        return self.clip_units / self.scale


def choose_grid(
    clip_norm: float,
    sampling_rate: float,
    largest_site: int,
    sites: int,
    modulus_bits: int = 32,
    noise_margin: Callable[[int], int] = lambda clip_units: 0,
) -> Grid:
    """The finest grid on which neither a site's sum nor the total of all sites is expected to clip.

    B = floor((2^(b-1) - 1 - m) / n). s is the largest power of two with
    s*C*(p*Nmax + 6 sqrt(p*Nmax)) <= B and s*C <= 2^22. C is then rounded down to clip_units / s.

    Args:
        clip_norm: C wished for, > 0.
        sampling_rate: p in (0, 1].
        largest_site: Nmax, the largest published number of units.
        sites: n, the full roster.
        modulus_bits: b.
        noise_margin: from s*C to m, room for noise that is added before the modulus (0 with central noise).

    Raises:
        StudyError: a value is out of range, or the grid would be coarser than 2^10 units per C.
    """
    _check_study(clip_norm, sampling_rate, largest_site, sites, modulus_bits)
    expected = sampling_rate * largest_site
    load = Fraction(expected + 6.0 * math.sqrt(expected))

    def clip_and_clamp(exponent: int) -> tuple[Fraction, int]:
        clip = Fraction(clip_norm) * (1 << exponent)
        return clip, ((1 << (modulus_bits - 1)) - 1 - noise_margin(math.floor(clip))) // sites

    # Exact fractions: the same plan on every machine. A finer grid has more noise in it, hence the search.
    exponents = [e for e in range(63) if Fraction(clip_norm) * (1 << e) <= LARGEST_CLIP_UNITS]
    fitting = [e for e in exponents if clip_and_clamp(e)[0] * load <= clip_and_clamp(e)[1]]
    exponent = fitting[-1] if fitting else 0
    clip, clamp = clip_and_clamp(exponent)
    clip_units = math.floor(clip) if fitting else 0
    if clip_units < SMALLEST_CLIP_UNITS:
        raise StudyError(
            f"privacy.clip_norm {clip_norm} with {sites} sites of up to {largest_site} units at "
            f"privacy.sampling_rate {sampling_rate} leaves {clip_units} grid units per clip norm, fewer than "
            f"{SMALLEST_CLIP_UNITS}; lower the sampling rate, or give a clip_norm between 1e-6 and 1000"
            + (", or aggregation.wire_bits = 32" if modulus_bits < RING_BITS else "")
        )
    return Grid(scale=1 << exponent, clip_units=clip_units, site_clamp=clamp, modulus_bits=modulus_bits)


def too_coarse(clip_units: int, dimension: int) -> bool:
    """Whether s C / sqrt(d) is below 64: values of a clipped row would fall between few integers, or to zero."""
    return clip_units**2 < _SMALLEST_VALUE_UNITS**2 * dimension


def clip_and_quantise(rows: NDArray[np.floating], grid: Grid) -> NDArray[np.int64]:
    """Rows [n, d] of any float type -> integers [n, d], each row of L2 norm at most `grid.clip_units`.

    | row | result |
    |---|---|
    | norm at most C(1 - 2^-10) | trunc(s*x) |
    | longer, up to norms beyond the float range (1e300 in each place) | scaled to C(1 - 2^-10), then cut |
    | all zero, subnormal, or below one grid unit | zeros |
    | any NaN or infinity | a zero row |
    | integer norm still above clip_units | shrunk once more, else a zero row |
    | n = 0 | an empty [0, d] |

    Never raises and never warns on values (PRIVACY 17). No other row has any part in a row's result.
    """
    quantised = np.zeros(rows.shape, dtype=np.int64)
    for index in range(rows.shape[0]):
        quantised[index] = _quantise_row(rows[index], grid)
    return quantised


def site_sum(contributions: Contributions, grid: Grid) -> ClippedSum:
    """A site's sum of quantised rows, clamped to +-B in each coordinate.

    Adding or removing one row moves the sum by at most clip_units in L2, and clamping brings two
    vectors no further apart in any coordinate, so Delta = clip_units before and after. With no row the
    sum is zero. Rows are summed as they come; integers make the order irrelevant.
    """
    return site_sum_of_integers(sum_of_blocks([contributions], contributions.rows.shape[1], grid), grid)


def sum_of_blocks(blocks: Iterable[Contributions], dimension: int, grid: Grid) -> NDArray[np.int64]:
    """The sum [d] of quantised rows that come some at a time, [n, d] each with d = `dimension`; not clamped.

    Only the whole sum is clamped. Were each block clamped, removing one unit would move others into
    other blocks, and with them more than one row's worth of the result.
    """
    total = np.zeros(dimension, dtype=np.int64)
    for block in blocks:
        for start in range(0, len(block.rows), _ROWS_AT_ONCE):
            total += clip_and_quantise(block.rows[start : start + _ROWS_AT_ONCE], grid).sum(axis=0)
    return total


def site_sum_of_integers(total: NDArray[np.int64], grid: Grid, relation: str = PER_ROW) -> ClippedSum:
    """`site_sum` of rows that were cut to integers and summed before, [d]: here, or as they were made (`gradients/`).

    Each of them was at most clip_units long, in integers: so is what one unit moves, before and after the clamp. Where
    rows are of shards, a unit turns one such row into another, and moves twice as much (PRIVACY 15).
    """
    clamped = np.clip(total, -grid.site_clamp, grid.site_clamp)
    return ClippedSum(clamped, Sensitivity.of(grid.clip_units, relation))


def to_ring(values: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Integers [d] -> the ring of integers modulo 2^32, [d] uint32."""
    return (values & _RING_MASK).astype(np.uint32)


def from_ring(words: NDArray[np.uint32], sites: int, site_clamp: int) -> NDArray[np.int64]:
    """An opened sum [d] in the ring -> signed integers [d], two's complement.

    Args:
        words: the sum modulo 2^32.
        sites: how many sites are in it.
        site_clamp: B. A value beyond sites * B is refused: clamped sites cannot sum to it.

    Raises:
        MechanismViolation: a value that the clamped sites cannot have produced.
    """
    values = words.astype(np.uint32).view(np.int32).astype(np.int64)
    bound = sites * site_clamp
    if values.size and int(np.abs(values).max()) > bound:
        raise MechanismViolation(
            f"the opened sum of {sites} sites has a coordinate beyond {bound}; a site did not clamp, or the "
            "masks did not cancel. Nothing was released; start another attempt"
        )
    return values


def _quantise_row(row: NDArray[np.floating], grid: Grid) -> NDArray[np.int64]:
    """One row [d] -> integers [d] with sum q^2 <= clip_units^2, checked in integers."""
    # A host program may have told numpy to raise on overflow; a record must not be able to trigger that.
    with np.errstate(all="ignore"):
        vector = np.array(row, dtype=np.float64, order="C")
        clipped = _clip(vector, grid.clip_norm * MARGIN)
        for candidate in (clipped, clipped * MARGIN):
            # ldexp by log2(s) is exact; |s*x| <= clip_units <= 2^22 fits an int64.
            quantised = np.trunc(np.ldexp(candidate, grid.scale.bit_length() - 1)).astype(np.int64)
            if _squared_norm(quantised) <= grid.clip_units**2:
                return quantised
        return np.zeros_like(quantised)


def _clip(vector: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """`vector` [d] scaled down to L2 norm `bound` where it is longer; zeros where it is not finite.

    Dividing by the largest entry first keeps the squares inside the float range.
    """
    if not bool(np.isfinite(vector).all()):
        return np.zeros_like(vector)
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0.0:
        return vector
    direction = vector / largest
    length = math.sqrt(float(np.sum(np.square(direction))))  # in [1, sqrt(d)]
    if largest <= bound / length:
        return vector
    return direction * (bound / length)


def _squared_norm(quantised: NDArray[np.int64]) -> int:
    """Sum of squares of [d] integers of at most 2^22 each, as an exact Python integer."""
    starts = range(0, quantised.size, _SQUARES_PER_BLOCK)
    return sum(int(np.sum(np.square(quantised[i : i + _SQUARES_PER_BLOCK]))) for i in starts)


def _check_study(clip_norm: float, sampling_rate: float, largest_site: int, sites: int, modulus_bits: int) -> None:
    """Raise StudyError naming the first key that is out of range."""
    if not (math.isfinite(clip_norm) and clip_norm > 0):
        raise StudyError(f"privacy.clip_norm is {clip_norm}; give a positive number")
    if not 0 < sampling_rate <= 1:
        raise StudyError(f"privacy.sampling_rate is {sampling_rate}; give a number above 0 and at most 1")
    if largest_site < 1 or sites < 1:
        raise StudyError("cohort.units must name at least one site with at least one unit")
    if not 1 < modulus_bits <= RING_BITS:
        raise StudyError(f"a modulus of {modulus_bits} bits is not supported; use {RING_BITS}")
