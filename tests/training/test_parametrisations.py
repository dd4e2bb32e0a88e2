"""Parametrisations against the exact denoiser of a Gaussian and against diffusers; slips that these tests see."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler
from torch import Tensor

from tests.support.gaussian import (
    continued_network,
    drawn,
    edm_network,
    ideal,
    left_over,
    v_network,
    ve_network,
    vp_network,
)
from undertone.errors import ModelError
from undertone.training.denoisers import build_scheduler
from undertone.training.parametrisations import (
    EDM,
    VE,
    VP,
    Coefficients,
    Continued,
    Network,
    Parametrisation,
    V,
    denoised,
    denoising_losses,
)

ABAR = build_scheduler().alphas_cumprod
LINEAR = DDIMScheduler(beta_schedule="linear").alphas_cumprod
CASES: dict[str, tuple[Parametrisation, Network]] = {
    "edm": (EDM(), edm_network),
    "v": (V(), v_network),
    "vp": (VP(), vp_network),
    "ve": (VE(), ve_network),
    "continued v": (Continued(ABAR, "v_prediction"), continued_network(ABAR, "v_prediction")),
    "continued epsilon": (Continued(LINEAR, "epsilon"), continued_network(LINEAR, "epsilon")),
}
LEVELS = torch.tensor([0.03, 0.3, 1.0, 7.0, 60.0], dtype=torch.float64)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Parametrisation, Network]:
    return CASES[request.param]


def levels_of(of: Parametrisation) -> Tensor:
    """Noise levels at which the ideal network can be asked: whole steps of a base, but the last, which is all noise."""
    if isinstance(of, Continued):
        return of.sigma(torch.tensor([0.01, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64))
    return LEVELS


def far_off(of: Parametrisation, network: Network) -> float:
    """How far D by this parametrisation and its paper's ideal network is from the ideal denoiser, at most."""
    sigma = levels_of(of)
    x = drawn(len(sigma), 8) + sigma.reshape(-1, 1, 1, 1) * drawn(len(sigma), 8, seed=2)
    return float((denoised(of, network, x, sigma) - ideal(x, sigma)).abs().max())


def test_the_papers_ideal_network_gives_the_ideal_denoiser(case: tuple[Parametrisation, Network]) -> None:
    assert far_off(*case) < 1e-6


def test_the_loss_of_the_ideal_denoiser_is_weight_times_what_is_left(case: tuple[Parametrisation, Network]) -> None:
    """A mean over enough pixels; a wrong lambda is a wrong loss."""
    of, network = case
    u = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
    x_0, noise = drawn(3, 256), torch.randn(3, 2, 256, 256, dtype=torch.float64, generator=_seeded(3))
    found, sigma = denoising_losses(of, network, x_0, noise, u), of.sigma(u)
    torch.testing.assert_close(found, of.weight(sigma) * left_over(sigma), rtol=0.02, atol=0)
    # In each of them F's own error counts alike at every level: lambda c_out^2 = 1.
    torch.testing.assert_close(of.weight(sigma), of.coefficients(sigma).out.square().reciprocal(), rtol=1e-9, atol=0)


def test_noise_levels_rise_with_u_and_stay_within_reach(case: tuple[Parametrisation, Network]) -> None:
    of, _ = case
    u = torch.linspace(1e-9, 1 - 1e-9, 1001, dtype=torch.float64)
    sigma, (least, most) = of.sigma(u), of.reach
    assert sigma.dtype == torch.float64
    assert bool((sigma[1:] >= sigma[:-1]).all())
    assert least * (1 - 1e-9) <= float(sigma[0])
    assert float(sigma[-1]) <= most * (1 + 1e-9)


