"""`dp-lora`: DP-SGD on LoRA adapters (DP-LoRA, arXiv 2406.01355; on convolutions too as in DP-LoDA, 2406.05257).

    W' = W + (alpha / r) B A        A [r, in] drawn from a public seed, B [out, r] zero at first

w holds all B, and A stays as it was drawn (FFA-LoRA, arXiv 2403.12313: half the values, so half the noise's energy; and
B A is linear in what is averaged); with `freeze_a = false` w holds all A and B. Adapted are layers of the UNet and,
with `text`, the attention of the text encoder. The release is one `pytorch_lora_weights.safetensors` with A and B for
stock `load_lora_weights`; alpha / r is multiplied into its B, so it needs no further number.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.bounds import ITEMS, NAME
from undertone.core.config import Section
from undertone.errors import StudyError
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.gradient.options import DIRECTIONS, STEPS, GradientOptions
from undertone.methods.lora.public_a import public_a
from undertone.methods.lora.release import ADAPTER_FILE, TEXT, TEXT_TARGETS, is_a, place
from undertone.methods.protocol import Automatic, Draw
from undertone.methods.release_format import ReleaseFormat, Shapes, Tensors, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch

GROUPS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "conv": ("conv1", "conv2", "conv_shortcut"),
}


class DPLoRAOptions(GradientOptions):
    """[method] keys of dp-lora. Symbols: r = rank; `targets` are "attention", "conv", or names of layers of the UNet.

    freeze_a: A stays as it was drawn and B alone is trained. text: the text encoder's attention gets adapters too.
    select: how many of the targets are trained, chosen in a charged first round (0: all, and no such round); see
    `selection.py`. select_share: its part of the study's epsilon. select_clip: its C; "auto": from public drawings.
    """

    rank: int = Field(default=4, ge=1, le=256)
    alpha: int = Field(default=4, ge=1, le=1024)
    targets: list[Annotated[str, Field(max_length=NAME)]] = Field(default=["attention"], min_length=1, max_length=ITEMS)
    freeze_a: bool = True
    text: bool = True
    select: int = Field(default=0, ge=0, le=10_000)
    select_share: float = Field(default=0.2, gt=0, lt=1)
    select_clip: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"

    def model_post_init(self, context: object, /) -> None:
        """Keys that go together.

        Raises:
            ValueError: turned into a `StudyError` by `parse_options`.
        """
        super().model_post_init(context)
        if self.select and self.directions:
            raise ValueError(
                "method.select and method.directions do not go together: rows in directions are of no target; say one"
            )


class DPLoRA(GradientMethod):
    """The method `dp-lora`; see the module's description."""

    name: ClassVar[str] = "dp-lora"
    options_type: ClassVar[type[Section]] = DPLoRAOptions
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (ADAPTER_FILE,)
    automatic: ClassVar[Automatic] = Automatic(
        rounds=12,
        options=STEPS | {"directions": replace(DIRECTIONS, unless="select")},
        measured="learning_rate",
    )
    way: ClassVar[float] = 6.0
    options: DPLoRAOptions

    def layout(self, base: PinnedBase) -> Layout:
        """B of each adapted layer, or A and B, under the names they have in the released file.

        Raises:
            StudyError: a target names no layer; the message lists the known ones.
        """
        return lora_layout(base.shapes("unet"), base.shapes("text_encoder"), self.options)

    def fixed(self, name: str) -> Draw | None:
        """A, where it is frozen."""
        return partial(public_a, name) if self.options.freeze_a and is_a(name) else None

    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        """B is zero, so that the model is the base's at first; A as drawn, where w holds it."""
        tensors = self.layout(base).tensors
        return np.concatenate(
            [public_a(*one).reshape(-1) if is_a(one[0]) else np.zeros(prod(one[1])) for one in tensors]
        ).astype(np.float32)

    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        from undertone.methods.lora.adapters import TrainedLora  # torch, peft

        layout = self.layout(base.pinned)
        trained = [name for name, _ in layout.tensors]
        return TrainedLora(base, self._adapters(layout, w), trained, self.options.rank, self.options.alpha)

    def _released(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """A, and B with alpha / r multiplied in."""
        layout, scale = self.layout(base), np.float32(self.options.alpha / self.options.rank)
        named = self._adapters(layout, w)
        scaled = {name: value if is_a(name) else value * scale for name, value in named.items()}
        whole = Layout((*layout.tensors, *layout.fixed))
        return self.release_format.write(whole, whole.flatten(scaled))

    def _adapters(self, layout: Layout, w: NDArray[np.float32]) -> Tensors:
        """A and B of every adapted layer."""
        return layout.unflatten(w) | {name: public_a(name, shape) for name, shape in layout.fixed}


def lora_layout(unet: Shapes, text_encoder: Shapes, options: DPLoRAOptions) -> Layout:
    """A and B for every layer of the UNet that `targets` name and, with `text`, for the text encoder's attention.

    Args:
        unet: its tensors.
        text_encoder: its tensors.
        options: rank, targets, freeze_a, text.

    Raises:
        StudyError: see `DPLoRA.layout`.
    """
    layers = _layers("unet.", unet, options.targets)
    if options.text:
        layers |= _layers(TEXT, text_encoder, TEXT_TARGETS)
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for layer, (out, into, *kernel) in layers.items():
        tensors.append((f"{layer}.lora_A.weight", (options.rank, into, *kernel)))
        tensors.append((f"{layer}.lora_B.weight", (out, options.rank, *(1 for _ in kernel))))
    ordered = sorted(tensors, key=place)
    if not options.freeze_a:
        return Layout(tuple(ordered))
    return Layout(
        tuple(one for one in ordered if not is_a(one[0])), fixed=tuple(one for one in ordered if is_a(one[0]))
    )


def _layers(part: str, shapes: Shapes, targets: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The chosen layers of a part with the shapes of their weights, under the names that they have in a release."""
    layers = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if _adaptable(name, shape)}
    return {f"{part}{layer}": layers[layer] for layer in _chosen(layers, targets)}


def _adaptable(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) in (2, 4)


def _chosen(layers: Iterable[str], targets: Sequence[str]) -> set[str]:
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
