"""Rows by Opacus's hooks: for small models with layers that the engine has no rule for, and a second reference.

Opacus (Yousefpour et al. 2021, arXiv 2109.12298) is not among Undertone's requirements. It knows no gradient
checkpointing, and stores every row's gradient.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from undertone.errors import ModelError
from undertone.gradients.engine import LossPerRow, UnitBatch


def rows_by_opacus(
    model: nn.Module, parameters: Sequence[str], loss: LossPerRow, batch: UnitBatch
) -> NDArray[np.float32]:
    """Gradient of each unit's weighted loss, [units, d].

    Args:
        model: the model that `loss` runs; exactly these parameters require gradients afterwards.
        parameters: names, in the order of the layout.
        loss: the forward pass of all rows.
        batch: which rows belong to which unit, with what weight.

    Raises:
        ModelError: Opacus is missing, or found no gradient of each row for a parameter.
    """
    try:
        from opacus.grad_sample import GradSampleHooks  # not a requirement: only where it is asked for
    except ImportError:
        raise ModelError('this model needs Opacus: pip install "opacus>=1.6,<1.7"') from None
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in named.items():
        parameter.requires_grad_(name in parameters)
    training = [module.training for module in model.modules()]
    hooks = GradSampleHooks(model.train(), loss_reduction="sum", strict=True)
    try:
        losses = loss()
        with warnings.catch_warnings():
            # The first layers have no input that wants a gradient; Opacus's hooks fire all the same.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            torch.autograd.backward(losses, batch.weight_of_row.to(losses.device, losses.dtype))
        found = [_by_unit(name, named[name], batch) for name in parameters]
    finally:
        hooks.cleanup()
        for module, flag in zip(model.modules(), training, strict=True):
            module.training = flag
        model.zero_grad(set_to_none=True)
    return np.concatenate(found, axis=1)


def _by_unit(name: str, parameter: nn.Parameter, batch: UnitBatch) -> NDArray[np.float32]:
    rows = getattr(parameter, "grad_sample", None)
    if not isinstance(rows, torch.Tensor) or len(rows) != len(batch.unit_of_row):
        raise ModelError(f"Opacus found no gradient of each row for {name}; leave it out of training")
    units = torch.zeros(batch.units, rows[0].numel(), dtype=torch.float32, device=rows.device)
    units.index_add_(0, batch.unit_of_row.to(rows.device), rows.flatten(1).float())
    return units.cpu().numpy()
