"""Images from a denoiser D(x; sigma): DDIM, deterministic and stochastic, and Heun's method with churn.

All go down the noise levels of Karras et al. 2022, eq. 5, from pure noise to D at the lowest:

    sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho      i = 0 ... N - 1
    ddim        x <- x + (sigma' - sigma) d                       d = (x - D(x; sigma)) / sigma   (Song et al. 2021)
    stochastic  x <- x + 2 (sigma' - sigma) d + sqrt(2 (sigma - sigma') sigma) z                  (DPDM, appendix)
    heun        Karras et al. 2022, algorithm 2; with churn = 0 there is no noise but the first

Image i follows from its own generator alone, whatever the batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from undertone.errors import ModelError

Denoise = Callable[[Tensor, float], Tensor]
"""(x [n, c, h, w], sigma) -> D(x; sigma)."""
Kind = Literal["ddim", "stochastic", "heun"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_MOST_CHURN = math.sqrt(2) - 1  # of sigma in one step: algorithm 2


@dataclass(frozen=True)
class Sampler:
    """How images are drawn.

    kind: see above. sigma_min, sigma_max, rho: the noise levels. churn: noise added over all steps of "heun", S_churn;
    churn_min, churn_max: at which levels, S_tmin and S_tmax; churn_noise: S_noise.

    Raises:
        ModelError: the levels do not fall, or another figure is not in its range.
    """

    kind: Kind = "heun"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = 1e9
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        figures = (self.sigma_min, self.sigma_max, self.rho, self.churn, self.churn_min, self.churn_max)
        finite = all(math.isfinite(one) for one in (*figures, self.churn_noise))
        if self.kind not in KINDS or not finite or not 0 < self.sigma_min < self.sigma_max or self.rho < 1:
            raise ModelError(f"{self} is no sampler: noise levels must fall from sigma_max to sigma_min above 0")
        if min(self.churn, self.churn_min, self.churn_noise) < 0 or self.churn_max < self.churn_min:
            raise ModelError(f"{self} is no sampler: churn and its levels must not be below 0")

    def levels(self, steps: int) -> list[float]:
        """The N noise levels, falling; one step is at sigma_max."""
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return [(first + i / max(steps - 1, 1) * (last - first)) ** self.rho for i in range(steps)]

    def __call__(
        self,
        denoise: Denoise,
        shape: Sequence[int],
        generators: Sequence[torch.Generator],
        steps: int,
        device: torch.device,
    ) -> Tensor:
        """One image or latent for each generator, [n, *shape].

        Args:
            denoise: D, for all of them at once.
            shape: (channels, height, width).
            generators: on the CPU, one for each.
            steps: N, at least 1.
            device: where D computes.
        """
        noise = _Noise(tuple(shape), generators, device)
        levels = self.levels(steps)
        x = levels[0] * noise()
        for level, lower in zip(levels, [*levels[1:], 0.0], strict=True):
            x, sigma = self._churned(x, level, noise, steps)
            clean = denoise(x, sigma)
            if not lower:
                return clean
            slope = (x - clean) / sigma
            x = self._lowered(denoise, x, slope, sigma, lower, noise)
        raise ModelError("a sampler needs at least one step")

    def _churned(self, x: Tensor, sigma: float, noise: "_Noise", steps: int) -> tuple[Tensor, float]:
        """The images with a little more noise, and their level, where "heun" has churn."""
        churned = min(self.churn / steps, _MOST_CHURN) if self.churn_min <= sigma <= self.churn_max else 0.0
        if self.kind != "heun" or not churned:
            return x, sigma
        higher = sigma * (1 + churned)
        return x + self.churn_noise * math.sqrt(higher**2 - sigma**2) * noise(), higher

    def _lowered(
        self, denoise: Denoise, x: Tensor, slope: Tensor, sigma: float, lower: float, noise: "_Noise"
    ) -> Tensor:
        """The images one level down."""
        down = lower - sigma
        if self.kind == "stochastic":
            return x + 2 * down * slope + math.sqrt(-2 * down * sigma) * noise()
        straight = x + down * slope
        if self.kind == "ddim":
            return straight
        return x + down * (slope + (straight - denoise(straight, lower)) / lower) / 2


@dataclass(frozen=True)
class _Noise:
    """Standard normal noise for all images, each from its own generator, [n, *shape]."""

    shape: tuple[int, ...]
    generators: Sequence[torch.Generator]
    device: torch.device

    def __call__(self) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=one) for one in self.generators]).to(self.device)


def guided(told: Denoise, untold: Denoise, weight: float) -> Denoise:
    """(1 + w) D(x; sigma, y) - w D(x; sigma), classifier-free guidance (Ho and Salimans 2022); w = 0: `told` alone."""
    if weight == 0:
        return told
    return lambda x, sigma: (1 + weight) * told(x, sigma) - weight * untold(x, sigma)
