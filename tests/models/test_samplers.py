"""Samplers with the exact denoiser of a Gaussian: the images have its mean and covariance; steps against diffusers."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import EDMEulerScheduler, KarrasVeScheduler
from torch import Tensor

from tests.support.gaussian import COVARIANCE, MEAN, drawn, ideal
from undertone.errors import ModelError
from undertone.models.samplers import Denoise, Sampler, guided

CPU = torch.device("cpu")
SAMPLERS = {
    "ddim": (Sampler("ddim"), 400),
    "stochastic": (Sampler("stochastic"), 300),
    "heun": (Sampler("heun"), 60),
    "churn": (Sampler("heun", churn=20.0, churn_min=0.05, churn_max=50.0), 150),
}


def at(x: Tensor, sigma: float) -> Tensor:
    return ideal(x, torch.full((len(x),), sigma, dtype=torch.float64))


def seeded(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + number) for number in range(count)]


def moments_off(sampler: Sampler, denoise: Denoise, steps: int) -> float:
    """How far mean and covariance of 65,536 drawn pixels are from the Gaussian's, at most."""
    pixels = sampler(denoise, (2, 64, 64), seeded(16), steps, CPU).double().transpose(0, 1).flatten(1)
    off = (pixels.mean(1) - MEAN).abs().max(), (torch.cov(pixels) - COVARIANCE).abs().max()
    return float(max(off))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_samplers_images_have_the_datas_moments(name: str) -> None:
    assert moments_off(SAMPLERS[name][0], at, SAMPLERS[name][1]) < 0.01


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "slip",
    [
        lambda x, sigma: 0.97 * at(x, sigma),
        lambda x, sigma: at(x, 1.1 * sigma),
        lambda x, sigma: at(x, sigma) + 0.01 * x / (1 + sigma**2),  # a wrong c_skip
    ],
    ids=["D", "sigma", "c_skip"],
)
def test_a_wrong_denoiser_is_seen_in_the_moments(name: str, slip: Callable[[Tensor, float], Tensor]) -> None:
    sampler, steps = SAMPLERS[name]
    assert moments_off(sampler, slip, steps) > 0.01


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_follows_from_its_own_generator_alone(name: str) -> None:
    sampler, _ = SAMPLERS[name]
    together = sampler(at, (2, 4, 4), seeded(5), 12, CPU)
    for number in range(5):
        alone = sampler(at, (2, 4, 4), seeded(1, first=number), 12, CPU)
        torch.testing.assert_close(alone[0], together[number], rtol=1e-5, atol=1e-6)
    assert len({image.numpy().tobytes() for image in together}) == 5


def test_without_churn_there_is_no_noise_but_the_first() -> None:
    for sampler in (Sampler("ddim"), Sampler("heun"), Sampler("heun", churn=50.0, churn_min=90.0)):
        (generator,), (other,) = seeded(1), seeded(1)
        sampler(at, (2, 4, 4), [generator], 9, CPU)
        torch.randn(2, 4, 4, generator=other)
        assert torch.equal(torch.randn(4, generator=generator), torch.randn(4, generator=other))


def test_noise_levels_are_those_of_diffusers() -> None:
    for steps in (2, 18, 50):
        theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
        theirs.set_timesteps(steps)
        found = torch.tensor(Sampler().levels(steps), dtype=torch.float64)
        torch.testing.assert_close(found, theirs.sigmas[:-1].double(), rtol=1e-6, atol=0)
    assert Sampler().levels(1) == pytest.approx([80.0])


def test_ddim_goes_as_diffusers_euler_does() -> None:
    theirs, steps = EDMEulerScheduler(sigma_data=0.5), 12
    theirs.set_timesteps(steps)
    x = 80.0 * torch.randn(1, 2, 8, 8, generator=seeded(1)[0])
    for t, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
        theirs.scale_model_input(x, t)
        output = (at(x, float(sigma)) - _skip(sigma) * x) / _out(sigma)
        x = theirs.step(output, t, x).prev_sample
    found = Sampler("ddim")(at, (2, 8, 8), seeded(1), steps, CPU)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def _skip(sigma: Tensor) -> Tensor:
    return 0.25 / (sigma**2 + 0.25)


def _out(sigma: Tensor) -> Tensor:
    return 0.5 * sigma / (sigma**2 + 0.25) ** 0.5


def test_a_step_of_heun_is_that_of_diffusers() -> None:
    """Karras et al. 2022, algorithm 2, as `KarrasVeScheduler` has it."""
    theirs = KarrasVeScheduler()
    sigma, lower, x = 1.7, 0.9, drawn(1, 8)
    slope = (x - at(x, sigma)) / sigma
    there = theirs.step(-slope, sigma, lower, x)  # it takes D from x + sigma times what it is told
    back = (there.prev_sample - at(there.prev_sample, lower)) / lower
    expected = theirs.step_correct(-back, sigma, lower, x, there.prev_sample, there.derivative).prev_sample
    found = Sampler("heun")._lowered(at, x, slope, sigma, lower, lambda: pytest.fail("no noise"))  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_churn_adds_the_variance_that_raises_the_level() -> None:
    sampler, steps = Sampler("heun", churn=8.0, churn_noise=1.5), 40
    x = torch.zeros(1, 2, 256, 256)
    noise = torch.randn(1, 2, 256, 256, generator=seeded(1)[0])
    found, higher = sampler._churned(x, 2.0, lambda: noise, steps)  # type: ignore[arg-type]
    assert higher == pytest.approx(2.0 * 1.2)
    assert float(found.std()) == pytest.approx(1.5 * 2.0 * math.sqrt(1.2**2 - 1), rel=0.01)
    assert Sampler("heun", churn=1e6)._churned(x, 2.0, lambda: noise, steps)[1] == pytest.approx(2 * math.sqrt(2))


def test_guidance_goes_past_what_was_told_by_its_weight() -> None:
    told, untold = (lambda x, _sigma: 2 * x), (lambda x, _sigma: x)
    x = drawn(1, 4)
    torch.testing.assert_close(guided(told, untold, 0.5)(x, 1.0), 3 * x - 0.5 * x)
    assert guided(told, untold, 0.0) is told


@pytest.mark.parametrize(
    "figures",
    [
        {"sigma_min": 0.0},
        {"sigma_min": 90.0},
        {"rho": 0.5},
        {"churn": -1.0},
        {"churn_min": 2.0, "churn_max": 1.0},
        {"churn_noise": math.nan},
        {"sigma_max": math.inf},
        {"kind": "other"},
    ],
)
def test_what_is_no_sampler_is_refused(figures: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="no sampler"):
        Sampler(**figures)  # type: ignore[arg-type]
