"""Public directions: k orthonormal vectors that hold most of what gradients of public drawings hold. No torch here.

    G [n, D]   the gradients of n drawings at the public start w_0, each of length 1
    U [k, D]   the k leading right singular vectors of G
    P = U^T polar(U R)        R [D, k] fixed and public; P [D, k] is the orthonormal basis of span(U) nearest to R

    row  x_u = P^T g_u        w = w_0 + P c, and c [k] is what is adapted (Yu et al. 2021, arXiv 2102.12677)

Machines differ in the last bits of G. Singular vectors do not bear that: their signs are free, and those of near-equal
singular values mix. Their span does bear it, and the basis of it that is nearest to R (Schönemann 1966) follows from
the span alone. Each drawing counts alike, however long its gradient is, because rows are clipped.

Privacy does not depend on any of this: P comes from nothing private, and a row is clipped after it was projected.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.errors import ModelError, StudyError

_BASIS_SEED, _PROBE_SEED = 20261129, 20261130
_BLOCK = 1 << 13  # columns of G at a time
_PROBES = 16
# Of the squared singular values: below it a direction is the gradients' rounding error, in float32.
_SMALLEST = 1e-8
# A figure of the fingerprint has a deviation of 1 for unrelated directions, and moves with the mean change of one.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Directions:
    """The matrix P, kept as `basis` = P^T [k, D] float32.

    of_rows: the mean share of a held-out public gradient's energy that P keeps; of_mean: the share of their mean's.
    """

    basis: NDArray[np.float32]
    of_rows: float
    of_mean: float

    def project(self, gradients: NDArray[np.float32]) -> NDArray[np.float32]:
        """P^T g for each row g of `gradients` [n, D], [n, k]; a gradient that is not finite gives a row that is not.

        One at a time, in the same shape, from a place of its own: a row's bits follow from its gradient alone.
        """
        rows = np.empty((len(gradients), len(self.basis)), dtype=np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            for number, gradient in enumerate(gradients):
                rows[number] = self.basis @ gradient.copy()
        return rows

    def moved(self, start: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is trained, w_0 + P c, [D]."""
        return np.asarray(start + c @ self.basis, dtype=np.float32)

    def fingerprint(self) -> str:
        """16 public figures that tell these directions from others, though not from their rounding errors."""
        k, d = self.basis.shape
        drawn = np.random.Generator(np.random.Philox(key=_PROBE_SEED))
        mixed = drawn.standard_normal((_PROBES, k)) / np.sqrt(k)
        seen = np.zeros(k)
        for start in range(0, d, _BLOCK):
            block = self.basis[:, start : start + _BLOCK].astype(np.float64)
            seen += block @ drawn.standard_normal(block.shape[1])
        return " ".join(f"{figure:.2f}" for figure in mixed @ seen)


def same_directions(fingerprint: str, other: str) -> bool:
    """Whether two fingerprints are of directions that differ by rounding errors at most."""
    try:
        one, two = (np.array([float(figure) for figure in text.split()]) for text in (fingerprint, other))
    except ValueError:
        return False
    return one.shape == two.shape == (_PROBES,) and bool(np.abs(one - two).max() <= _TOLERANCE)


def leading_directions(gradients: NDArray[np.float32], held_out: NDArray[np.float32], k: int) -> Directions:
    """The directions of public gradients.

    Args:
        gradients: G, [n, D], of any lengths, k <= n.
        held_out: gradients of other drawings [m, D], by which it is measured what P keeps.
        k: how many directions.

    Raises:
        ModelError: a gradient is not finite.
        StudyError: they span fewer than k directions; the message says how many.
    """
    gram, seen = _products(gradients, k)
    if not np.isfinite(gram).all():
        raise ModelError("the gradient of a public drawing is not finite on this base, so it has no public directions")
    lengths = np.sqrt(np.diag(gram))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    values, vectors = np.linalg.eigh(scale[:, None] * gram * scale)
    values, vectors = values[::-1], vectors[:, ::-1]
    spanned = int((values > _SMALLEST * max(values[0], 0.0)).sum()) if values[0] > 0 else 0
    if spanned < k:
        raise StudyError(
            f"method.directions = {k}: gradients of {len(gradients)} public drawings span {spanned} directions; ask "
            "for fewer"
        )
    left = (vectors[:, :k] / np.sqrt(values[:k])).T * scale  # U = left G
    a, _, b = np.linalg.svd(left @ seen)
    combined = (a @ b).T @ left
    basis = np.empty((k, gradients.shape[1]), dtype=np.float32)
    for start in range(0, basis.shape[1], _BLOCK):
        basis[:, start : start + _BLOCK] = combined @ gradients[:, start : start + _BLOCK].astype(np.float64)
    return Directions(basis, *_kept(basis, held_out))


def _products(gradients: NDArray[np.float32], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """G G^T [n, n] and G R [n, k], some columns at a time; R is drawn as it is used."""
    n, d = gradients.shape
    gram, seen = np.zeros((n, n)), np.zeros((n, k))
    drawn = np.random.Generator(np.random.Philox(key=_BASIS_SEED))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, d, _BLOCK):
            block = gradients[:, start : start + _BLOCK].astype(np.float64)
            gram += block @ block.T
            seen += block @ drawn.standard_normal((block.shape[1], k))
    return gram, seen


def _kept(basis: NDArray[np.float32], held_out: NDArray[np.float32]) -> tuple[float, float]:
    """The shares of energy that the directions keep of held-out gradients, each of length 1, and of their mean."""
    lengths = np.linalg.norm(held_out.astype(np.float64), axis=1)
    units = held_out[lengths > 0] / lengths[lengths > 0, None].astype(np.float32)
    if not len(units):
        return 0.0, 0.0
    mean = units.mean(axis=0, dtype=np.float64)
    of_rows = np.square((units @ basis.T).astype(np.float64)).sum(axis=1).mean()
    of_mean = np.square(basis.astype(np.float64) @ mean).sum() / np.square(mean).sum()
    return float(of_rows), float(of_mean)
