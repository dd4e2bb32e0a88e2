"""Linear layers: W_u = sum over tokens of g_t a_t^T (Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, 2110.05679)."""

import torch
from torch import Tensor, nn

from undertone.gradients.rules import UNIT_ROUNDOFF, GhostRule, lengths


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
        a, b = _sequences(x.double(), g.double())
        return (torch.bmm(a, a.transpose(1, 2)) * torch.bmm(b, b.transpose(1, 2))).sum((1, 2))

    def rounding(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """Bound k u sum |a_t| |g_t| over the k tokens of a unit, [n]."""
        a, b = _sequences(x, g)
        return a.shape[1] * UNIT_ROUNDOFF * (lengths(a, 2) * lengths(b, 2)).sum(1)

    def weighted_sum(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """One product over all rows and tokens, [out, in]."""
        return g.reshape(-1, g.shape[-1]).t() @ x.reshape(-1, x.shape[-1])


def _sequences(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """[n, k, ..., width] -> [n, k * tokens, width]."""
    return x.reshape(x.shape[0], -1, x.shape[-1]), g.reshape(g.shape[0], -1, g.shape[-1])
