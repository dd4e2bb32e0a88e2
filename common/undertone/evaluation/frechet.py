"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017), by torchmetrics.

On Inception features it is called FID. Its bias falls with the number of images, so compare it at equal numbers alone.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from undertone.errors import InputError


class _AsTheyAre(nn.Module):
    """Stands where torchmetrics would make features [n, d] of images: it is given features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """|mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) of features x [n, d] and y [m, d].

    Raises:
        InputError: fewer than two rows, which have no covariance.
    """
    if min(len(x), len(y)) < 2:
        raise InputError("a Frechet distance needs at least two images on each side")
    metric = FrechetInceptionDistance(feature=_AsTheyAre(x.shape[1]))
    metric.update(torch.from_numpy(np.asarray(x, dtype=np.float64)), real=True)
    metric.update(torch.from_numpy(np.asarray(y, dtype=np.float64)), real=False)
    return float(metric.compute())
