"""Hooks: identity operations behind trained layers that hear, in the one backward pass, what each layer needs.

A hook saves the layer's input as autograd saves its own tensors, so gradient checkpointing works: recomputed layers are
hooked again, and the first forward pass keeps nothing. Asking autograd for the gradient of the anchor alone makes it
visit every hook, and leaves out the summed weight gradients that an ordinary backward pass would compute.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from undertone.errors import ModelError
from undertone.gradients.coverage import TrainedLayer

Heard = Callable[[TrainedLayer, Tensor, Tensor], None]
"""Told the layer, its input [rows, ...] and the gradient of its output [rows, ...]."""


_HeardHere = Callable[[Tensor, Tensor], None]


class _Context(Protocol):
    """What autograd hands to both directions."""

    saved_tensors: tuple[Tensor, ...]
    heard: _HeardHere

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Hook(torch.autograd.Function):
    """output -> output; on the way back `heard(input, gradient of output)`."""

    @staticmethod
    def forward(ctx: _Context, output: Tensor, anchor: Tensor, layer_input: Tensor, heard: _HeardHere) -> Tensor:
        ctx.save_for_backward(layer_input)
        ctx.heard = heard
        return output.view_as(output)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (layer_input,) = ctx.saved_tensors
        ctx.heard(layer_input, gradient)
        return gradient, None, None, None


class Hooks:
    """Counts how often each layer ran in the forward pass; a second run in a checkpoint does not count."""

    def __init__(self, layers: Sequence[TrainedLayer], rows: int, anchor: Tensor, heard: Heard) -> None:
        self._layers, self._rows, self._anchor, self._heard = layers, rows, anchor, heard
        self.runs: dict[TrainedLayer, int] = dict.fromkeys(layers, 0)
        self.counting = True

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Within, the layers are hooked; they must stay so until the backward pass is over."""
        handles = []
        try:
            for layer in self._layers:
                if layer.rule.casts:
                    handles.append(layer.module.register_forward_pre_hook(_cast_once, with_kwargs=True))
                hook = self._hook(layer)
                handles.append(layer.module.register_forward_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: TrainedLayer) -> Callable[..., Tensor]:
        def heard(layer_input: Tensor, gradient: Tensor) -> None:
            self._heard(layer, layer_input, gradient)

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return output
            self.runs[layer] += self.counting
            layer_input = self._each_row(layer, (args[0] if args else kwargs["input"]).detach())
            hooked: Tensor = _Hook.apply(self._each_row(layer, output), self._anchor, layer_input, heard)  # type: ignore[no-untyped-call]
            return hooked

        return hook

    def _each_row(self, layer: TrainedLayer, values: Tensor) -> Tensor:
        """One value for all rows (position embeddings) becomes one per row, so that each has its own gradient."""
        if values.dim() and values.shape[0] == self._rows:
            return values
        if values.dim() and values.shape[0] == 1:
            return values.expand(self._rows, *values.shape[1:])
        raise ModelError(
            f"{layer.name} got a tensor of shape {tuple(values.shape)} in a batch of {self._rows} rows; its first axis "
            "must be the rows. Leave this layer out of training"
        )


def _cast_once(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Under autocast, convert the input before the layer does, so that one half-precision copy serves both."""
    x = args[0] if args else kwargs["input"]
    kind = x.device.type
    if not (x.dtype == torch.float32 and torch.is_autocast_enabled(kind)):
        return args, kwargs
    x = x.to(torch.get_autocast_dtype(kind))
    return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"input": x})
