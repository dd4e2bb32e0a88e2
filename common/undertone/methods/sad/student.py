"""The student: what it answers on its own way down from noise, and how a gradient at its outputs becomes one in w.

    x_sigma   the student's sampler from noise down to sigma: no image of anybody is in it
    x         D_w(x_sigma; sigma, y)
    gradient  d <g, x> / d w / |c_out(sigma)|, x_sigma as it is      g [B, D] from outside

1 / |c_out| makes the gradient that of what the network itself answers, which is alike at all noise levels: otherwise
levels with much noise would be all that an optimiser sees. It is public, and post-processing as the chain rule is.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.methods.denoiser.denoising import Scheduled, TrainedDenoiser, network_of, parametrisation_of
from undertone.methods.denoiser.drawing import sampler_of
from undertone.methods.denoiser.options import Figures
from undertone.methods.sad.options import SADOptions
from undertone.methods.sad.query import Drawn, Query
from undertone.models.base import schedule_of
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase
from undertone.training.parametrisations import denoised

Array = NDArray[np.float32]
_HIGHEST = 0.9  # of the sampler's first noise level


def noise_levels(base: PinnedBase, options: SADOptions) -> tuple[float, float]:
    """The lowest and the highest sigma of a query; from the base's files alone."""
    figures = Figures.of(options)
    sampler = sampler_of(parametrisation_of(Scheduled(base, schedule_of(base)), figures), figures)
    return sampler.sigma_min, _HIGHEST * sampler.sigma_max


@torch.no_grad()
def asked(base: Base, student: TrainedDenoiser, options: SADOptions, names: Sequence[str], of: Drawn) -> Query:
    """The query of a round, from the student as it is.

    Args:
        base: where it computes.
        student: with w in it.
        options: the study's.
        names: the class of each output, "" for none.
        of: what was drawn.
    """
    figures = Figures.of(options)
    parametrisation = parametrisation_of(base, figures)
    network = network_of(base, student.told(names))
    last: list[tuple[Tensor, float]] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        last[:] = [(x, sigma)]
        return denoised(parametrisation, network, x, torch.full((len(x),), sigma, dtype=torch.float64))

    # The last step of any sampler without churn is D at its lowest noise level.
    sampler = replace(sampler_of(parametrisation, figures), sigma_min=of.sigma, churn=0.0)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in of.seeds]
    outputs = sampler(denoise, base.latent_shape, generators, options.query_steps, base.device)
    ((inputs, sigma),) = last
    return Query(_flat(inputs), _flat(outputs), of.labels, float(np.float32(sigma)), of.round)


def chained(
    base: Base, student: TrainedDenoiser, options: SADOptions, names: Sequence[str], query: Query, g: Array
) -> Array:
    """The gradient in w [d] of <g, x>, over |c_out|, by one backward pass; g [B, D]."""
    parametrisation = parametrisation_of(base, Figures.of(options))
    sigma = torch.full((len(g),), query.sigma, dtype=torch.float64)
    with torch.enable_grad():
        inputs = torch.from_numpy(query.inputs.copy()).reshape(len(g), *base.latent_shape).to(base.device)
        outputs = denoised(parametrisation, network_of(base, student.told(names)), inputs, sigma)
        upstream = torch.from_numpy(g.copy()).reshape(outputs.shape).to(base.device)
        scale = float(parametrisation.coefficients(sigma).out[0].abs())
        return student.gradient((outputs * upstream).sum() / scale)


def _flat(x: Tensor) -> Array:
    found: Array = x.flatten(1).float().cpu().numpy()
    return found
