"""The gradient of one layer's parameters, unit by unit, from what went in and the gradient of what came out.

Throughout, n units of k rows each: `x` [n, k, ...] is the layer's input, `g` [n, k, ...] the gradient of the weighted
loss with respect to its output. A unit's gradient is the sum over its k rows. docs/gradients.md has the formulas.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from undertone.errors import ModelError


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
        """|weight gradient|^2 of each unit, [n]."""

    @abstractmethod
    def weighted_sum(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """The weight gradient summed over all rows: x [rows, ...], g [rows, ...] with the factors already in g."""
