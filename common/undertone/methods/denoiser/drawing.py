"""Images from a released denoiser, by the sampler that its figures name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from undertone.errors import MechanismViolation
from undertone.methods.denoiser.denoising import network_of, parametrisation_of, row_loss
from undertone.methods.denoiser.initial_weights import TABLE
from undertone.methods.denoiser.options import Figures
from undertone.models.interface import Base
from undertone.models.samplers import Denoise, Sampler, guided
from undertone.training.parametrisations import EDM, Parametrisation, denoised


def sampler_of(of: Parametrisation, figures: Figures) -> Sampler:
    """The sampler of a study, over noise levels that the parametrisation learns."""
    least, most = of.reach
    return Sampler(
        figures.sampler,
        sigma_min=max(figures.sigma_min, least),
        sigma_max=min(figures.sigma_max, most),
        rho=figures.rho,
        churn=figures.churn,
        churn_min=figures.churn_min,
        churn_max=figures.churn_max,
        churn_noise=figures.churn_noise,
    )


class DenoisingDrawer:
    """See `undertone.models.interface.Drawer`; guidance g is (1 + w) D(y) - w D(null) with w = g - 1."""

    def __init__(self, base: Base, figures: Figures) -> None:
        self._base, self._figures, self._of = base, figures, parametrisation_of(base, figures)
        self._sampler = sampler_of(self._of, figures)

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], generators: Sequence[torch.Generator], *, steps: int, guidance: float
    ) -> list[Image.Image]:
        """One image for each prompt, which names a class, or is empty."""
        base = self._base
        condition, weight = base.conditions(prompts), guidance - 1
        told = self._denoise(condition)
        untold = told if condition is None else self._denoise(base.conditions([""] * len(prompts)))
        x = self._sampler(guided(told, untold, weight), base.latent_shape, generators, steps, base.device)
        return [Image.fromarray(pixels) for pixels in base.decode(x)]

    @torch.no_grad()
    def losses(self, x_0: Tensor, noise: Tensor, fractions: NDArray[np.float64], prompts: Sequence[str]) -> Tensor:
        """Lambda |D - x_0|^2 of each row [n], as it was trained."""
        found: Tensor = row_loss(self._base, self._figures, 0.0)(x_0, noise, fractions, self._base.conditions(prompts))
        return found

    def described(self) -> dict[str, Any]:
        """The parametrisation and the sampler with all their figures; sigma_data where there is one."""
        figures: dict[str, Any] = {**self._figures.__dict__, "denoiser": "c_skip x + c_out F(c_in x; c_noise, label)"}
        if isinstance(self._of, EDM):
            return figures | {"sigma_data": self._of.sigma_data}
        edm_alone = {"sigma_data", "log_sigma_mean", "log_sigma_deviation"}
        return {name: figure for name, figure in figures.items() if name not in edm_alone}

    def _denoise(self, condition: Tensor | None) -> Denoise:
        network = network_of(self._base, condition)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return denoised(self._of, network, x, torch.full((len(x),), sigma, dtype=torch.float64))

        return denoise


def beside(base: Base) -> dict[str, Any]:
    """What stands in the folder of an exported pipeline: parametrisation.json, for programs that draw by themselves.

    Raises:
        MechanismViolation: no release of this kind is attached.
    """
    if not isinstance(base.drawer, DenoisingDrawer):
        raise MechanismViolation("a denoiser is exported once it is attached")
    return {"parametrisation.json": base.drawer.described()}


@torch.no_grad()
def put_in(
    base: Base, tensors: Mapping[str, NDArray[np.float32]], rows: Mapping[int, NDArray[np.float32]] | None = None
) -> None:
    """Write these tensors, and rows of the class embedding by their labels, over those of the base's UNet."""
    named = dict(base.pipeline.unet.named_parameters())
    for name, values in tensors.items():
        named[name].copy_(torch.from_numpy(np.array(values)))
    for label, row in (rows or {}).items():
        named[TABLE][label].copy_(torch.from_numpy(np.array(row)))
