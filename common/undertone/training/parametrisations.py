"""How a network becomes a denoiser, which noise levels it learns, and how much each counts: EDM, v, VP, VE.

    D(x; sigma, y) = c_skip x + c_out F(c_in x; c_noise, y)                          (Karras et al. 2022, eq. 7)
    L(x_0) = lambda(sigma) |D(x_0 + sigma n; sigma, y) - x_0|^2       sigma ~ p(sigma), n ~ N(0, I)
    each coefficient a function of sigma                     (Dockhorn et al. 2023, arXiv 2210.09929, appendix)

sigma is the noise's deviation beside an image that is not scaled down: x = x_0 + sigma n. All coefficients are made in
float64. A noise level comes from a uniform number u by p's quantile function, so draws may be spread evenly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from undertone.errors import ModelError

Network = Callable[[Tensor, Tensor], Tensor]
"""(c_in x [n, c, h, w], c_noise [n]) -> F; what it is told is bound in it."""

_EDGE = 2.0**-40  # of a uniform number, off 0 and 1, where some quantiles are infinite
_LARGEST_SIGMA = 4096.0  # of a base whose last step is pure noise; in diffusers' EulerDiscreteScheduler too


@dataclass(frozen=True)
class Coefficients:
    """c_skip, c_out, c_in, c_noise of some noise levels, each float64 [n]."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


class Parametrisation(Protocol):
    """Noise levels, their weights, and what stands around the network."""

    @property
    def reach(self) -> tuple[float, float]:
        """The smallest and the largest sigma that it learns and can be asked for."""

    def sigma(self, u: Tensor) -> Tensor:
        """The quantile function of p: u in (0, 1) -> sigma, float64 [n]; larger u is more noise."""

    def weight(self, sigma: Tensor) -> Tensor:
        """lambda(sigma), [n]."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """What stands around the network at these noise levels [n]."""


@dataclass(frozen=True)
class EDM:
    """ln sigma ~ N(mean, deviation^2); input, output and target of F have variance 1 where the data's is sigma_data^2.

    DPDM: sigma_data = sqrt(1/3), mean -1.2, deviation 1.2, for images in [-1, 1].
    """

    sigma_data: float = math.sqrt(1 / 3)
    mean: float = -1.2
    deviation: float = 1.2
    reach: tuple[float, float] = (0.0, math.inf)

    def sigma(self, u: Tensor) -> Tensor:
        """exp(mean + deviation Phi^-1(u))."""
        return torch.exp(self.mean + self.deviation * torch.special.ndtri(u))

    def weight(self, sigma: Tensor) -> Tensor:
        """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2."""
        return (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Karras et al. 2022, table 1, last column."""
        whole = sigma.square() + self.sigma_data**2
        return Coefficients(
            self.sigma_data**2 / whole, sigma * self.sigma_data / whole.sqrt(), whole.rsqrt(), sigma.log() / 4
        )


