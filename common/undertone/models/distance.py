"""KID between sets of images, on features of the base model's public encoder (Binkowski et al. 2018).

KID is the unbiased squared maximum mean discrepancy with the kernel (x.y/d + 1)^3. The features are
the autoencoder's latents, each standardised by public images, so nothing private shapes the measure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


@dataclass(frozen=True)
class LatentFeatures:
    """Latents standardised by the mean and deviation of public images."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def from_public(cls, latents: NDArray[np.float32]) -> "LatentFeatures":
        """Fit to latents [n, c, h, w] of public images."""
        flat = latents.reshape(len(latents), -1).astype(np.float64)
        return cls(flat.mean(0), flat.std(0) + 1e-6)

    def of(self, latents: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features [n, d] of latents [n, c, h, w]."""
        return (latents.reshape(len(latents), -1).astype(np.float64) - self.mean) / self.deviation


def encode_images(base: LoadedBase, images: list[Image.Image]) -> NDArray[np.float32]:
    """Latents of images of the base's size, in batches."""
    pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.uint8) for image in images])
    return np.concatenate([base.encode(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)])
