"""What latents of public drawings say: a whitening to k coordinates, and centres to start at. No torch here.

    m [D], B [D, k]    mean and leading principal components of n drawings' latents, B orthonormal
    S = B^T cov B      [k, k]
    z = S^(-1/2) B^T (x - m)        x ~ m + B S^(1/2) z

B is the basis of its span that is nearest to a fixed public matrix (as in `undertone.methods.gradient.directions`) and
the roots are symmetric, so all of it follows from the span: neither signs nor mixing of principal components matter,
and machines whose arithmetic differs in last bits agree to some digits.

Privacy depends on nothing here: it comes from nothing private, and a row has its bound whatever the whitening is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.errors import ModelError, StudyError
from undertone.methods.gradient.directions import Directions
from undertone.methods.prototypes.mixture import Floats

_BASIS_SEED, _START_SEED = 20_301_201, 20_301_202
_LLOYD = 30
_SMALLEST = 1e-10  # of the largest variance: below it a component is rounding error


@dataclass(frozen=True)
class PublicLatents:
    """The public part of a study.

    kept: the share of the variance of other drawings' latents that lies in B. mean: m, [D]. into: S^(-1/2) B^T, [k, D].
    back: S^(1/2) B^T, [k, D]. centres: where k-means of whitened drawings ends, [J, k]. covariance: of drawings around
    their nearest centre, [k, k].
    """

    kept: float
    mean: NDArray[np.float32]
    into: NDArray[np.float32]
    back: NDArray[np.float32]
    centres: NDArray[np.float32]
    covariance: NDArray[np.float32]

    @property
    def spread(self) -> float:
        """How far drawings lie from their nearest centre: the root of the mean square, in coordinates."""
        return float(np.sqrt(np.trace(self.covariance.astype(np.float64))))

    def whitened(self, latents: NDArray[np.float32]) -> Floats:
        """The coordinates z [m, k] of latents [m, ...]; one at a time, in one shape: bits follow from one latent."""
        found = np.empty((len(latents), len(self.into)))
        with np.errstate(invalid="ignore", over="ignore"):
            for number, latent in enumerate(latents):
                found[number] = self.into @ (latent.reshape(-1) - self.mean)
        return found

    def latents(self, z: Floats) -> NDArray[np.float32]:
        """The latents [..., D] at coordinates z [..., k]."""
        return np.asarray(self.mean + z @ self.back, dtype=np.float32)

    def fingerprint(self) -> str:
        """16 public figures that tell these from others, though not from their rounding errors."""
        rows = np.concatenate([self.mean[None], self.back, self.latents(self.centres.astype(np.float64))])
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return Directions((rows / np.maximum(lengths, 1e-30)).astype(np.float32), self.kept, 0.0).fingerprint()


def public_latents(
    drawn: NDArray[np.float32], held_out: NDArray[np.float32], components: int, centres: int
) -> PublicLatents:
    """The public part, from latents of drawings.

    Args:
        drawn: [n, D]; n more than `components` and `centres`.
        held_out: of other drawings, [m, D], by which it is measured what is kept.
        components: k.
        centres: J.

    Raises:
        ModelError: a latent is not finite.
        StudyError: they span fewer than k components.
    """
    if not (np.isfinite(drawn).all() and np.isfinite(held_out).all()):
        raise ModelError("the latent of a public drawing is not finite on this base, so it has no public components")
    mean = drawn.mean(axis=0, dtype=np.float64)
    basis, within = _leading(drawn - mean, components)
    values, vectors = np.linalg.eigh(within)
    back = (vectors * np.sqrt(values)) @ vectors.T @ basis.T
    into = (vectors / np.sqrt(values)) @ vectors.T @ basis.T
    z = (drawn - mean) @ into.T
    found, covariance = _started(z, centres)
    other = held_out - mean
    kept = float(np.square(other @ basis).sum() / np.square(other).sum())
    return PublicLatents(kept, *(one.astype(np.float32) for one in (mean, into, back, found, covariance)))


def _leading(centred: Floats, k: int) -> tuple[Floats, Floats]:
    """B [D, k], and the covariance B^T cov B of `centred` [n, D] in it.

    Raises:
        StudyError: see `public_latents`.
    """
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    spanned = int((singular**2 > _SMALLEST * singular[0] ** 2).sum()) if len(singular) and singular[0] > 0 else 0
    if spanned < k:
        raise StudyError(
            f"method.components = {k}: latents of {len(centred)} public drawings span {spanned} components; ask for "
            "fewer, or for more drawings"
        )
    leading = right[:k]
    drawn = np.random.Generator(np.random.Philox(key=_BASIS_SEED)).standard_normal((centred.shape[1], k))
    a, _, b = np.linalg.svd(leading @ drawn)
    basis = leading.T @ (a @ b)
    projected = centred @ basis
    return basis, projected.T @ projected / len(centred)


def _started(z: Floats, count: int) -> tuple[Floats, Floats]:
    """Centres [J, k] of k-means from a k-means++ start with a public seed, and the covariance around them."""
    rng = np.random.Generator(np.random.Philox(key=_START_SEED))
    centres = z[[int(rng.integers(len(z)))]]
    for _ in range(1, count):
        squares = _squares(z, centres).min(axis=1)
        centres = np.append(centres, z[[rng.choice(len(z), p=squares / squares.sum())]], axis=0)
    for _ in range(_LLOYD):
        nearest = _squares(z, centres).argmin(axis=1)
        for place in range(count):
            if (nearest == place).any():
                centres[place] = z[nearest == place].mean(axis=0)
    residuals = z - centres[_squares(z, centres).argmin(axis=1)]
    return centres, residuals.T @ residuals / len(z)


def _squares(z: Floats, centres: Floats) -> Floats:
    """Squared distances, [n, J]."""
    return np.stack([np.square(z - centre).sum(axis=1) for centre in centres], axis=1)
