"""KID between sets of images (Binkowski et al. 2018) and nearest neighbours, on features that nothing private shaped.

KID is the unbiased squared maximum mean discrepancy with the kernel (x.y/d + 1)^3. The features of simulations are
those of the public encoder (`features.py`), standardised by public images: they name real digits and chests better
than a base's own encoder does, and are the same whatever the base. Mean and deviation of every channel at every stage
of the base's autoencoder are the second opinion. (Raw latents compare place by place and rank a drawn chest no nearer
to chest X-rays than a random picture; docs/benchmarks.md has the tables.)
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from undertone.evaluation.encoder import public_features
from undertone.models.base import LoadedBase

_BATCH = 64


def kid(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Unbiased squared MMD of features x [n, d] and y [m, d], n and m at least 2; may be below 0 near 0."""
    n, m = len(x), len(y)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within_x = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    within_y = (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within_x + within_y - 2 * xy.mean())


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def nearest(x: NDArray[np.float64], y: NDArray[np.float64], k: int = 1) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For each row of features x [n, d] its k nearest rows of y [m, d]: indices and distances [n, k], nearest first."""
    squared = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * x @ y.T
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.maximum(np.take_along_axis(squared, order, axis=1), 0))


@dataclass(frozen=True)
class PublicFeatures:
    """Features of the public encoder, standardised by the mean and deviation of public images."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def from_public(cls, images: NDArray[np.uint8]) -> "PublicFeatures":
        """Standardise by public images [n, h, w, 3]."""
        raw = public_features(images)
        return cls(raw.mean(0), raw.std(0) + 1e-6)

    def of(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Features [n, d] of images [n, h, w, 3] of any size."""
        return (public_features(images) - self.mean) / self.deviation


@dataclass(frozen=True)
class EncoderFeatures:
    """Features of one base's encoder, standardised by the mean and deviation of public images."""

    base: LoadedBase
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def from_public(cls, base: LoadedBase, images: NDArray[np.uint8]) -> "EncoderFeatures":
        """Standardise by public images [n, h, w, 3]."""
        raw = _encoder_statistics(base, images)
        return cls(base, raw.mean(0), raw.std(0) + 1e-6)

    def of(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Features [n, d] of images [n, h, w, 3]."""
        return (_encoder_statistics(self.base, images) - self.mean) / self.deviation


@torch.no_grad()
def _encoder_statistics(base: LoadedBase, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean and deviation over space of each channel after each stage, [n, 2 * channels of all stages]."""
    encoder = base.pipeline.vae.encoder
    batches: list[NDArray[np.float64]] = []
    for start in range(0, len(images), _BATCH):
        found: list[Tensor] = []

        def keep(_module: nn.Module, _args: object, output: Tensor, found: list[Tensor] = found) -> None:
            found.extend((output.mean((2, 3)), output.std((2, 3))))

        stages = [encoder.conv_in, *encoder.down_blocks, encoder.mid_block]
        handles = [stage.register_forward_hook(keep) for stage in stages]
        try:
            base.encode(images[start : start + _BATCH])
        finally:
            for handle in handles:
                handle.remove()
        batches.append(torch.cat(found, 1).double().cpu().numpy())
    return np.concatenate(batches)
