"""How long steps are where a study leaves `learning_rate` to "auto": by public drawings, C and T, never by a subject.

A loss that is quadratic around w_0 is lowest along its gradient g at |g| / (u^T H u) from w_0, u = g / |g| (Cauchy's
step). That length, of public drawings, is what a way is measured by: it grows and shrinks with how w enters the base.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from undertone.errors import StudyError
from undertone.methods.gradient.optimisers import OptimiserOptions

# The first step of DoG over the way, which T steps of SGD go at most (docs/benchmarks.md).
_FIRST_STEP = 1 / 15
_DECREASE = 0.02  # of a loss that is 1 for who predicts nothing: how far the second gradient is taken from the first

Gradient = Callable[[NDArray[np.float32], int], NDArray[np.float64]]
"""w [d] and the number of a drawing -> its gradient at w with the same noise and times, [d]."""


def cauchy_distance(gradient: Gradient, start: NDArray[np.float32], count: int, name: str) -> float:
    """The median length of drawings' gradients over the median curvature along them.

    Args:
        gradient: of the first `count` drawings.
        start: w_0.
        count: how many drawings.
        name: of the method, for messages.

    Raises:
        StudyError: drawings have no gradient at the start, or no minimum along it.
    """
    lengths, curvatures = [], []
    for index in range(count):
        first = gradient(start, index)
        length = float(np.linalg.norm(first))
        if not 0 < length < np.inf:
            continue
        step = _DECREASE / length
        second = gradient((start - step * first / length).astype(np.float32), index)
        lengths.append(length)
        curvatures.append(float((first - second) @ first) / (length * step))
    curvature = float(np.median(curvatures)) if curvatures else 0.0
    if not 0 < curvature < np.inf:
        raise StudyError(
            f'method.learning_rate = "auto": the losses of public drawings have no minimum along their gradients where '
            f"{name} starts on this base, so no step can be measured by them; give a number"
        )
    return float(np.median(lengths)) / curvature


def rate_of_way(
    options: OptimiserOptions, way: float, clip_norm: float, rounds: int, dimension: int
) -> tuple[float, str]:
    """The rate, to two digits, at which T steps go `way` in all when every mean row is of length C; and why.

    A step of SGD is rate / (1 - momentum) times the mean row, one of Adam rate times sqrt(d) at most. DoG finds the
    lengths of its steps from noised means: its rate is the length of the first, a fifteenth of the way.
    """
    if options.optimiser == "dog":
        first = float(f"{_FIRST_STEP * way:.2g}")
        return first, f"the first step's length, by public drawings; the others' by noised means of {rounds} rounds"
    step = way / rounds
    if options.optimiser == "sgd":
        rate = step * (1 - options.momentum) / clip_norm
        beside = "C"
    else:
        rate = step / sqrt(dimension)
        beside = "each value's own size"
    return float(f"{rate:.2g}"), f"{rounds} steps of at most {step:.2g}, by public drawings and {beside}"
