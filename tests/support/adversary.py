"""The true delta of plans that depend on what came out: privacy losses on a grid, and who chooses sees the loss so far.

The unit is there (P) or not (Q). The loss of one charge with noise z and rate p is ln(1 - p + p e^((2x - 1) / 2 z^2))
at x. What lies between two points of the grid goes to both so that the mass under P and that under Q stay as they are:
such a loss is worse than the true one ("connect the dots", Doroshenko et al. 2022), so delta is not too low.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.special import ndtr

STEP = 0.01
REACH = 4000  # steps: losses of 40 and more count as infinite
LOSSES = np.arange(-REACH, REACH + 1) * STEP
Counts = tuple[int, ...]


def loss_law(z: float, p: float) -> NDArray[np.float64]:
    """[2 REACH + 1] the mass under P of each loss of one charge; the rest, up to 1, is at infinity."""
    inner = (np.exp(LOSSES) - 1 + p) / p
    x = np.where(inner > 0, z**2 * np.log(np.maximum(inner, 1e-300)) + 0.5, -np.inf)
    with_, without = (1 - p) * ndtr(x / z) + p * ndtr((x - 1) / z), ndtr(x / z)
    here, there = np.diff(with_), np.diff(without)
    upper = np.clip((here - there * np.exp(LOSSES[:-1])) / -np.expm1(-STEP), 0, here)
    law = np.zeros(LOSSES.size)
    law[1:] += upper
    law[:-1] += here - upper
    law[0] += with_[0]
    return law


def delta_of_the_adversary(
    kinds: list[tuple[float, float]],
    epsilon: float,
    admits: Callable[[Counts], bool],
    prefers: Callable[[NDArray[np.float64], Counts], NDArray[np.int64]],
) -> float:
    """E max(0, 1 - e^(epsilon - L)) when `prefers` chooses the next kind of charge by the loss, until none is admitted.

    Args:
        kinds: (z, p) of each kind of charge.
        epsilon: of the claim.
        admits: whether so many charges of each kind are.
        prefers: [2 REACH + 1] the kind that is wanted next, at each loss; another is taken where it is not admitted.
    """
    laws = [loss_law(z, p) for z, p in kinds]
    start = np.zeros(2 * REACH + 1)
    start[REACH] = 1
    at: Mapping[Counts, NDArray[np.float64]] = {(0,) * len(kinds): start}
    delta = mass = 0.0
    while at:
        following: defaultdict[Counts, NDArray[np.float64]] = defaultdict(lambda: np.zeros(2 * REACH + 1))
        for counts, law in at.items():
            nexts = [tuple(n + (i == kind) for i, n in enumerate(counts)) for kind in range(len(kinds))]
            admitted = [kind for kind in range(len(kinds)) if admits(nexts[kind])]
            if not admitted:
                delta += float(law @ np.maximum(0, -np.expm1(epsilon - LOSSES)))
                mass += float(law.sum())
                continue
            wanted = prefers(LOSSES, counts)
            wanted = np.where(np.isin(wanted, admitted), wanted, admitted[0])
            for kind in admitted:
                chosen = np.where(wanted == kind, law, 0)
                if chosen.any():
                    full = np.maximum(fftconvolve(chosen, laws[kind]), 0)
                    kept = full[REACH : 3 * REACH + 1]
                    kept[0] += full[:REACH].sum()  # a loss below -40 is as harmless as one of -40
                    following[nexts[kind]] += kept
        at = following
    return delta + max(0.0, 1 - mass)
