"""Putting a release's weights into a loaded base, with the loaders diffusers itself has where it has one."""

import re
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.errors import ModelError, UnfitWeights
from undertone.models.base import LoadedBase
from undertone.models.files import DELTA, EMBEDS, KINDS, LORA
from undertone.models.weights import Weights
from undertone.models.weights import read_weights as read_weights
from undertone.shown import shown

_TOKEN = re.compile(r"<[a-z0-9-]{1,40}>")
_MOST_VECTORS = 16
_ADAPTER = re.compile(r"unet\.(.+)\.lora_[AB]\.weight")
Tensors = Mapping[str, NDArray[np.float32]]


def attach(base: LoadedBase, weights: Weights) -> None:
    """Load weights (file name -> tensors) into the pipeline, once they fit it; nothing is changed where they do not.

    Raises:
        ModelError: they are of a kind that this version does not know.
        UnfitWeights: a value is not finite, or a name, a type or a shape does not fit the base.
    """
    if len(weights) != 1 or not set(weights) <= set(KINDS):
        raise ModelError(
            f"weights {sorted(weights)} are not of a kind this version of Undertone knows ({', '.join(KINDS)})"
        )
    ((kind, arrays),) = weights.items()
    for name, array in arrays.items():
        if array.dtype != np.float32 or not bool(np.isfinite(array).all()):
            raise UnfitWeights(f"{kind}: {shown(name, 80)} is not float32, or holds a value that is not finite")
    {EMBEDS: _check_word, LORA: _check_adapters, DELTA: _check_differences}[kind](base, arrays)
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in arrays.items()}
    if kind == EMBEDS:
        base.pipeline.load_textual_inversion(tensors)
    elif kind == LORA:
        base.pipeline.unet.load_lora_adapter(tensors, prefix="unet")
    else:
        _add(base, tensors)


def _check_word(base: LoadedBase, arrays: Tensors) -> None:
    """One new word, as long as the base's own: [width], or [vectors, width]."""
    (name, array), *more = arrays.items()
    width = base.pinned.embedding_width
    fits = array.shape == (width,) or (array.ndim == 2 and 1 <= len(array) <= _MOST_VECTORS and array.shape[1] == width)
    if more or not fits:
        raise UnfitWeights(
            f"{EMBEDS} holds {shown(name, 80)} {list(array.shape)}; this base's words have {width} values"
        )
    if not _TOKEN.fullmatch(name) or name in base.pipeline.tokenizer.get_vocab():
        raise UnfitWeights(f'{EMBEDS} names its word "{shown(name, 80)}", which is no new word such as <private>')


def _check_adapters(base: LoadedBase, arrays: Tensors) -> None:
    """A [r, in] and B [out, r] for layers that the UNet has."""
    layers = base.pinned.shapes("unet")
    for name, array in arrays.items():
        match = _ADAPTER.fullmatch(name)
        shape = layers.get(f"{match[1]}.weight", ()) if match else ()
        a, b = (arrays.get(f"unet.{match[1]}.lora_{part}.weight") if match else None for part in "AB")
        if len(shape) < 2 or a is None or b is None:
            raise UnfitWeights(f"{LORA} holds {shown(name, 80)}, for which this base has no layer; use the plan's base")
        rank = len(a) if a.ndim else 0
        if rank < 1 or a.shape != (rank, *shape[1:]) or b.shape != (shape[0], rank, *(1 for _ in shape[2:])):
            raise UnfitWeights(f"{LORA} holds {shown(name, 80)} {list(array.shape)}, which does not fit that layer")


def _check_differences(base: LoadedBase, arrays: Tensors) -> None:
    """Each difference has the name and the shape of a tensor of the base."""
    named = _parameters(base)
    for name, array in arrays.items():
        if name not in named or named[name].shape != array.shape:
            raise UnfitWeights(f"{DELTA} holds {shown(name, 80)}, which does not fit this base; use the plan's base")


@torch.no_grad()
def _add(base: LoadedBase, differences: Mapping[str, Tensor]) -> None:
    """Add each difference to the tensor that it names, `unet.` or `text_encoder.` first."""
    named = _parameters(base)
    for name, difference in differences.items():
        named[name].add_(difference.to(named[name].device))


def _parameters(base: LoadedBase) -> dict[str, Tensor]:
    parts = {"unet": base.pipeline.unet, "text_encoder": base.pipeline.text_encoder}
    return {f"{part}.{name}": one for part, module in parts.items() for name, one in module.named_parameters()}
