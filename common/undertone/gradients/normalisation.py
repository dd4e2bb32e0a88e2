"""GroupNorm and LayerNorm: a unit's gradients of scale and shift are sums over its own rows alone."""

from typing import cast

import torch
from torch import Tensor, nn

from undertone.gradients.rules import Rule


class GroupNormRule(Rule):
    """`nn.GroupNorm` on [rows, channels, ...]."""

    def weight(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """[n, channels]: the fused kernel, told that rows are groups of one long row, so that it sums within rows."""
        norm = cast(nn.GroupNorm, layer)
        n, k, channels = x.shape[:3]
        rows, groups = n * k, norm.num_groups
        x, g = x.reshape(rows, channels, -1).contiguous(), g.reshape(rows, channels, -1).contiguous()
        _, mean, spread = torch.native_group_norm(x, None, None, rows, channels, x.shape[2], groups, norm.eps)
        _, scale, _ = torch.ops.aten.native_group_norm_backward(
            g, x, mean.reshape(1, -1), spread.reshape(1, -1), x.new_ones(rows * channels), 1, rows * channels,
            x.shape[2], rows * groups, [False, True, True],
        )  # fmt: skip
        return cast(Tensor, scale).reshape(n, k, channels).sum(1)

    def bias(self, layer: nn.Module, g: Tensor) -> Tensor:
        """[n, channels]."""
        return g.flatten(3).sum((1, 3)) if g.dim() > 3 else g.sum(1)


class LayerNormRule(Rule):
    """`nn.LayerNorm` on [rows, ..., *normalized_shape]."""

    def weight(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """The sum of g * (x - mean) / deviation, [n, *normalized_shape]."""
        norm = cast(nn.LayerNorm, layer)
        whole = torch.nn.functional.layer_norm(x, norm.normalized_shape, None, None, norm.eps)
        return self.bias(layer, whole.mul_(g))

    def bias(self, layer: nn.Module, g: Tensor) -> Tensor:
        """[n, *normalized_shape]."""
        shape = cast(nn.LayerNorm, layer).normalized_shape
        return g.reshape(g.shape[0], -1, *shape).sum(1)
