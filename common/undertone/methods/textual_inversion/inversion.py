"""Textual inversion of many units in one loop: each unit's own embeddings, elementwise Adam.

Gal et al. 2022 (arXiv 2208.01618), eq. 2, run for n units at once. Rows cannot influence each other:
the frozen model mixes no rows, the loss is a sum over rows, and Adam works element by element. So row
j of a batch is what unit j alone would give (tests compare to 1e-4), and depends on unit j's records
and randomness alone (PRIVACY 3).

Where there is a word for each class, an image trains the word that its caption names. The gradient in a word that a
unit's captions never name is zero in every step, so that word stays at the start, to the bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.methods.losses import denoising_loss, stratified, timesteps
from undertone.methods.protocol import UnitRecords
from undertone.models.interface import Base
from undertone.models.tokens import RowTokens


@dataclass(frozen=True)
class Inversion:
    """`steps` of Adam at `learning_rate`, decaying linearly to a tenth, at times t in [min_time T, T)."""

    tokens: Sequence[str]
    vectors: int
    steps: int
    learning_rate: float
    min_time: float


def invert(
    base: Base,
    start: NDArray[np.float32],
    units: Sequence[UnitRecords],
    settings: Inversion,
    progress: Callable[[int], None],
) -> NDArray[np.float32]:
    """Learn embeddings for each unit on that unit's own images.

    Args:
        base: the frozen model.
        start: the public embeddings every row begins at, [tokens * vectors, width].
        units: n units; each brings its own latents, captions and generator.
        settings: see `Inversion`.
        progress: told how many unit-steps each step did.

    Returns:
        The learned embeddings minus `start`, [n, tokens * vectors * width] float32.
    """
    if not units:
        return np.zeros((0, start.size), dtype=np.float32)
    tokens = RowTokens(base, settings.tokens, settings.vectors)
    ids = [tokens.tokenise(unit.captions) for unit in units]
    origin = torch.from_numpy(start).to(base.device)
    rows = origin.repeat(len(units), 1, 1).requires_grad_(True)
    adam = torch.optim.Adam([rows], lr=settings.learning_rate, betas=(0.9, 0.99))
    phases = np.array([unit.generator.random() for unit in units])
    with tokens.bound(rows):
        for step in range(settings.steps):
            adam.param_groups[0]["lr"] = settings.learning_rate * (1 - 0.9 * step / max(settings.steps - 1, 1))
            latents, noise, picked = _draw(units, ids, step)
            times = timesteps(base, stratified(phases, step), settings.min_time)
            text = base.pipeline.text_encoder(picked)[0]
            loss = denoising_loss(base, latents.to(base.device), noise.to(base.device), times, text)
            (rows.grad,) = torch.autograd.grad(loss.sum(), rows)
            adam.step()
            progress(len(units))
    return (rows.detach() - origin).reshape(len(units), -1).cpu().numpy()


def _draw(units: Sequence[UnitRecords], ids: Sequence[Tensor], step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each unit's next image (it cycles through its own), fresh noise from its own generator, its caption."""
    turn = [step % len(unit.captions) for unit in units]
    latents = np.stack([unit.inputs[i] for unit, i in zip(units, turn, strict=True)])
    noise = np.stack([unit.generator.standard_normal(latents.shape[1:], dtype=np.float32) for unit in units])
    picked = torch.stack([row_ids[i] for row_ids, i in zip(ids, turn, strict=True)])
    return torch.from_numpy(latents), torch.from_numpy(noise), picked
