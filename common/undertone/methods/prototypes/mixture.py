"""Prototypes, K classes of J weighted centres with a covariance each, and what rounds of noisy sums make of them.

All lies in k whitened coordinates of a base's latents (`public_latents.py`), where drawings have mean 0 and covariance
I. NumPy alone, and nothing here sees a record: every function is post-processing of noised sums (PRIVACY 16).
"""

from dataclasses import dataclass, replace
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from undertone.methods.classes import FLOOR, divisors

Floats = NDArray[np.float64]
# Centres end within so many root mean squares of a drawing's length; no private image that a base can draw lies beyond.
_FARTHEST = 4.0
# Eigenvalues of a covariance, in units of the drawings' own variance: below it there is noise alone.
_LEAST_VARIANCE = 1e-2
# What a class without images has of the mixture: a sampler can still be asked for it.
_LEAST_SHARE = 1e-6


class Sizes(NamedTuple):
    """K classes, J centres in each, k components."""

    classes: int
    centres: int
    components: int

    @property
    def slots(self) -> int:
        """How many centres there are in all."""
        return self.classes * self.centres

    @property
    def values(self) -> int:
        """Of w, d: centres, weights and a factor [k, k] of each class."""
        return self.classes * (self.centres * (self.components + 1) + self.components**2)

    @property
    def centre_row(self) -> int:
        """Values of a row in the rounds that move centres: a count and a residual for each."""
        return self.slots * (1 + self.components)

    @property
    def moment_row(self) -> int:
        """Values of a row in the last round: a count for each centre, second moments for each class."""
        return self.slots + self.classes * self.moments

    @property
    def moments(self) -> int:
        """Values of a symmetric matrix [k, k]."""
        return self.components * (self.components + 1) // 2

    @property
    def farthest(self) -> float:
        """How long a centre may be."""
        return _FARTHEST * sqrt(self.components)


@dataclass(frozen=True)
class Prototypes:
    """A mixture of Gaussians for each class.

    centres: [K, J, k]. weights: [K, J], of all images together, not of a class's. factors: [K, k, k], symmetric; a
    class's covariance is its factor's square, the same around each of its centres.
    """

    centres: Floats
    weights: Floats
    factors: Floats

    @property
    def sizes(self) -> Sizes:
        """K, J and k."""
        return Sizes(*self.centres.shape)

    @classmethod
    def of(cls, w: NDArray[np.float32], sizes: Sizes) -> "Prototypes":
        """From the vector w [d]: class by class centres, weights and factor."""
        parts = w.astype(np.float64).reshape(sizes.classes, -1)
        bounds = np.cumsum([sizes.centres * sizes.components, sizes.centres])
        centres, weights, factors = np.split(parts, bounds, axis=1)
        shape = (sizes.classes, sizes.centres, sizes.components)
        return cls(centres.reshape(shape), weights, factors.reshape(shape[0], shape[2], shape[2]))

    def vector(self) -> NDArray[np.float32]:
        """The vector w [d]."""
        parts = (part.reshape(self.sizes.classes, -1) for part in (self.centres, self.weights, self.factors))
        return np.concatenate(list(parts), axis=1).reshape(-1).astype(np.float32)


def start(centres: Floats, covariance: Floats, classes: int) -> Prototypes:
    """The same prototypes for each class, all public: centres [J, k] with equal weights, one covariance [k, k]."""
    count = len(centres)
    return Prototypes(
        np.tile(centres, (classes, 1, 1)),
        np.full((classes, count), 1.0 / (classes * count)),
        np.tile(square_root(covariance), (classes, 1, 1)),
    )


def moved(before: Prototypes, mean: Floats, deviation: float, count_weight: float) -> Prototypes:
    """Prototypes after a round of noisy Lloyd: each centre goes to the noisy mean of what is nearest to it.

    Residuals are divided by the *noisy* count of the same sum. Below F = 4 deviations of it they are divided by F, and
    shrunk by count / F once more, so a centre that has next to nobody stays where it was.

    Args:
        before: those that the residuals were taken from.
        mean: the noised mean row, [K J (1 + k)].
        deviation: of the noise in each of its values.
        count_weight: a, what counts were multiplied with.
    """
    sizes = before.sizes
    counts = mean[: sizes.slots] / count_weight
    residuals = mean[sizes.slots :].reshape(sizes.slots, sizes.components)
    steps = residuals * divisors(counts, FLOOR * deviation / count_weight)[:, None]
    centres = before.centres + steps.reshape(before.centres.shape)
    lengths = np.linalg.norm(centres, axis=2, keepdims=True)
    within = np.minimum(1.0, sizes.farthest / np.maximum(lengths, sizes.farthest))
    return replace(before, centres=centres * within)


