"""LoRA adapters in the UNet: with w in them while they are trained, or with a release's tensors."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig
from torch import Tensor, nn

from undertone.gradients.engine import GradientEngine, UnitBatch
from undertone.methods.gradient.trained import EngineTrained, frozen_text
from undertone.models.interface import Base
from undertone.models.layout import Layout

_ADAPTER = "undertone"


class TrainedLora(EngineTrained):
    """LoRA adapters of peft in the UNet, with w's A and B in them."""

    def __init__(self, base: Base, layout: Layout, w: NDArray[np.float32], rank: int, alpha: int) -> None:
        self._base, self._values = base, layout.unflatten(w)
        layers = sorted({name.removeprefix("unet.").rsplit(".lora_", 1)[0] for name in self._values})
        self._config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)

    def __enter__(self) -> Self:
        """Put the adapters in; they alone ask for gradients."""
        unet = self._base.pipeline.unet
        unet.add_adapter(self._config, adapter_name=_ADAPTER)
        named = dict(unet.named_parameters())
        with torch.no_grad():
            for name, value in self._values.items():
                named[_inside(name)].copy_(torch.from_numpy(np.array(value)))
        self._engine = GradientEngine(nn.ModuleDict({"unet": unet}), [f"unet.{_inside(name)}" for name in self._values])
        return self

    def __exit__(self, *_exc: object) -> None:
        del self._engine
        self._base.pipeline.unet.unload_lora()
        self._base.pipeline.unet.requires_grad_(False)

    def text(self, captions: Sequence[str], batch: UnitBatch) -> Tensor:
        """Text states of the frozen encoder."""
        del batch
        return frozen_text(self._base, captions)


def load_adapters(base: Base, adapters: Mapping[str, NDArray[np.float32]]) -> None:
    """Put A and B of each layer into the UNet, with diffusers' own loader."""
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in adapters.items()}
    base.pipeline.unet.load_lora_adapter(tensors, prefix="unet")


def _inside(name: str) -> str:
    """A released LoRA tensor's name -> its parameter's inside the UNet."""
    return name.removeprefix("unet.").removesuffix("weight") + f"{_ADAPTER}.weight"