def test_quantiles_are_those_of_the_papers_distributions() -> None:
    u = torch.tensor([0.5, 0.841344746068543], dtype=torch.float64)
    torch.testing.assert_close(EDM().sigma(u).log(), torch.tensor([-1.2, 0.0], dtype=torch.float64), atol=1e-9, rtol=0)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    snr = -2 * V().sigma(ends).log()
    torch.testing.assert_close(snr, torch.tensor([13.0, -9.0], dtype=torch.float64), atol=1e-6, rtol=0)
    vp = [math.sqrt(math.exp(19.9 / 2 * t**2 + 0.1 * t) - 1) for t in (1e-5, 0.500005, 1.0)]
    found = VP().sigma(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(vp, dtype=torch.float64), rtol=1e-6, atol=0)
    middle = VE().sigma(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(middle, torch.tensor([0.02, math.sqrt(2), 100.0], dtype=torch.float64))


def test_a_base_goes_on_with_its_own_noise_and_steps() -> None:
    """x_t and what is asked of the network are those of diffusers' own scheduler, at every step."""
    schedule = DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    of = Continued(schedule.alphas_cumprod, "v_prediction")
    t = torch.tensor([0, 1, 400, 998, 999])
    u = (t.double() + 0.5) / 1000
    x_0, noise = drawn(5, 4).float(), drawn(5, 4, seed=5).float()
    seen: list[Tensor] = []

    def network(x: Tensor, at: Tensor) -> Tensor:
        seen.extend((x, at))
        return torch.zeros_like(x)

    losses = denoising_losses(of, network, x_0, noise, u)
    torch.testing.assert_close(seen[0], schedule.add_noise(x_0, noise, t), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[1], t.float(), rtol=0, atol=1e-3)
    v = schedule.get_velocity(x_0, noise, t)
    torch.testing.assert_close(losses, v.square().flatten(1).mean(1), rtol=1e-4, atol=0)


def test_a_base_that_ends_in_pure_noise_has_a_finite_last_level() -> None:
    of = Continued(ABAR, "v_prediction")
    assert float(ABAR[-1]) == 0.0
    assert of.reach[1] == pytest.approx(4096)
    between = of.coefficients(torch.tensor([1.0, 1.001, 4096.0, 1e6], dtype=torch.float64)).noise
    assert bool(between.isfinite().all())
    assert float(between[1]) > float(between[0])
    assert between[2:].tolist() == [999.0, 999.0]


@pytest.mark.parametrize("predicted", ["sample", "score"])
def test_a_base_that_predicts_something_else_is_refused(predicted: str) -> None:
    with pytest.raises(ModelError, match="predicts"):
        Continued(LINEAR, predicted)


def test_a_schedule_whose_noise_does_not_rise_is_refused() -> None:
    with pytest.raises(ModelError, match="do not rise"):
        Continued(LINEAR.flip(0), "epsilon")


# --- diffusers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_data", [0.5, math.sqrt(1 / 3)])
@pytest.mark.parametrize("sigma", [0.002, 0.4, 3.0, 80.0])
def test_edm_is_that_of_diffusers(sigma_data: float, sigma: float) -> None:
    theirs, of = EDMEulerScheduler(sigma_data=sigma_data), EDM(sigma_data)
    x, answer, level = drawn(1, 8), drawn(1, 8, seed=7), torch.tensor([sigma], dtype=torch.float64)
    fed: list[Tensor] = []

    def network(into: Tensor, noise: Tensor) -> Tensor:
        fed.extend((into, noise))
        return answer

    found = denoised(of, network, x, level)
    torch.testing.assert_close(found, theirs.precondition_outputs(x, answer, level), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(fed[0], theirs.precondition_inputs(x, level), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(fed[1], theirs.precondition_noise(level), rtol=1e-6, atol=1e-9)
    # lambda evens out what the network's error makes of the denoised image.
    moved = theirs.precondition_outputs(torch.zeros(1), torch.ones(1), level.float()).double()
    torch.testing.assert_close(of.weight(level), moved.square().reciprocal(), rtol=1e-6, atol=0)


# --- mutants: each is a slip that these tests must see --------------------------------------------


class _Slipped:
    """A parametrisation with one coefficient changed."""

    def __init__(self, of: Parametrisation, slip: Callable[[Coefficients], Coefficients]) -> None:
        self._of, self._slip = of, slip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return self._slip(self._of.coefficients(sigma))


SLIPS: dict[str, Callable[[Coefficients], Coefficients]] = {
    "c_skip": lambda c: replace(c, skip=1.01 * c.skip),
    "c_out": lambda c: replace(c, out=0.99 * c.out),
    "c_out's sign": lambda c: replace(c, out=-c.out),
    "c_in": lambda c: replace(c, into=1.01 * c.into),
    "c_noise": lambda c: replace(c, noise=c.noise + 0.05 * c.noise.abs().clamp(min=0.1)),
}


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("name", ["edm", "v", "vp", "ve"])
def test_a_slip_in_a_coefficient_is_seen(name: str, slip: str) -> None:
    of, network = CASES[name]
    assert far_off(_Slipped(of, SLIPS[slip]), network) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_a_slip_in_lambda_is_seen(name: str) -> None:
    class Slipped(_Slipped):
        def weight(self, sigma: Tensor) -> Tensor:
            return self._of.weight(sigma) * sigma

    of, network = CASES[name]
    with pytest.raises(AssertionError):
        test_the_loss_of_the_ideal_denoiser_is_weight_times_what_is_left((Slipped(of, lambda c: c), network))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