def weighed(before: Prototypes, mean: Floats, deviation: float, count_weight: float, radius: float) -> Prototypes:
    """Prototypes with weights and covariances, from the noised mean row of the last round, [K J + K k (k + 1) / 2].

    A class's covariance is its noisy moments over its noisy count, shrunk towards that of all classes together, and
    that one towards `before`'s, which is public: the more, the more of what tells the two apart is noise.

    Args:
        before: the final centres; its factors are those of the start.
        mean: the noised mean row.
        deviation: of the noise in each of its values.
        count_weight: a.
        radius: R; moments were divided by it.
    """
    sizes, each = before.sizes, deviation / count_weight
    counts = mean[: sizes.slots].reshape(sizes.classes, sizes.centres) / count_weight
    sums = radius * mean[sizes.slots :].reshape(sizes.classes, sizes.moments)
    of_class, noise = counts.sum(1), radius * deviation
    floor, whole_floor = FLOOR * each * sqrt(sizes.centres), FLOOR * each * sqrt(sizes.slots)
    public = packed(before.factors[0] @ before.factors[0])
    whole = _shrunk(sums.sum(0), counts.sum(), whole_floor, noise * sqrt(sizes.classes), public)
    covariances = [_shrunk(one, count, floor, noise, whole) for one, count in zip(sums, of_class, strict=True)]
    factors = np.array([square_root(unpacked(one, sizes.components)) for one in covariances])
    return replace(before, weights=_weights(counts, FLOOR * each), factors=factors)


def _shrunk(sums: Floats, count: float, floor: float, noise: float, towards: Floats) -> Floats:
    """Noisy moments [n] over a noisy count, shrunk to `towards` [n] by the noise in it (James and Stein 1961).

    With n values of noise of deviation `noise` / count, the part of the squared distance that is noise is public.
    """
    (divided,) = divisors(np.array([count]), floor)
    away = sums * divided - min(max(count * divided, 0.0), 1.0) * towards
    distance = float(away @ away)
    signal = 1.0 - len(away) * (noise * divided) ** 2 / distance if distance > 0 else 0.0
    return np.asarray(towards + max(signal, 0.0) * away)


def _weights(counts: Floats, floor: float) -> Floats:
    """Noisy counts [K, J] as weights that sum to 1: less of those below the floor, which may be noise alone."""
    part = np.divide(counts, floor, out=np.ones_like(counts), where=floor > 0)
    kept = np.maximum(counts, 0.0) * np.clip(part, 0.0, 1.0)
    total = kept.sum()
    shares = kept / total if total > 0 else np.full(counts.shape, 1.0 / counts.size)
    least = _LEAST_SHARE / counts.size
    empty = shares.sum(1, keepdims=True) < least * counts.shape[1]
    shares = np.where(empty, least, shares)
    return np.asarray(shares / shares.sum())


def packed(matrix: Floats) -> Floats:
    """The upper triangle of a symmetric matrix [..., k, k], off the diagonal times sqrt(2): lengths stay, [..., n]."""
    rows, columns = np.triu_indices(matrix.shape[-1])
    return np.asarray(matrix[..., rows, columns] * np.where(rows == columns, 1.0, sqrt(2)))


def unpacked(values: Floats, components: int) -> Floats:
    """The symmetric matrix [k, k] of `packed`."""
    rows, columns = np.triu_indices(components)
    found = np.zeros((components, components))
    found[rows, columns] = found[columns, rows] = values / np.where(rows == columns, 1.0, sqrt(2))
    return found


def square_root(covariance: Floats) -> Floats:
    """The symmetric root of a symmetric matrix [k, k]; noise may have made eigenvalues negative: they have a floor."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, _LEAST_VARIANCE))) @ vectors.T)
