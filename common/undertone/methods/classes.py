"""What a class of a study is to a method: how it is shown, its share in a unit's row, and what noisy shares divide.

A unit's row says how its images fall into the K classes: w_c is the share of them in class c, and the w_c of a unit sum
to 1. Noisy sums over units are divided by the *noisy* sum of shares, never by a count that a site or a coordinator has
of its own (PRIVACY 23).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# F in deviations of the noise in a class's noisy share.
FLOOR = 4.0


@dataclass(frozen=True)
class ClassShown:
    """A class of the study's list: its place there, its name, and the column that says so in a site's table."""

    place: int
    name: str
    column: str

    @property
    def columns(self) -> Mapping[str, str]:
        """What a record of the class says of it."""
        return {self.column: self.name}


@runtime_checkable
class CountsUnits(Protocol):
    """A method whose rows may say where a unit falls, so that a sum of them counts units (PRIVACY 16, 23)."""

    @property
    def counted_by(self) -> str:
        """By what, in words, such as "class"; "" where rows say nothing of the kind."""


@dataclass(frozen=True)
class Shares:
    """Shares of classes in the rows of a stage, w_c, each times `scale`, a."""

    scale: float

    def floor(self, sigma: float, grid_scale: int) -> float:
        """F = 4 sigma / (s a), in units whose rows enter a sum whole."""
        return FLOOR * sigma / (grid_scale * self.scale)


def shares_of(places: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """How one unit's images fall into `count` classes, w [count]; `places` [m] are theirs."""
    found: NDArray[np.float64] = np.bincount(places, minlength=count) / len(places)
    return found


def divisors(noisy: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """What each class's noisy sum is multiplied with, [K]: 1 over its noisy share, and less below the floor.

    A share below `floor` may be noise alone. There the sum is divided by the floor, and once more shrunk by the share
    over the floor, down to nothing at a share of zero: what was learned of such a class goes to the start.

    Args:
        noisy: shares of classes, with noise in them, [K].
        floor: F, in the same units; 0 where there is no noise.
    """
    least = np.maximum(noisy, floor)
    part = np.divide(noisy, floor, out=np.ones_like(noisy), where=floor > 0)
    found: NDArray[np.float64] = np.divide(np.clip(part, 0.0, 1.0), least, out=np.zeros_like(noisy), where=least > 0)
    return found
