"""Linear layers: W_u = sum over tokens of g_t a_t^T (Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, 2110.05679)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from undertone.gradients.integers import equal_parts, values_at_once
from undertone.gradients.rules import GhostRule, Piece


class LinearRule(GhostRule):
    """`nn.Linear` on [rows, in] or [rows, ..., in]; a row's tokens and a unit's rows are one sequence."""

    casts = True

    def weight(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """G^T A of each unit, [n, out, in]."""
        a, b = _sequences(x, g)
        return torch.bmm(b.transpose(1, 2), a)

    def bias(self, layer: nn.Module, g: Tensor) -> Tensor:
        """The sum over tokens, [n, out]."""
        return g.reshape(g.shape[0], -1, g.shape[-1]).sum(1)

    def squared_norm(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """|G^T A|^2 = <A A^T, G G^T>: two Gram matrices of the sequence, [n]."""
        a, b = _sequences(x, g)
        return (torch.bmm(a, a.transpose(1, 2)) * torch.bmm(b, b.transpose(1, 2))).sum((1, 2))

    def pieces(self, layer: nn.Module, x: Tensor, g: Tensor) -> Iterator[Piece]:
        """G^T A, some rows of the weight and some units at a time, each product small enough for the cache."""
        a, b = _sequences(x, g)
        n, out, into = len(a), b.shape[2], a.shape[2]
        at_once = values_at_once(x.device)
        height, parts = max(at_once // into, 1), equal_parts(n, at_once // (out * into))
        for start in range(0, out, height):
            rows = b[:, :, start : start + height].transpose(1, 2)
            for units in parts:
                yield units, start * into, torch.bmm(rows[units], a[units]).flatten(1)


def _sequences(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """[n, k, ..., width] -> [n, k * tokens, width]."""
    return x.reshape(x.shape[0], -1, x.shape[-1]), g.reshape(g.shape[0], -1, g.shape[-1])
