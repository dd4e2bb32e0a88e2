"""What tells two sets of images apart, on one kind of features: all measures of a row of a table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.evaluation.frechet import frechet_distance
from undertone.evaluation.kid import kid
from undertone.evaluation.neighbourhoods import NEAREST, neighbourhoods


@dataclass(frozen=True)
class Distances:
    """How far `images` generated ones are from `reference` real ones, and what part of them they cover.

    See `kid`, `frechet_distance` and `neighbourhoods`; None where a set is too small for a figure.
    """

    images: int
    reference: int
    kid: float | None = None
    fid: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None


def distances_to(reference: NDArray[np.float64], generated: NDArray[np.float64]) -> Distances:
    """Features generated [m, d] held against reference [n, d]."""
    sizes = (len(generated), len(reference))
    if min(sizes) < 2:
        return Distances(*sizes)
    distances = (kid(reference, generated), frechet_distance(reference, generated))
    if min(sizes) <= NEAREST:
        return Distances(*sizes, *distances)
    found = neighbourhoods(reference, generated)
    return Distances(*sizes, *distances, found.precision, found.recall, found.density, found.coverage)
