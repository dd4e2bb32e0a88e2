"""`dp-lora`: DP-SGD on LoRA adapters (DP-LoRA, arXiv 2406.01355; on convolutions too as in DP-LoDA, 2406.05257).

    W' = W + (alpha / r) B A        A [r, in] drawn from a public seed, B [out, r] zero at first; w holds all A and B

The release is one `pytorch_lora_weights.safetensors` for stock `load_lora_weights`; alpha / r is multiplied into its B,
so it needs no further number.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.bounds import ITEMS, NAME
from undertone.core.config import Section
from undertone.errors import StudyError
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.gradient.options import GradientOptions
from undertone.methods.lora.release import ADAPTER_FILE
from undertone.methods.release_format import ReleaseFormat, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch

_PUBLIC_SEED = 20261126
GROUPS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "conv": ("conv1", "conv2", "conv_shortcut"),
}


class DPLoRAOptions(GradientOptions):
    """[method] keys of dp-lora. Symbols: r = rank; `targets` are "attention", "conv", or names of layers."""

    rank: int = Field(default=4, ge=1, le=256)
    alpha: int = Field(default=4, ge=1, le=1024)
    targets: list[Annotated[str, Field(max_length=NAME)]] = Field(default=["attention"], min_length=1, max_length=ITEMS)


class DPLoRA(GradientMethod):
    """The method `dp-lora`; see the module's description."""

    name: ClassVar[str] = "dp-lora"
    options_type: ClassVar[type[Section]] = DPLoRAOptions
    release_format: ClassVar[ReleaseFormat] = ADAPTER_FILE
    options: DPLoRAOptions

    def layout(self, base: PinnedBase) -> Layout:
        """A and B of each adapted layer, under the names they have in the released file.

        Raises:
            StudyError: a target names no layer; the message lists the known ones.
        """
        return lora_layout(base.shapes("unet"), self.options)

    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        """A: N(0, 1/r^2) as peft's "gaussian"; B: zero, so that the model is the base's at first."""
        drawn, parts = np.random.Generator(np.random.Philox(key=_PUBLIC_SEED)), []
        for name, shape in self.layout(base).tensors:
            is_a = ".lora_A." in name
            parts.append(
                drawn.standard_normal(shape, dtype=np.float32) / self.options.rank if is_a else np.zeros(shape)
            )
        return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)

    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        from undertone.methods.lora.adapters import TrainedLora  # torch, peft

        return TrainedLora(base, self.layout(base.pinned), w, self.options.rank, self.options.alpha)

    def _released(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """A, and B with alpha / r multiplied in."""
        layout, scale = self.layout(base), np.float32(self.options.alpha / self.options.rank)
        named = layout.unflatten(w)
        scaled = {name: value * scale if ".lora_B." in name else value for name, value in named.items()}
        return self.release_format.write(layout, layout.flatten(scaled))


def lora_layout(shapes: Shapes, options: DPLoRAOptions) -> Layout:
    """A and B for every layer of the UNet that `targets` name, in the order of their names.

    Args:
        shapes: the UNet's tensors.
        options: rank and targets.

    Raises:
        StudyError: see `DPLoRA.layout`.
    """
    layers = {name.removesuffix(".weight"): shape for name, shape in sorted(shapes.items()) if _adaptable(name, shape)}
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for layer in sorted(_chosen(layers, options.targets)):
        out, into, *kernel = layers[layer]
        tensors.append((f"unet.{layer}.lora_A.weight", (options.rank, into, *kernel)))
        tensors.append((f"unet.{layer}.lora_B.weight", (out, options.rank, *(1 for _ in kernel))))
    return Layout(tuple(tensors))


def _adaptable(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) in (2, 4)


def _chosen(layers: Iterable[str], targets: list[str]) -> set[str]:
    chosen: set[str] = set()
    for target in targets:
        endings = GROUPS.get(target, (target,))
        found = {layer for layer in layers if any(f".{layer}".endswith(f".{ending}") for ending in endings)}
        if not found:
            known = sorted({_ending(layer) for layer in layers})
            raise StudyError(
                f'method.targets: no layer of the UNet is called "{target}"; known are the groups '
                f"{', '.join(GROUPS)} and the layers {', '.join(known)}"
            )
        chosen |= found
    return chosen


def _ending(layer: str) -> str:
    """The last name of a layer, with what stands before a number: `to_out.0`, `conv1`."""
    parts = layer.split(".")
    start = len(parts) - 1
    while start and parts[start].isdigit():
        start -= 1
    return ".".join(parts[start:])
