"""`pytorch_lora_weights.safetensors`: LoRA adapters of the UNet, for `load_lora_weights`."""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from undertone.core.text import shown
from undertone.errors import UnfitWeights
from undertone.methods.release_format import Description, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout

LORA = "pytorch_lora_weights.safetensors"
_ADAPTER = re.compile(r"unet\.(.+)\.lora_[AB]\.weight")


class AdapterFile:
    """A [r, in] and B [out, r] of each adapted layer; alpha / r is in B already."""

    files = (LORA,)

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """The layout's tensors, as they are."""
        return {LORA: layout.unflatten(w)}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """A and B of each layer, in the order of the layers' names."""
        return Layout(tuple(sorted(shapes[LORA].items(), key=_place)))

    def attach(self, base: Base, weights: Weights) -> None:
        """Put the adapters into the UNet.

        Raises:
            UnfitWeights: they are not A [r, in] and B [out, r] for layers that the UNet has.
        """
        layers, arrays = base.pinned.shapes("unet"), weights[LORA]
        for name, array in arrays.items():
            match = _ADAPTER.fullmatch(name)
            shape = layers.get(f"{match[1]}.weight", ()) if match else ()
            a, b = (arrays.get(f"unet.{match[1]}.lora_{part}.weight") if match else None for part in "AB")
            if len(shape) < 2 or a is None or b is None:
                raise UnfitWeights(
                    f"{LORA} holds {shown(name, 80)}, for which this base has no layer; use the plan's base"
                )
            rank = len(a) if a.ndim else 0
            if rank < 1 or a.shape != (rank, *shape[1:]) or b.shape != (shape[0], rank, *(1 for _ in shape[2:])):
                raise UnfitWeights(f"{LORA} holds {shown(name, 80)} {list(array.shape)}, which does not fit that layer")
        from undertone.methods.lora.adapters import load_adapters  # torch, peft

        load_adapters(base, arrays)

    def fuse(self, base: Base) -> None:
        """Multiply A and B out and add them to the layers they adapt."""
        base.pipeline.fuse_lora(components=["unet"])
        base.pipeline.unload_lora_weights()

    def describe(self) -> Description:
        """Adapters for `load_lora_weights`."""
        meaning = "small layers beside the model's own: with them, the model draws images like the sites'"
        return Description("LoRA adapters", meaning, f'pipeline.load_lora_weights(".", weight_name="{LORA}")')


ADAPTER_FILE = AdapterFile()


def _place(tensor: tuple[str, tuple[int, ...]]) -> tuple[str, str]:
    """Where a released tensor stands in the layout: its layer, then A before B."""
    layer, _, part = tensor[0].partition(".lora_")
    return layer, part
