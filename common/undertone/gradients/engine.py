"""The gradient engine: clipped integer sums in one backward pass, and per-unit rows where they fit.

Book-keeping after Bu et al. 2023 (arXiv 2210.00038): one forward and one backward pass; norms from what each layer saw;
then every unit's row from the same tensors, piece by piece, as integers (`integers.py`). Units are groups of rows: K
noise draws, A augmentations and a patient's images are summed before the norm is taken. docs/gradients.md has formulas,
costs and pitfalls.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from undertone.errors import ModelError
from undertone.gradients.batch import UnitBatch
from undertone.gradients.book import Book
from undertone.gradients.coverage import cover
from undertone.gradients.hooks import Hooks
from undertone.gradients.integers import clipped_integers

__all__ = ["GradientEngine", "LossPerRow", "UnitBatch"]

FEW = 1 << 24
"""Values of all units' gradients, 64 MiB, up to which a small model's are stored: faster than making them twice."""
LossPerRow = Callable[[], Tensor]
"""Runs the forward pass on the model, returns the loss of each row, [rows]; row r depends on row r's inputs alone."""


class GradientEngine:
    """Per-unit gradients of a model's chosen parameters.

    Args:
        model: everything that runs in the forward pass, on one device.
        parameters: names of the trained parameters, in the order of the layout; exactly these get `requires_grad`.
        loss_scale: multiplies the loss during the backward pass of a float16 forward pass and is divided out in
            float32; a power of two. A unit that overflows counts as not finite.

    Raises:
        ModelError: an unknown name; a trained parameter of a layer type without a rule; a layer that mixes the batch.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[str], *, loss_scale: float = 1.0) -> None:
        self._layers = cover(model, parameters)
        self._model, self._scale = model, loss_scale
        named = dict(model.named_parameters(remove_duplicate=False))
        self._shapes = [tuple(named[name].shape) for name in parameters]
        self._device = named[parameters[0]].device
        self.d = sum(math.prod(shape) for shape in self._shapes)
        """Number of trained scalars."""
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for name in parameters:
            named[name].requires_grad_(True)

    def rows(self, loss: LossPerRow, batch: UnitBatch) -> NDArray[np.float32]:
        """Gradient of each unit's weighted loss, for models whose rows fit (token, LoRA, small models).

        Returns:
            [units, d] float32, not clipped; a row that is not finite is left so, for the clip to drop.

        Raises:
            ModelError: see `clipped_sum`.
        """
        if not batch.units:
            return np.zeros((0, self.d), dtype=np.float32)
        book = self._backward(loss, batch, whole=True)
        found = np.zeros((batch.units, self.d), dtype=np.float32)
        for place, start, end in self._slices():
            if place in book.stored:
                found[:, start:end] = (book.stored.pop(place).flatten(1) / self._scale).cpu().numpy()
        return found

    def clipped_sum(
        self,
        loss: LossPerRow,
        batch: UnitBatch,
        *,
        scale: int,
        clip_units: int,
        counted: Sequence[bool] | None = None,
    ) -> NDArray[np.int64]:
        """Sum trunc(s min(1, C / |g_u|) g_u) over the units u, each row of length s C at most, in one backward pass.

        Args:
            loss: the forward pass.
            batch: which rows belong to which unit, with what weight.
            scale: s, grid units for one unit of a gradient's value.
            clip_units: s C, an integer.
            counted: which units are summed, all where None; the others hold their place in the batch.

        Returns:
            The sum [d] in grid units. A unit whose gradient is not finite adds nothing.

        Raises:
            ModelError: the loss is not [rows]; a trained layer did not run, or sees no axis of rows; dropout is active.
            MechanismViolation: the batch or the grid is too large for 32 bits.
        """
        if not batch.units:
            return np.zeros(self.d, dtype=np.int64)
        book = self._backward(loss, batch, whole=False)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            sizes = [math.prod(shape) for shape in self._shapes]
            norms = book.norms() / self._scale
            return clipped_integers(book.fill, norms, sizes, scale, clip_units, counted, loss_scale=self._scale)

    def norms(self, loss: LossPerRow, batch: UnitBatch) -> NDArray[np.float64]:
        """Length of each unit's gradient, [units], infinite where it is not finite; see `clipped_sum`.

        In float32 it can be off by a percent where terms cancel: it serves to choose C on public
        data, never as a bound.
        """
        book = self._backward(loss, batch, whole=False)
        return (book.norms() / self._scale).cpu().numpy()

    def _backward(self, loss: LossPerRow, batch: UnitBatch, *, whole: bool) -> Book:
        """One forward and one backward pass, heard by a book."""
        self._refuse_dropout()
        book = Book(batch, self._device, whole=whole, few=batch.units * self.d <= FEW)
        rows = len(batch.unit_of_row)
        anchor = torch.zeros((), device=self._device, requires_grad=True)
        hooks = Hooks(self._layers, rows, anchor, book.enter)
        with torch.enable_grad(), hooks.placed():
            losses = loss()
            hooks.counting = False
            self._check(losses, rows, hooks)
            book.reused = {layer for layer, runs in hooks.runs.items() if runs > 1}
            weights = (batch.weight_of_row * self._scale).to(losses.device, losses.dtype)
            with torch.autocast(self._device.type, enabled=False):
                torch.autograd.grad(losses, anchor, weights, allow_unused=True)
        return book

    def _check(self, losses: Tensor, rows: int, hooks: Hooks) -> None:
        if losses.shape != (rows,):
            raise ModelError(f"the loss has shape {tuple(losses.shape)}; it must be one value for each of {rows} rows")
        for layer, runs in hooks.runs.items():
            if not runs:
                raise ModelError(
                    f"{layer.name} did not run as a layer, with gradients, in the forward pass; leave it out of "
                    "training, or checkpoint with use_reentrant=False"
                )
        if not losses.requires_grad:
            raise ModelError("the loss does not depend on any trained parameter")

    def _refuse_dropout(self) -> None:
        for name, module in self._model.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
                raise ModelError(
                    f"{name} is active dropout, which draws from one stream for all rows; put it in eval mode"
                )

    def _slices(self) -> list[tuple[int, int, int]]:
        """(place, start, end) of each parameter in the flat vector."""
        ends = np.cumsum([math.prod(shape) for shape in self._shapes]).tolist()
        return [(place, end - math.prod(shape), end) for place, (shape, end) in
                enumerate(zip(self._shapes, ends, strict=True))]  # fmt: skip
