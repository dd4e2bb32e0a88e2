"""Blocks of the UNet, and the text encoder, moved by w while they are trained, or by a release's differences."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from undertone.gradients.engine import GradientEngine, UnitBatch
from undertone.methods.gradient.trained import EngineTrained, trained_text
from undertone.models.interface import Base
from undertone.models.layout import Layout


class TrainedBlocks(EngineTrained):
    """Whole blocks of the UNet, and the text encoder where the layout names it, moved by w."""

    def __init__(self, base: Base, layout: Layout, w: NDArray[np.float32]) -> None:
        self._base, self._differences = base, layout.unflatten(w)
        parts = {"unet": base.pipeline.unet, "text_encoder": base.pipeline.text_encoder}
        self._model = nn.ModuleDict({part: module for part, module in parts.items() if _has(layout, part)})
        named = dict(self._model.named_parameters())
        self._parameters = {name: named[name] for name in self._differences}
        self._originals: dict[str, Tensor] = {}

    def __enter__(self) -> Self:
        """Move the parameters; they alone ask for gradients."""
        for name, parameter in self._parameters.items():
            self._originals[name] = parameter.data
            difference = torch.from_numpy(np.array(self._differences[name])).to(parameter.device)
            parameter.data = parameter.data + difference
            parameter.requires_grad_(True)
        self._engine = GradientEngine(self._model, list(self._parameters))
        return self

    def __exit__(self, *_exc: object) -> None:
        del self._engine
        for name, original in self._originals.items():
            self._parameters[name].data = original
            self._parameters[name].requires_grad_(False)

    def condition(self, captions: Sequence[str], batch: UnitBatch) -> Tensor | None:
        """Text states, of the encoder in training where the layout names it."""
        del batch
        trains_text = "text_encoder" in self._model
        return trained_text(self._base, captions) if trains_text else self._base.conditions(captions)


@torch.no_grad()
def add_differences(base: Base, differences: Mapping[str, NDArray[np.float32]]) -> None:
    """Add each difference to the tensor that it names, `unet.` or `text_encoder.` first."""
    named = named_parameters(base)
    for name, difference in differences.items():
        named[name].add_(torch.from_numpy(np.array(difference)).to(named[name].device))


def named_parameters(base: Base) -> dict[str, Tensor]:
    """The parameters of UNet and text encoder, by part and name."""
    parts = {"unet": base.pipeline.unet, "text_encoder": base.pipeline.text_encoder}
    return {f"{part}.{name}": one for part, module in parts.items() for name, one in module.named_parameters()}


def _has(layout: Layout, part: str) -> bool:
    return any(name.startswith(f"{part}.") for name, _ in layout.tensors)
