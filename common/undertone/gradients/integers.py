"""Clipped gradients as integers: each unit's row is scaled, cut towards zero and added, and its length is checked.

A row of d values is never held whole. Its pieces come layer by layer, each already multiplied by s f_u, the grid's
scale and the unit's clip factor. A piece is cut to integers; the integers of all units are added, and beside the sum
grows each unit's exact sum of squares. Only when every unit's sum of squares is at most (s C)^2 may the sum be used:

    q_u = trunc(s f_u g_u)      Q = sum_u q_u      |q_u|^2 <= (s C)^2 for every u, in integers

So one unit moves Q by at most s C whatever its neighbours hold and however its gradient was rounded. No bound is argued
from floating point; the only thing asked of it is that q_u depends on unit u alone (PRIVACY 3, 14).
Norms in floating point only choose f_u. Where they were too low, the check fails and the sum is made again with the
factors of those units lowered; after `TRIES` the unit is a zero row.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.errors import MechanismViolation
from undertone.gradients.clipping import LARGEST_CLIP_UNITS, MARGIN

TRIES = 3
LARGEST_BATCH = 511
"""Units of at most 2^22 each, so that their sum stays within int32."""
_ON_CPU, _ELSEWHERE = 1 << 18, 1 << 24  # values at a time: what a processor's cache holds; what keeps a card busy

Fill = Callable[["IntegerSum"], None]
"""Adds every piece of every unit's row to an empty sum, scaled by its `factors`."""


class IntegerSum:
    """The sum over units of their quantised rows, in the making.

    Args:
        factors: s f_u, float64 [units]; a unit of factor 0 adds nothing, whatever its gradient is.
        sizes: how many values each trained tensor has, in the order of the layout.

    Attributes:
        squared: each unit's sum of squares so far, float64 [units]. It holds integers, exactly up to 2^53; beyond that
            it is rounded and still far above any (s C)^2.
    """

    def __init__(self, factors: Tensor, sizes: Sequence[int]) -> None:
        self.factors, self._sizes = factors, sizes
        self.squared = torch.zeros_like(factors)
        self._out = factors == 0
        self._any_out = bool(self._out.any())
        self._parts: dict[int, Tensor] = {}

    def add(self, place: int, units: slice | Tensor, start: int, values: Tensor) -> None:
        """Cut and add scaled values [n, m] of n units, which stand from `start` on in the flat tensor at `place`."""
        # The conversion cuts towards zero. What no int32 holds becomes some integer, whose square then counts.
        cut = values.to(torch.int32)
        if self._any_out:
            cut[self._out[units]] = 0
        wide = cut.double()
        self.squared[units] += torch.linalg.vecdot(wide, wide)
        self._part(place)[start : start + cut.shape[1]] += cut[0] if len(cut) == 1 else cut.sum(0, dtype=torch.int32)

    def over(self, clip_units: int) -> Tensor:
        """Which units' rows are longer than s C, bool [units]."""
        return ~(self.squared <= clip_units**2)

    def values(self) -> NDArray[np.int64]:
        """Q, [d] int64."""
        total, end = np.zeros(sum(self._sizes), dtype=np.int64), 0
        for place, size in enumerate(self._sizes):
            if place in self._parts:
                total[end : end + size] = self._parts[place].cpu().numpy()
            end += size
        return total

    def _part(self, place: int) -> Tensor:
        if place not in self._parts:
            self._parts[place] = torch.zeros(self._sizes[place], dtype=torch.int32, device=self.factors.device)
        return self._parts[place]


def clipped_integers(
    fill: Fill,
    norms: Tensor,
    sizes: Sequence[int],
    scale: int,
    clip_units: int,
    counted: Sequence[bool] | None = None,
    *,
    loss_scale: float = 1.0,
) -> NDArray[np.int64]:
    """Q = sum_u trunc(s min(1, C / |g_u|) g_u) with every |q_u| <= s C, exactly.

    Args:
        fill: adds all rows to an empty sum; may be called again.
        norms: |g_u| as floating point found it, float64 [units]; infinite where it is not finite.
        sizes: of the trained tensors.
        scale: s, by which a value of the gradient is multiplied.
        clip_units: s C, an integer.
        counted: which units are summed, all where None; the others hold their place in the batch.
        loss_scale: by which the pieces that `fill` adds are too large.

    Returns:
        Q [d] int64.

    Raises:
        MechanismViolation: more units or a larger s C than int32 holds the sum of.
    """
    if len(norms) > LARGEST_BATCH or clip_units > LARGEST_CLIP_UNITS:
        raise MechanismViolation(
            f"{len(norms)} units of length {clip_units} do not fit a sum of 32 bits; say a micro_batch of at most "
            f"{LARGEST_BATCH} in node.toml"
        )
    factors = (clip_units * MARGIN / norms).clamp(max=scale)
    summed = norms.isfinite()
    if counted is not None:
        summed &= torch.tensor(counted, dtype=torch.bool, device=norms.device)
    factors = torch.where(summed, factors / loss_scale, 0.0)
    tries = 0
    while True:
        total = IntegerSum(factors, sizes)
        fill(total)
        over = total.over(clip_units)
        if not bool(over.any()):
            return total.values()
        tries += 1
        lowered = factors * (clip_units * MARGIN / total.squared.sqrt()).nan_to_num(nan=0.0)
        factors = torch.where(over, lowered if tries < TRIES else 0.0, factors)


def values_at_once(device: torch.device) -> int:
    """How many values of gradients to work on at a time."""
    return _ON_CPU if device.type == "cpu" else _ELSEWHERE


def equal_parts(count: int, most: int) -> list[slice]:
    """0..count in parts of one size, at most `most` each: a place in the batch must not decide a kernel's shape."""
    size = next(size for size in range(max(min(most, count), 1), 0, -1) if count % size == 0)
    return [slice(start, start + size) for start in range(0, count, size)]
