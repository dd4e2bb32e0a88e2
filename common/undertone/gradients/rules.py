"""The gradient of one layer's parameters, unit by unit, from what went in and the gradient of what came out.

Throughout, n units of k rows each: `x` [n, k, ...] is the layer's input, `g` [n, k, ...] the gradient of the weighted
loss with respect to its output. A unit's gradient is the sum over its k rows. docs/gradients.md has the formulas.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from undertone.errors import ModelError

UNIT_ROUNDOFF = 2.0**-24
"""u of float32, in which gradients are summed."""


def lengths(values: Tensor, dim: int) -> Tensor:
    """Euclidean lengths along one axis, each formed in the values' precision, as float64."""
    found: Tensor = torch.linalg.vector_norm(values, dim=dim)
    return found.double()


class Rule(ABC):
    """How one type of layer answers. A layer whose per-unit gradients are small needs no more than this."""

    casts = False
    """Autocast runs this layer in half precision: its input is converted once, for the layer and for us."""

    def refusal(self, layer: nn.Module) -> str:
        """Why this very layer cannot be trained, or "" if it can."""
        return ""

    @abstractmethod
    def weight(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """Each unit's gradient of the weight, [n, *weight.shape]."""

    def bias(self, layer: nn.Module, g: Tensor) -> Tensor:
        """Each unit's gradient of the bias, [n, *bias.shape]."""
        raise ModelError(f"{type(layer).__name__} has no bias")


class GhostRule(Rule):
    """A layer that also knows the norms of its per-unit gradients, and their weighted sum, without making them."""

    @abstractmethod
    def squared_norm(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """|weight gradient|^2 of each unit, float64 [n]: terms cancel, so products and sums are formed in float64."""

    @abstractmethod
    def rounding(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """How long the error can be that a unit's part of `weighted_sum` has in float32, float64 [n].

        A sum of k products in floating point is off by at most k u of the sum of their absolute values, u = 2^-24
        (Higham 2002, section 3.1): k u sum |x_t| |g_t| over the unit's k tokens or pixels t.
        """

    @abstractmethod
    def weighted_sum(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """The weight gradient summed over all rows: x [rows, ...], g [rows, ...] with the factors already in g."""
