"""The gradient of one layer's parameters, unit by unit, from what went in and the gradient of what came out.

Throughout, n units of k rows each: `x` [n, k, ...] is the layer's input, `g` [n, k, ...] the gradient of the weighted
loss with respect to its output. A unit's gradient is the sum over its k rows. docs/gradients.md has the formulas.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn

from undertone.errors import ModelError
from undertone.gradients.integers import equal_parts, values_at_once

Piece = tuple[slice, int, Tensor]
"""(units, start, values): the gradients [n, m] of those units, from `start` on in the flat weight."""


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
    """A layer that also knows the norms of its per-unit gradients without making them, and makes them in pieces."""

    @abstractmethod
    def squared_norm(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """|weight gradient|^2 of each unit, [n]. Terms may cancel: it is a guess, which the integers check."""

    def pieces(self, layer: nn.Module, x: Tensor, g: Tensor) -> Iterator[Piece]:
        """Each unit's gradient of the weight, some units at a time: memory stays beside that of one gradient."""
        weight = layer.get_parameter("weight")
        for units in equal_parts(len(x), values_at_once(x.device) // weight.numel()):
            yield from columns(units, self.weight(layer, x[units], g[units]).flatten(1))


def columns(units: slice, values: Tensor) -> Iterator[Piece]:
    """`values` [n, d] of those units in pieces that stay in a processor's cache."""
    width = max(values_at_once(values.device) // len(values), 1)
    for start in range(0, values.shape[1], width):
        yield units, start, values[:, start : start + width]
