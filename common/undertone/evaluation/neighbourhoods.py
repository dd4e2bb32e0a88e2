"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), on any features.

Around each image lies a ball that reaches to its k-th nearest of its own set. As in the code of Naeem et al. an image
is in a ball if it is nearer than the radius, so an image that is repeated has an empty ball.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import DistanceMetric
from sklearn.neighbors import NearestNeighbors

from undertone.errors import InputError

NEAREST = 5
_ROWS = 512  # of the table of distances at a time


@dataclass(frozen=True)
class Neighbourhoods:
    """Shares in 0..1; density may exceed 1.

    precision: of generated images, those in a real image's ball. recall: of real images, those in a generated image's
    ball. density: how many real balls a generated image lies in, over k. coverage: of real images, those whose ball
    holds a generated image.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real: NDArray[np.float64], generated: NDArray[np.float64], k: int = NEAREST) -> Neighbourhoods:
    """The four figures of features real [n, d] and generated [m, d].

    Raises:
        InputError: one set has no k-th neighbour.
    """
    if min(len(real), len(generated)) <= k:
        raise InputError(f"precision and recall with {k} neighbours need at least {k + 1} images on each side")
    reach_real, reach_generated = _radii(real, k), _radii(generated, k)
    metric = DistanceMetric.get_metric("euclidean")
    balls = np.zeros(len(generated), dtype=np.int64)
    recalled, covered = [], []
    for start in range(0, len(real), _ROWS):
        distances = metric.pairwise(real[start : start + _ROWS], generated)
        inside = distances < reach_real[start : start + _ROWS, None]
        balls += inside.sum(axis=0)
        covered.append(inside.any(axis=1))
        recalled.append((distances < reach_generated[None]).any(axis=1))
    return Neighbourhoods(
        precision=float((balls > 0).mean()),
        recall=float(np.concatenate(recalled).mean()),
        density=float(balls.mean() / k),
        coverage=float(np.concatenate(covered).mean()),
    )


def _radii(x: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Distance to the k-th nearest other row; by a tree, which subtracts: products of rows round equal ones apart."""
    distances, _ = NearestNeighbors(n_neighbors=k, algorithm="ball_tree").fit(x).kneighbors()
    radii: NDArray[np.float64] = distances[:, -1]
    return radii
