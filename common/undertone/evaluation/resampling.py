"""Intervals by patient: a bootstrap that draws units with replacement, each with all its images (Efron 1979).

Images of one patient resemble each other, so a bootstrap by image would make intervals too short.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES, SHARE = 1000, 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and the percentile interval that holds the true one in about 95 of 100 cases, given many units."""

    value: float
    low: float
    high: float


def unit_weights(
    units: Sequence[str], strata: Sequence[object] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """How often each image was drawn, [resamples, n]: as often as its unit.

    Args:
        units: whose each image is, [n].
        strata: what each image belongs to, [n]; as many units of each are drawn as it has. None: one stratum.
        resamples: how many draws of all units.
        seed: public.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    groups = list(zip(strata or [None] * len(units), units, strict=True))
    places: dict[tuple[object, str], int] = {}
    position = np.array([places.setdefault(group, len(places)) for group in groups])
    drawn = np.zeros((resamples, len(places)))
    for stratum in dict.fromkeys(stratum for stratum, _ in places):
        those = np.array([place for (one, _), place in places.items() if one == stratum])
        drawn[:, those] = generator.multinomial(len(those), np.full(len(those), 1 / len(those)), size=resamples)
    return drawn[:, position]


def estimate(value: float, resampled: NDArray[np.float64]) -> Estimate:
    """A figure with the interval of its resamples; those in which it has no value (NaN) do not count."""
    counted = resampled[np.isfinite(resampled)]
    if not counted.size:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(counted, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Estimate(value, float(low), float(high))


def weighted_auc(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The area under the ROC curve of scores [n] for each row of weights [b, n]; ties count half; [b].

    NaN where no positive or no negative image has a weight.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    ordered, is_positive = weights[:, order], positive[order]
    for_each = np.add.reduceat(ordered * is_positive, starts, axis=1)
    against = np.add.reduceat(ordered * ~is_positive, starts, axis=1)
    below = np.cumsum(against, axis=1) - against / 2
    pairs = for_each.sum(axis=1) * against.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((for_each * below).sum(axis=1) / pairs, dtype=np.float64)
