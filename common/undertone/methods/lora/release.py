"""`pytorch_lora_weights.safetensors`: LoRA adapters of UNet and text encoder, for `load_lora_weights`."""

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
# Files name the text encoder's layers with the level `text_model`, which transformers 5 no longer has: so every version
# of diffusers finds them.
TEXT = "text_encoder.text_model."
TEXT_TARGETS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
_ADAPTER = re.compile(r"(.+)\.lora_[AB]\.weight")


class AdapterFile:
    """A [r, in] and B [out, r] of each adapted layer; alpha / r is in B already."""

    files = (LORA,)

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """The layout's tensors, as they are."""
        return {LORA: layout.unflatten(w)}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """A and B of each layer, in the order of the layers' names."""
        return Layout(tuple(sorted(shapes[LORA].items(), key=place)))

    def attach(self, base: Base, weights: Weights) -> None:
        """Put the adapters into UNet and text encoder.

        Raises:
            UnfitWeights: they are not A [r, in] and B [out, r] for layers that the base has.
        """
        layers, arrays = _layers(base), weights[LORA]
        for name, array in arrays.items():
            match = _ADAPTER.fullmatch(name)
            shape = layers.get(match[1], ()) if match else ()
            a, b = (arrays.get(f"{match[1]}.lora_{part}.weight") if match else None for part in "AB")
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
        parts = {"unet": base.pipeline.unet, "text_encoder": base.pipeline.text_encoder}
        adapted = [part for part, module in parts.items() if getattr(module, "peft_config", None)]
        base.pipeline.fuse_lora(components=adapted)
        base.pipeline.unload_lora_weights()

    def describe(self) -> Description:
        """Adapters for `load_lora_weights`."""
        meaning = "small layers beside the model's own: with them, the model draws images like the sites'"
        return Description("LoRA adapters", meaning, f'pipeline.load_lora_weights(".", weight_name="{LORA}")')


ADAPTER_FILE = AdapterFile()


def is_a(name: str) -> bool:
    """Whether a released tensor is A of its layer."""
    return name.endswith(".lora_A.weight")


def place(tensor: tuple[str, tuple[int, ...]]) -> tuple[str, str]:
    """Where a released tensor stands in the layout: its layer, then A before B."""
    layer, _, part = tensor[0].partition(".lora_")
    return layer, part


def _layers(base: Base) -> dict[str, tuple[int, ...]]:
    """What can have adapters in a release: every layer of the UNet, and the text encoder's attention."""
    unet = {f"unet.{name}": shape for name, shape in base.pinned.shapes("unet").items()}
    text = {f"{TEXT}{name}": shape for name, shape in base.pinned.shapes("text_encoder").items()}
    adaptable = unet | {
        name: shape for name, shape in text.items() if name.removesuffix(".weight").endswith(TEXT_TARGETS)
    }
    return {name.removesuffix(".weight"): shape for name, shape in adaptable.items() if name.endswith(".weight")}
