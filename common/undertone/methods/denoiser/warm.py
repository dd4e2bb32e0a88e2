"""Ordinary training of w, on images that are public or were released already: nothing here is private (PRIVACY 25)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from undertone.core.progress import reporter
from undertone.errors import MechanismViolation, StudyError
from undertone.gradients.engine import UnitBatch
from undertone.methods.denoiser.denoising import TrainedDenoiser
from undertone.methods.gradient.unit_gradients import RowLoss
from undertone.models.interface import Base

_BATCH, _RATE = 256, 2e-3


def warmed(
    trained: TrainedDenoiser,
    loss: RowLoss,
    base: Base,
    latents: NDArray[np.float32],
    names: Sequence[str],
    dropout: float,
    *,
    steps: int,
    seed: int,
) -> NDArray[np.float32]:
    """`w` [D] after `steps` steps of Adam, with a rate that falls to zero, on batches of 256 images and one draw each.

    Args:
        trained: with the start in it.
        loss: of a row.
        base: where it computes.
        latents: [n, c, h, w].
        names: the class of each, or "".
        dropout: the share of names left out.
        steps: how many; 0 gives the start.
        seed: of all that is drawn; the same seed gives the same w on the same machine.

    Raises:
        MechanismViolation: no images, or not one name for each.
        StudyError: training came to values that are not finite.
    """
    if not len(latents) or len(names) != len(latents):
        raise MechanismViolation(f"{len(latents)} latents and {len(names)} names: one for each, and at least one")
    generator = np.random.Generator(np.random.Philox(key=seed))
    parameters = trained.parameters()
    optimiser = torch.optim.Adam(parameters, lr=_RATE)
    with reporter().task("warm start", steps) as progress, torch.enable_grad():
        for step in range(steps):
            chosen = generator.integers(len(latents), size=min(_BATCH, len(latents)))
            told = ["" if generator.random() < dropout else names[index] for index in chosen]
            x_0 = torch.from_numpy(latents[chosen]).to(base.device)
            noise = torch.from_numpy(generator.standard_normal(x_0.shape, dtype=np.float32)).to(base.device)
            condition = trained.condition(told, _each_its_own(len(chosen)))
            value = loss(x_0, noise, generator.random(len(chosen)), condition).mean()
            optimiser.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            progress(1)
    optimiser.zero_grad()
    found = trained.moved()
    if not np.isfinite(found).all():
        raise StudyError("the warm start came to values that are not finite; take fewer steps, or other images")
    return found


def _each_its_own(count: int) -> UnitBatch:
    return UnitBatch(torch.arange(count), torch.ones(count, dtype=torch.float64), count)
