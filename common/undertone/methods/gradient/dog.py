"""DoG, steps by distance over gradients (Ivgi, Hinder and Carmon 2023, arXiv 2302.12022), from noised means alone.

    eta_t = r_t / sqrt(|V_1|^2 + ... + |V_t|^2)      r_t = max(r_epsilon, |w_1 - w_0|, ..., |w_{t-1} - w_0|)
    w     <- w - eta_t V_t
    released: the average of w in which the newest has weight (1 + gamma) / (t + gamma), gamma = 8

The first step is r_epsilon long. While means point one way the distance grows, and steps with it; noise that points
everywhere makes it grow with the root of t at most, and means that turn back stop it. C is in no step.

    kept = [w (d) | w_0 (d) | average of w (d) | r (1) | sum of squares (1) | t (1)]
"""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

GAMMA = 8


class DistanceOverGradients:
    """A server optimiser as `ServerOptimiser` is; r_epsilon is its `learning_rate`."""

    vectors = 3
    scalars = 3

    def __init__(self, first_step: float) -> None:
        self.first_step = first_step

    def start(self, w: Vector) -> Vector:
        """The kept array before the first round, from w [d]."""
        return np.concatenate([w, w, w, (self.first_step, 0.0, 0.0)]).astype(np.float32, copy=False)

    def released(self, kept: Vector) -> Vector:
        """The average, [d]."""
        average: Vector = self._split(kept)[2]
        return average

    def advance(self, kept: Vector, gradient: NDArray[np.float64]) -> Vector:
        """One step against a noised mean gradient [d]."""
        w, start, average = self._split(kept).copy()
        farthest, squares, t = (float(one) for one in kept[-self.scalars :])
        squares, t = squares + float(gradient @ gradient), t + 1
        if squares > 0:
            w -= np.float32(farthest / np.sqrt(squares)) * gradient.astype(np.float32)
        average += np.float32((1 + GAMMA) / (t + GAMMA)) * (w - average)
        farthest = max(farthest, float(np.linalg.norm(w - start)))
        return np.concatenate([w, start, average, (farthest, squares, t)]).astype(np.float32, copy=False)

    def _split(self, kept: Vector) -> Vector:
        return kept[: -self.scalars].reshape(self.vectors, -1)
