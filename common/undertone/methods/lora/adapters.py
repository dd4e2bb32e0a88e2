"""LoRA adapters in UNet and text encoder: with w in them while they are trained, or with a release's tensors."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from undertone.gradients.engine import GradientEngine, UnitBatch
from undertone.methods.gradient.trained import EngineTrained, trained_text
from undertone.methods.release_format import Tensors
from undertone.models.interface import Base
from undertone.models.pinned import short_name

_ADAPTER = "undertone"


class TrainedLora(EngineTrained):
    """LoRA adapters of peft in the base's layers.

    Args:
        base: what they are put into.
        adapters: A and B of each layer, by the names they have in a release.
        trained: which of them ask for gradients, in the order of the layout; the others stay as they are.
        rank: r.
        alpha: B A is multiplied with alpha / r.
    """

    def __init__(self, base: Base, adapters: Tensors, trained: Sequence[str], rank: int, alpha: int) -> None:
        self._base, self._adapters, self._trained = base, adapters, trained
        self._rank, self._alpha = rank, alpha
        parts = {"unet": base.pipeline.unet, "text_encoder": base.pipeline.text_encoder}
        self._parts = {part: module for part, module in parts.items() if self._layers(part)}

    def __enter__(self) -> Self:
        """Put the adapters in; those that are trained alone ask for gradients."""
        with ExitStack() as undone:
            undone.callback(self._take_out)
            for part, module in self._parts.items():
                config = LoraConfig(r=self._rank, lora_alpha=self._alpha, target_modules=self._layers(part))
                module.add_adapter(config, adapter_name=_ADAPTER)
            model = nn.ModuleDict(self._parts)
            named = dict(model.named_parameters())
            with torch.no_grad():
                for name, value in self._adapters.items():
                    named[_inside(name)].copy_(torch.from_numpy(np.array(value)))
            self._engine = GradientEngine(model, [_inside(name) for name in self._trained])
            undone.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        del self._engine
        self._take_out()

    def condition(self, captions: Sequence[str], batch: UnitBatch) -> Tensor | None:
        """Text states, of the encoder with its adapters where it has some."""
        del batch
        trains_text = "text_encoder" in self._parts
        return trained_text(self._base, captions) if trains_text else self._base.conditions(captions)

    def _layers(self, part: str) -> list[str]:
        """The adapted layers of a part, by their names in it."""
        inside = {name.rsplit(".lora_", 1)[0].partition(".") for name in self._adapters}
        return sorted(short_name(layer) for whose, _, layer in inside if whose == part)

    def _take_out(self) -> None:
        self._base.pipeline.unload_lora_weights()
        for module in self._parts.values():
            module.requires_grad_(False)


def load_adapters(base: Base, adapters: Tensors) -> None:
    """Put A and B of each layer into the base, with diffusers' own loaders."""
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in adapters.items()}
    pipeline = base.pipeline
    for part, module, load in (
        ("unet", pipeline.unet, pipeline.load_lora_into_unet),
        ("text_encoder", pipeline.text_encoder, pipeline.load_lora_into_text_encoder),
    ):
        held = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}
        if held:
            load(held, None, module, _pipeline=pipeline)


def _inside(name: str) -> str:
    """A released LoRA tensor's name -> its parameter's inside the pipeline's parts."""
    part, _, inside = name.partition(".")
    return f"{part}.{short_name(inside).removesuffix('weight')}{_ADAPTER}.weight"
