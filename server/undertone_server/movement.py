"""How far a study moved the model, beside the noise in it, and whether that can be seen. Public numbers alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from undertone.study.plan import Plan
from undertone.study.stage import Stage

# Of 255: a difference as small as this is rounding and not a change.
INVISIBLE = 1


@dataclass(frozen=True)
class StageNoise:
    """The noise in the mean rows of a stage's rounds together (before the optimiser): its length, and where."""

    stage: str
    rounds: int
    length: float

    def __str__(self) -> str:
        return f"{self.length:.3g} in {self.rounds} {'round' if self.rounds == 1 else 'rounds'} of stage {self.stage}"


@dataclass(frozen=True)
class Movement:
    """|w_T - w_0| of what is released, and the noise of each stage; rows of different stages have no common unit."""

    moved: float
    noise: tuple[StageNoise, ...]

    def __str__(self) -> str:
        if len(self.noise) == 1:
            return (
                f"w moved by {self.moved:.3g}; the noise in the mean rows of all rounds together has length "
                f"{self.noise[0].length:.3g}, before the optimiser's step"
            )
        return (
            f"w moved by {self.moved:.3g}; the noise in the mean rows has length {', '.join(map(str, self.noise))}, "
            f"before the step: each stage's rows are in units of their own"
        )


def movement(
    plan: Plan, start: NDArray[np.float32], end: NDArray[np.float32], opened: Sequence[tuple[str, ...]]
) -> Movement:
    """What a finished study did to w.

    Args:
        plan: its plan.
        start: the vector [d] that would be released without a round.
        end: the vector [d] that is.
        opened: the sites of each round's sum; the noise of a round is sigma sqrt(d) / (s p sum N_i), with sigma, d, s
            and p of its stage; the rounds of a stage add up as squares.
    """

    def noise_of(stage: Stage) -> StageNoise:
        lengths = [
            stage.noise_in(len(sites)) * sqrt(stage.dimension) / plan.denominator(round_, sites)
            for round_, sites in enumerate(opened, 1)
            if round_ in stage.rounds
        ]
        return StageNoise(stage.name, len(lengths), sqrt(sum(length**2 for length in lengths)))

    moved = np.linalg.norm(end.astype(np.float64) - start.astype(np.float64))
    return Movement(float(moved), tuple(map(noise_of, plan.stages)))


def largest_difference(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> int:
    """The largest difference between two rows of images, of any pixel in any channel, 0 to 255."""
    pairs = zip(before, after, strict=True)
    return max(int(np.abs(_pixels(one) - _pixels(two)).max()) for one, two in pairs)


def _pixels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image.convert("RGB"), dtype=np.int16)
