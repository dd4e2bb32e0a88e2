"""The oracle: plain autograd, one unit after another. Slow and obviously right; for tests and benchmarks."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from undertone.gradients.engine import LossPerRow, UnitBatch


def rows_one_at_a_time(
    model: nn.Module, parameters: Sequence[str], loss: LossPerRow, batch: UnitBatch
) -> NDArray[np.float64]:
    """Gradient of each unit's weighted loss, by a forward and a backward pass per unit, [units, d].

    Args:
        model: the model that `loss` runs; these parameters must require gradients.
        parameters: names, in the order of the layout.
        loss: the forward pass of all rows.
        batch: which rows belong to which unit, with what weight.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    chosen = [named[name] for name in parameters]
    found = np.zeros((batch.units, sum(p.numel() for p in chosen)))
    for unit in range(batch.units):
        losses = loss()
        mine = torch.where(batch.unit_of_row == unit, batch.weight_of_row, 0.0).to(losses.device, losses.dtype)
        gradients = torch.autograd.grad(losses, chosen, mine, materialize_grads=True)
        found[unit] = torch.cat([g.flatten().double() for g in gradients]).cpu().numpy()
    return found


def clip_and_sum(rows: NDArray[np.float64], clip_norm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum g_u * min(1, C / |g_u|) over the units u, [d], and the norms, [units]."""
    norms = np.linalg.norm(rows, axis=1)
    factors = np.minimum(1.0, clip_norm / np.maximum(norms, np.finfo(np.float64).tiny))
    return factors @ rows, norms
