"""A unit's row: how its images fall to the centres of their classes, and what lies between (PRIVACY 16).

Each record gives one vector of length sqrt(a^2 + R^2) at most, whatever its latent is, and a unit's row is their mean:
so that is a bound for every row, and C may be just that. The mechanism clips the row once, as a whole, all the same.

Rows are made one record at a time, from products of one shape: their bits follow from the unit alone (PRIVACY 3).
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from undertone.methods.prototypes.mixture import Floats, Prototypes, packed


def bound(radius: float, count_weight: float) -> float:
    """The length of the longest row."""
    return sqrt(count_weight**2 + radius**2)


def centre_row(z: Floats, places: NDArray[np.int64], at: Prototypes, radius: float, count_weight: float) -> Floats:
    """[a 1 for the nearest centre of the record's class ; z - mu there, cut to R], averaged over records.

    Args:
        z: whitened latents, [m, k].
        places: of each record's class, [m].
        at: the prototypes.
        radius: R.
        count_weight: a.

    Returns:
        [K J (1 + k)]: counts first.
    """
    sizes = at.sizes
    counts, residuals = np.zeros(sizes.slots), np.zeros((sizes.slots, sizes.components))
    for one, place in zip(z, places, strict=True):
        nearest, residual = _nearest(one, at.centres[place], radius)
        counts[place * sizes.centres + nearest] += count_weight
        residuals[place * sizes.centres + nearest] += residual
    return np.concatenate([counts, residuals.reshape(-1)]) / len(z)


def moment_row(z: Floats, places: NDArray[np.int64], at: Prototypes, radius: float, count_weight: float) -> Floats:
    """[a 1 for the nearest centre ; (z - mu)(z - mu)^T / R for the class], averaged; [K J + K k (k + 1) / 2].

    Off the diagonal the upper triangle is multiplied with sqrt(2), so its length is |z - mu|^2 / R.
    """
    sizes = at.sizes
    counts, moments = np.zeros(sizes.slots), np.zeros((sizes.classes, sizes.moments))
    for one, place in zip(z, places, strict=True):
        nearest, residual = _nearest(one, at.centres[place], radius)
        counts[place * sizes.centres + nearest] += count_weight
        moments[place] += packed(np.outer(residual, residual)) / radius
    return np.concatenate([counts, moments.reshape(-1)]) / len(z)


def _nearest(z: Floats, centres: Floats, radius: float) -> tuple[int, Floats]:
    """Which centre [J, k] is nearest to z [k], and z - mu there, cut to length `radius`.

    A z that is not finite gives a residual that is not, and no row.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        away = z - centres
        squares = np.square(away).sum(axis=1)
        nearest = int(np.argmin(squares))
        length = sqrt(squares[nearest])
        return nearest, away[nearest] * (radius / length) if length > radius else away[nearest]
