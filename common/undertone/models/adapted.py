"""Putting a release's weights into a loaded base, with the loaders diffusers itself has."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from undertone.errors import ModelError
from undertone.models.base import LoadedBase

EMBEDS = "learned_embeds.safetensors"

Weights = Mapping[str, Mapping[str, NDArray[np.float32]]]


def attach(base: LoadedBase, weights: Weights) -> None:
    """Load weights (file name -> tensors) into the pipeline.

    Raises:
        ModelError: they are of a kind that this version does not know.
    """
    if set(weights) != {EMBEDS}:
        raise ModelError(f"weights {sorted(weights)} are not of a kind this version of Undertone knows ({EMBEDS})")
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in weights[EMBEDS].items()}
    base.pipeline.load_textual_inversion(tensors)


def read_weights(release: Path) -> Weights:
    """The weights of a release folder.

    Raises:
        ModelError: there are none, or they are damaged.
    """
    try:
        return {EMBEDS: load_file(release / EMBEDS)}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{release / EMBEDS} cannot be read: {error}") from None