@dataclass(frozen=True)
class V:
    """v-prediction (Salimans and Ho 2022): t uniform where ln SNR = -2 ln sigma runs from `largest` to `smallest`."""

    smallest: float = -9.0
    largest: float = 13.0

    @property
    def reach(self) -> tuple[float, float]:
        """exp(-ln SNR / 2) at both ends."""
        return math.exp(-self.largest / 2), math.exp(-self.smallest / 2)

    def sigma(self, u: Tensor) -> Tensor:
        """sqrt(cos(pi t / 2)^-2 - 1) = tan(pi t / 2)."""
        first, last = (2 / math.pi * math.atan(end) for end in self.reach)
        return torch.tan(math.pi / 2 * (first + (last - first) * u))

    def weight(self, sigma: Tensor) -> Tensor:
        """(sigma^2 + 1) / sigma^2."""
        return (sigma.square() + 1) / sigma.square()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_noise is t. F is -v, as in DPDM."""
        whole = sigma.square() + 1
        return Coefficients(1 / whole, sigma / whole.sqrt(), whole.rsqrt(), 2 / math.pi * torch.atan(sigma))


@dataclass(frozen=True)
class VP:
    """The variance-preserving equation of Song et al. 2021: t uniform, F predicts the noise."""

    growth: float = 19.9  # beta_d
    beta_min: float = 0.1
    steps: int = 1000  # M
    first: float = 1e-5  # epsilon_t

    @property
    def reach(self) -> tuple[float, float]:
        """The noise levels at both ends of t."""
        return self._sigma(self.first), self._sigma(1.0)

    def sigma(self, u: Tensor) -> Tensor:
        """sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), t in [epsilon_t, 1]."""
        t = self.first + (1 - self.first) * u
        return torch.expm1(self.growth / 2 * t.square() + self.beta_min * t).sqrt()

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / sigma^2."""
        return sigma.square().reciprocal()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_noise is M t."""
        ratio = self.beta_min / self.growth
        t = torch.sqrt(ratio**2 + 2 / self.growth * torch.log1p(sigma.square())) - ratio
        return Coefficients(torch.ones_like(sigma), -sigma, (sigma.square() + 1).rsqrt(), self.steps * t)

    def _sigma(self, t: float) -> float:
        return math.sqrt(math.expm1(self.growth / 2 * t**2 + self.beta_min * t))


@dataclass(frozen=True)
class VE:
    """The variance-exploding equation of Song et al. 2021: ln sigma uniform."""

    reach: tuple[float, float] = (0.02, 100.0)

    def sigma(self, u: Tensor) -> Tensor:
        """sigma_min (sigma_max / sigma_min)^u."""
        first, last = map(math.log, self.reach)
        return torch.exp(first + (last - first) * u)

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / sigma^2."""
        return sigma.square().reciprocal()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The input is not scaled."""
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, torch.log(sigma / 2))


class Continued:
    """What a base was trained in: its schedule's noise levels, each as likely, and what it predicts.

        x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) n = c_in (x_0 + sigma n)      sigma_t = sqrt((1 - abar_t) / abar_t)

    Between two steps t is interpolated over ln sigma. The loss is the mean square of what is predicted, noise or v.

    Args:
        abar: abar_t float64 [T], of t = 0, 1, ...; falling.
        predicted: "epsilon" or "v_prediction".

    Raises:
        ModelError: it predicts neither, or the noise levels do not rise.
    """

    def __init__(self, abar: Tensor, predicted: str) -> None:
        if predicted not in {"epsilon", "v_prediction"}:
            raise ModelError(f"the base predicts {predicted}; its training goes on for epsilon or v_prediction")
        abar = abar.double().clamp(min=1 / (1 + _LARGEST_SIGMA**2))
        self._levels = torch.sqrt((1 - abar) / abar)
        self._logs = self._levels.log()
        if not bool((self._levels[1:] > self._levels[:-1]).all()) or not bool(self._logs.isfinite().all()):
            raise ModelError("the noise levels of the base's scheduler do not rise from step to step")
        self._velocity = predicted == "v_prediction"

    @property
    def reach(self) -> tuple[float, float]:
        """Of the first step and the last."""
        return float(self._levels[0]), float(self._levels[-1])

    def sigma(self, u: Tensor) -> Tensor:
        """sigma_t, t = floor(T u)."""
        return self._levels[(u * len(self._levels)).long().clamp(max=len(self._levels) - 1)]

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / c_out^2."""
        return self.coefficients(sigma).out.square().reciprocal()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_noise is t."""
        whole, t = sigma.square() + 1, self._step(sigma)
        if self._velocity:
            return Coefficients(1 / whole, -sigma / whole.sqrt(), whole.rsqrt(), t)
        return Coefficients(torch.ones_like(sigma), -sigma, whole.rsqrt(), t)

    def _step(self, sigma: Tensor) -> Tensor:
        logs = sigma.log().clamp(self._logs[0], self._logs[-1])
        above = torch.searchsorted(self._logs, logs).clamp(1, len(self._logs) - 1)
        low, high = self._logs[above - 1], self._logs[above]
        return above - 1 + (logs - low) / (high - low)


def denoised(of: Parametrisation, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
    """D(x; sigma), [n, c, h, w], for noisy x and noise levels float64 [n], on x's device and in its precision."""
    found = of.coefficients(sigma)
    skip, out, into = (_beside(x, one) for one in (found.skip, found.out, found.into))
    return skip * x + out * network(into * x, found.noise.to(x.device, x.dtype))


def denoising_losses(of: Parametrisation, network: Network, x_0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
    """lambda(sigma) |D(x_0 + sigma n; sigma) - x_0|^2 of each row, a mean over its values, [n].

    Args:
        of: the parametrisation.
        network: F.
        x_0: clean images or latents [n, c, h, w].
        noise: n, standard normal, of the same shape.
        u: uniform in [0, 1), float64 [n].
    """
    sigma = of.sigma(_EDGE + (1 - 2 * _EDGE) * u)
    error = denoised(of, network, x_0 + _beside(x_0, sigma) * noise, sigma) - x_0
    return of.weight(sigma).to(x_0.device, x_0.dtype) * error.square().flatten(1).mean(1)


def _beside(x: Tensor, values: Tensor) -> Tensor:
    """Values [n] as they are multiplied with x [n, ...]."""
    return values.to(x.device, x.dtype).reshape(-1, *[1] * (x.dim() - 1))
