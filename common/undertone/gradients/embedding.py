"""Embeddings: a unit touches few entries of the table, and its gradient is zero everywhere else."""

from typing import cast

import torch
from torch import Tensor, nn

from undertone.gradients.rules import GhostRule


class EmbeddingRule(GhostRule):
    """`nn.Embedding` of ids [rows, ...]."""

    def refusal(self, layer: nn.Module) -> str:
        """A gradient divided by how often an id occurs in the batch would mix the rows."""
        if cast(nn.Embedding, layer).scale_grad_by_freq:
            return "scale_grad_by_freq divides by counts over the whole batch; build it without"
        return ""

    def weight(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """[n, entries, width]."""
        table = cast(nn.Embedding, layer)
        ids, g = _flat(table, x, g)
        n, entries = x.shape[0], table.num_embeddings
        keys = ids + entries * torch.arange(n, device=ids.device)[:, None]
        return _added(keys, g, n * entries).reshape(n, entries, -1)

    def squared_norm(self, layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
        """Sum the gradients of equal ids within a unit, then square: as exact as the table itself, [n]."""
        table = cast(nn.Embedding, layer)
        ids, g = _flat(table, x, g)
        units = torch.arange(x.shape[0], device=ids.device)[:, None]
        keys, slots = torch.unique(ids + table.num_embeddings * units, return_inverse=True)
        squares = _added(slots, g, len(keys)).square().sum(1)
        return _added(torch.div(keys, table.num_embeddings, rounding_mode="floor"), squares, x.shape[0])


def _flat(table: nn.Embedding, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The ids [n, tokens] and gradients [n, tokens, width]; the padding entry gets none, as in torch."""
    ids, g = x.reshape(x.shape[0], -1), g.reshape(x.shape[0], -1, g.shape[-1])
    if table.padding_idx is not None:
        g = g * (ids != table.padding_idx)[..., None]
    return ids, g


def _added(where: Tensor, values: Tensor, size: int) -> Tensor:
    """Sums of the values that go to the same place, [size, ...], in an order that never changes (PRIVACY 3)."""
    where, values = where.flatten(), values.reshape(where.numel(), *values.shape[where.dim() :])
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)  # a graphics card would use atomic sums
    try:
        return values.new_zeros(size, *values.shape[1:]).index_add_(0, where, values)
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
