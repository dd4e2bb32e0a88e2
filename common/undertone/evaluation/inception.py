"""Inception-v3 features as torch-fidelity makes them, of a weights file that is here already: nothing is downloaded.

The file is `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity, or one of the same shape. It is a pickle, so
it is read as tensors alone, and only those are handed on to the library, which would run whatever else it held.
"""

import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchmetrics.image.fid import NoTrainInceptionV3

from undertone.core.canonical import file_sha256
from undertone.core.text import shown
from undertone.errors import InputError, NotInstalled

_BATCH = 32
_HOW = "pip install torch-fidelity, with the torchvision that fits your torch"


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2048 features of the last pooling; `sha256` says of which weights."""

    network: nn.Module
    sha256: str

    @classmethod
    def from_file(cls, weights: Path) -> "InceptionFeatures":
        """The network with the weights of a local file, frozen, on the CPU.

        Raises:
            InputError: the file is not there, or holds other things than this network's tensors.
            NotInstalled: torch-fidelity is not, or cannot be imported here.
        """
        tensors = _tensors(weights)
        try:
            with tempfile.TemporaryDirectory() as folder:
                clean = Path(folder) / "tensors.pth"
                torch.save(tensors, clean)
                network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(clean))
        except ModuleNotFoundError as error:
            raise NotInstalled(f"Inception features need {error.name or 'torch-fidelity'}: {_HOW}") from None
        except RuntimeError as error:
            said = shown(" ".join(str(error).split()), 200)
            if "state_dict" not in str(error):  # of an import: a torchvision that was built for another torch
                raise NotInstalled(f"Inception features do not work here ({said}): {_HOW}") from None
            raise InputError(f"{weights} does not hold the weights of torch-fidelity's Inception: {said}") from None
        return cls(network, file_sha256(weights))

    @torch.no_grad()
    def of(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Features [n, 2048] of images uint8 [n, h, w, 3] of any size."""
        chunks = [torch.from_numpy(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        found: NDArray[np.float64]
        found = torch.cat([self.network(chunk.permute(0, 3, 1, 2)) for chunk in chunks]).double().numpy()
        return found


def _tensors(weights: Path) -> dict[str, torch.Tensor]:
    if not weights.is_file():
        raise InputError(f"{weights} is no file: Inception weights are never downloaded; docs/evaluation.md says which")
    try:
        held = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        said = shown(" ".join(str(error).split()), 200) or type(error).__name__
        raise InputError(f"{weights} cannot be read as a file of tensors: {said}") from None
    if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise InputError(f"{weights} holds other things than tensors by name")
    return {str(name): value for name, value in held.items()}
