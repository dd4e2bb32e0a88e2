"""Putting a release's weights into a loaded base, with the loaders diffusers itself has where it has one."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from undertone.errors import ModelError
from undertone.models.base import LoadedBase
from undertone.models.files import DELTA, EMBEDS, KINDS, LORA

Weights = Mapping[str, Mapping[str, NDArray[np.float32]]]


def attach(base: LoadedBase, weights: Weights) -> None:
    """Load weights (file name -> tensors) into the pipeline.

    Raises:
        ModelError: they are of a kind that this version does not know, or do not fit the base.
    """
    if len(weights) != 1 or not set(weights) <= set(KINDS):
        raise ModelError(
            f"weights {sorted(weights)} are not of a kind this version of Undertone knows ({', '.join(KINDS)})"
        )
    ((kind, arrays),) = weights.items()
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in arrays.items()}
    if kind == EMBEDS:
        base.pipeline.load_textual_inversion(tensors)
    elif kind == LORA:
        base.pipeline.unet.load_lora_adapter(tensors, prefix="unet")
    else:
        _add(base, tensors)


@torch.no_grad()
def _add(base: LoadedBase, differences: Mapping[str, Tensor]) -> None:
    """Add each difference to the tensor that it names, `unet.` or `text_encoder.` first."""
    parts = {"unet": base.pipeline.unet, "text_encoder": base.pipeline.text_encoder}
    named = {f"{part}.{name}": one for part, module in parts.items() for name, one in module.named_parameters()}
    for name, difference in differences.items():
        if name not in named or named[name].shape != difference.shape:
            raise ModelError(f"{DELTA} holds {name}, which does not fit this base; use the base that the plan names")
    for name, difference in differences.items():
        named[name].add_(difference.to(named[name].device))


def kind_of(release: Path) -> str:
    """The name of the file that holds a release's weights.

    Raises:
        ModelError: there is none.
    """
    for kind in KINDS:
        if (release / kind).is_file():
            return kind
    raise ModelError(f"{release} holds no weights ({', '.join(KINDS)})")


def read_weights(release: Path) -> Weights:
    """The weights of a release folder.

    Raises:
        ModelError: there are none, or they are damaged.
    """
    kind = kind_of(release)
    try:
        return {kind: load_file(release / kind)}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{release / kind} cannot be read: {error}") from None
