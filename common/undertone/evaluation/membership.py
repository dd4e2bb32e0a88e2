"""Membership inference: can an attacker who has an image tell whether it was trained on? By scores of any attack.

A diagnostic, never proof of privacy: an attack that fails says nothing of attacks that were not tried. What bounds
every attack is the release's epsilon and delta (PRIVACY 24).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.evaluation.resampling import Estimate, estimate, unit_weights, weighted_auc

MEANING = (
    "a diagnostic, never proof of privacy: attacks that fail here say nothing of attacks that were not tried; what "
    "bounds every attack is the release's epsilon and delta"
)
FALSE_POSITIVES = 0.01


@dataclass(frozen=True)
class Scored:
    """An attack's score of each image, higher for "trained on", [n]; and whose the images are."""

    scores: NDArray[np.float64]
    units: Sequence[str]

    def part(self, chosen: NDArray[np.bool_]) -> "Scored":
        """Some of the images."""
        return Scored(self.scores[chosen], [unit for unit, keep in zip(self.units, chosen, strict=True) if keep])


@dataclass(frozen=True)
class Attack:
    """auc: .5 is guessing. caught: the share of members with a score above that of all but 1 % of others.

    `caught` is None where so few others are there that 1 % is none.
    """

    auc: Estimate
    caught: float | None


def attack(members: Scored, others: Scored) -> Attack:
    """How well scores tell members from others of equal kind; the interval draws units of both apart."""
    scores = np.concatenate([members.scores, others.scores])
    is_member = np.arange(len(scores)) < len(members.scores)
    weights = unit_weights([*members.units, *others.units], is_member.tolist())
    area = float(weighted_auc(scores, is_member, np.ones((1, len(scores))))[0])
    return Attack(estimate(area, weighted_auc(scores, is_member, weights)), _caught(members.scores, others.scores))


def _caught(members: NDArray[np.float64], others: NDArray[np.float64]) -> float | None:
    most = int(FALSE_POSITIVES * len(others))
    if not most:
        return None
    threshold = np.sort(others)[-most - 1]  # at most `most` others lie above it
    return float((members > threshold).mean())
