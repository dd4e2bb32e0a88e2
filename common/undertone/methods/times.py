"""Times of rows: a golden-ratio sequence covers [min_time T, T) evenly in few steps (docs/methods.md)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.models.interface import Base

_GOLDEN = (5**0.5 - 1) / 2


def golden_fractions(phase: NDArray[np.float64] | float, step: NDArray[np.intp] | int) -> NDArray[np.float64]:
    """(phase + step * golden ratio) mod 1, in [0, 1); `phase` is the unit's own draw."""
    return np.asarray((phase + step * _GOLDEN) % 1.0, dtype=np.float64)


def timesteps(base: Base, fractions: NDArray[np.float64], min_time: float) -> Tensor:
    """Fractions [rows] in [0, 1) -> timesteps [rows] in [min_time T, T), int64."""
    count = int(base.schedule.config.num_train_timesteps)
    return torch.from_numpy(((min_time + (1 - min_time) * fractions) * count).astype(np.int64)).to(base.device)
