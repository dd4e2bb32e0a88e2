"""Denoising losses of single rows, on the noise schedules of diffusers. No row has a part in another's loss.

The forward process is x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon (Ho et al. 2020, eq. 4), which
`DDPMScheduler.add_noise` computes; c is what the network is told: text, a class, or nothing. A loss is a mean over the
latents' values, as in diffusers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import DDPMScheduler
from numpy.typing import NDArray
from torch import Tensor

from undertone.errors import ModelError
from undertone.models.interface import Base

_GOLDEN = (5**0.5 - 1) / 2

Predict = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[DDPMScheduler, Predict, Tensor, Tensor, Tensor], Tensor]


def epsilon_loss(schedule: DDPMScheduler, predict: Predict, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
    """|epsilon - epsilon_theta(x_t, t, c)|^2 (Ho et al. 2020, eq. 14).

    Args:
        schedule: abar_t.
        predict: (x_t, t) -> the network's output; c is bound in it.
        x_0: clean latents [n, c, h, w].
        epsilon: standard normal noise of the same shape.
        t: timesteps [n].

    Returns:
        The loss of each row, [n].
    """
    x_t = schedule.add_noise(x_0, epsilon, t)
    losses: Tensor = (predict(x_t, t) - epsilon).square().flatten(1).mean(1)
    return losses


def v_loss(schedule: DDPMScheduler, predict: Predict, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
    """|v - v_theta(x_t, t, c)|^2 with v = sqrt(abar_t) epsilon - sqrt(1 - abar_t) x_0 (Salimans and Ho 2022).

    Arguments and result as in `epsilon_loss`.
    """
    x_t = schedule.add_noise(x_0, epsilon, t)
    v = schedule.get_velocity(x_0, epsilon, t)
    losses: Tensor = (predict(x_t, t) - v).square().flatten(1).mean(1)
    return losses


LOSSES: dict[str, Loss] = {"epsilon": epsilon_loss, "v_prediction": v_loss}


def denoising_loss(base: Base, x_0: Tensor, epsilon: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
    """Each row's loss [n] in what the base was trained to predict; `condition` is c, as `Base.predict` takes it.

    Raises:
        ModelError: it predicts neither the noise nor v.
    """
    kind = str(base.schedule.config.prediction_type)
    if kind not in LOSSES:
        raise ModelError(f"the base predicts {kind}; Undertone trains those that predict {' or '.join(LOSSES)}")

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        predicted: Tensor = base.predict(x_t, t, condition)
        return predicted

    return LOSSES[kind](base.schedule, predict, x_0, epsilon, t)


def drop_captions(captions: Sequence[str], rate: float, generator: np.random.Generator) -> list[str]:
    """Each caption, or with probability `rate` none: what classifier-free guidance needs (Ho and Salimans 2022).

    `generator` is the unit's own. It is asked once for each caption, whatever the rate.
    """
    return ["" if generator.random() < rate else caption for caption in captions]


def stratified(phase: NDArray[np.float64] | float, index: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Fractions in [0, 1): the golden-ratio sequence from `phase`, which covers the interval evenly in few steps."""
    return np.asarray((phase + index * _GOLDEN) % 1.0, dtype=np.float64)


def timesteps(base: Base, fractions: NDArray[np.float64], min_time: float) -> Tensor:
    """Fractions [n] in [0, 1) -> timesteps [n] in [min_time T, T), on the base's device."""
    count = int(base.schedule.config.num_train_timesteps)
    return torch.from_numpy(((min_time + (1 - min_time) * fractions) * count).astype(np.int64)).to(base.device)
