"""The public feature encoder: a small convolutional net that knows the drawn public images and nothing private.

It was trained to name what a drawn image shows (`undertone.pretraining.encoder`), under blur, noise and changes of
contrast, so its features tell kinds of image apart rather than cameras. Weights: `encoder.safetensors`.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from undertone.public_images.procedural import KINDS, WORDS

WEIGHTS = Path(__file__).with_name("encoder.safetensors")
SIDE = 64  # pixels that the encoder sees
_CHANNELS = (24, 48, 80, 112)
_BATCH = 128


class FeatureEncoder(nn.Module):
    """Pixels float32 [N, 3, 64, 64] in -1..1 -> features [N, 112], and two heads that its training asked for."""

    def __init__(self) -> None:
        """With the library's start values."""
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *_CHANNELS), _CHANNELS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.kind = nn.Linear(_CHANNELS[-1], len(KINDS))
        self.words = nn.Linear(_CHANNELS[-1], len(WORDS))

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, 112]: the mean over the last 4 x 4 places."""
        features: Tensor = self.body(x).mean(dim=(2, 3))
        return features


@lru_cache(maxsize=1)
def feature_encoder() -> FeatureEncoder:
    """The encoder that ships, frozen, on the CPU."""
    return load_encoder(WEIGHTS)


def load_encoder(path: Path) -> FeatureEncoder:
    """An encoder that `undertone.pretraining.encoder` wrote, frozen, on the CPU."""
    encoder = FeatureEncoder()
    encoder.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return encoder.eval().requires_grad_(False)


def to_encoder(images: NDArray[np.uint8]) -> Tensor:
    """Pixels uint8 [n, h, w, 3] as the encoder wants them, float32 [n, 3, 64, 64]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[-2:] == (SIDE, SIDE):
        return x
    return functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


@torch.no_grad()
def public_features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features [n, 112] of images uint8 [n, h, w, 3] of any size."""
    encoder = feature_encoder()
    chunks = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    found: NDArray[np.float64] = torch.cat([encoder(to_encoder(chunk)) for chunk in chunks]).double().numpy()
    return found


@torch.no_grad()
def kinds_of(images: NDArray[np.uint8], encoder: FeatureEncoder | None = None) -> list[str]:
    """The kind of drawn thing that each image uint8 [n, h, w, 3] shows most likely, one of `KINDS`.

    Args:
        images: pixels of any size.
        encoder: who judges; the one that ships if none is named.
    """
    encoder = encoder or feature_encoder()
    chunks = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    scores = torch.cat([encoder.kind(encoder(to_encoder(chunk))) for chunk in chunks])
    return [KINDS[number] for number in scores.argmax(dim=1).tolist()]
