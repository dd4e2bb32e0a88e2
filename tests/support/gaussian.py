"""Pixels that are independent draws of one Gaussian: their ideal denoiser is linear and known."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MEAN = torch.tensor([0.4, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.30, 0.18], [0.18, 0.25]], dtype=torch.float64)


def ideal(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x] = m + S (S + sigma^2 I)^-1 (x - m) for each pixel of x [n, 2, h, w]; sigma [n]."""
    wide = COVARIANCE + sigma.double().square()[:, None, None] * torch.eye(2, dtype=torch.float64)
    gain = COVARIANCE @ torch.linalg.inv(wide)
    shift = MEAN.reshape(1, 2, 1, 1)
    found = shift + torch.einsum("nij,njhw->nihw", gain, x.double() - shift)
    return found.to(x.dtype)


def left_over(sigma: Tensor) -> Tensor:
    """E |D(x; sigma) - x_0|^2 of the ideal denoiser, a mean over the two values, [n]."""
    wide = COVARIANCE + sigma.double().square()[:, None, None] * torch.eye(2, dtype=torch.float64)
    rest = COVARIANCE - COVARIANCE @ torch.linalg.inv(wide) @ COVARIANCE
    return rest.diagonal(dim1=1, dim2=2).mean(1)


def drawn(count: int, side: int, seed: int = 1) -> Tensor:
    """Images [count, 2, side, side] float64 of the Gaussian."""
    noise = torch.randn(count, 2, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return MEAN.reshape(1, 2, 1, 1) + torch.einsum("ij,njhw->nihw", torch.linalg.cholesky(COVARIANCE), noise)


# The ideal network of each parametrisation by its paper: what it is fed and told -> what it should answer. Each gets
# sigma back from c_noise by its own formula, so that a wrong coefficient of ours makes another denoiser.


def edm_network(x: Tensor, noise: Tensor, sigma_data: float = math.sqrt(1 / 3)) -> Tensor:
    """c_noise = ln(sigma) / 4; the target has variance 1 (Karras et al. 2022, B.6)."""
    sigma = torch.exp(4 * noise.double())
    whole = sigma.square() + sigma_data**2
    noisy = x.double() * _beside(whole.sqrt())
    return (ideal(noisy, sigma) - _beside(sigma_data**2 / whole) * noisy) / _beside(sigma * sigma_data / whole.sqrt())


def v_network(x: Tensor, noise: Tensor) -> Tensor:
    """-v = beta x_0 - alpha n of alpha x_0 + beta n, alpha = cos(pi t / 2) (Salimans and Ho 2022)."""
    alpha, beta = torch.cos(math.pi / 2 * noise.double()), torch.sin(math.pi / 2 * noise.double())
    clean = ideal(x.double() / _beside(alpha), beta / alpha)
    epsilon = (x - _beside(alpha) * clean) / _beside(beta)
    return _beside(beta) * clean - _beside(alpha) * epsilon


def vp_network(x: Tensor, noise: Tensor, growth: float = 19.9, beta_min: float = 0.1) -> Tensor:
    """The noise in alpha x_0 + beta n, ln alpha = -beta_d t^2 / 4 - beta_min t / 2 (Song et al. 2021)."""
    t = noise.double() / 1000
    alpha = torch.exp(-growth * t.square() / 4 - beta_min * t / 2)
    beta = torch.sqrt(1 - alpha.square())
    clean = ideal(x.double() / _beside(alpha), beta / alpha)
    return (x - _beside(alpha) * clean) / _beside(beta)


def ve_network(x: Tensor, noise: Tensor) -> Tensor:
    """Minus the noise in x = x_0 + sigma n, c_noise = ln(sigma / 2) (Song et al. 2021)."""
    sigma = 2 * torch.exp(noise.double())
    return (ideal(x.double(), sigma) - x) / _beside(sigma)


def continued_network(abar: Tensor, predicted: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What a base of this schedule should answer at whole steps t: the noise, or v (Ho et al. 2020)."""

    def network(x: Tensor, noise: Tensor) -> Tensor:
        at = abar.double()[noise.double().round().long()]
        alpha, beta = at.sqrt(), (1 - at).sqrt()
        clean = ideal(x.double() / _beside(alpha), beta / alpha)
        epsilon = (x - _beside(alpha) * clean) / _beside(beta)
        return epsilon if predicted == "epsilon" else _beside(alpha) * epsilon - _beside(beta) * clean

    return network


def _beside(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)
