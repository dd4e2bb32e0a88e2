"""Each unit's gradient in a batch of fixed shape: K draws for each of `records` places, averaged before the clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.gradients.engine import LossPerRow, UnitBatch
from undertone.methods.gradient.options import GradientOptions
from undertone.methods.gradient.trained import Trained
from undertone.methods.losses import denoising_loss, drop_captions, stratified, timesteps
from undertone.methods.protocol import UnitRecords, blank_unit
from undertone.models.interface import Base


@dataclass(frozen=True)
class _Drawn:
    """One unit's places in the batch: R = draws * records rows."""

    x_0: NDArray[np.float32]
    epsilon: NDArray[np.float32]
    fractions: NDArray[np.float64]
    captions: list[str]
    weights: NDArray[np.float64]


def unit_gradients(
    base: Base, trained: Trained, units: Sequence[UnitRecords], options: GradientOptions
) -> NDArray[np.float32]:
    """Mean gradient of each unit, [n, d].

    Args:
        base: the model; what is trained in it asks for gradients.
        trained: see there.
        units: n >= 1 units; each brings its own latents, captions and generator.
        options: draws, records, min_time, caption_dropout.
    """
    losses, batch = _losses(base, trained, units, options)
    return trained.gradients(losses, batch)


def gradient_norms(
    base: Base, trained: Trained, units: Sequence[UnitRecords], options: GradientOptions
) -> NDArray[np.float64]:
    """Length of each unit's mean gradient, [n]; arguments as in `unit_gradients`."""
    losses, batch = _losses(base, trained, units, options)
    return trained.norms(losses, batch)


def summed_gradients(
    base: Base,
    trained: Trained,
    padded: Sequence[UnitRecords | None],
    options: GradientOptions,
    *,
    scale: int,
    clip_units: int,
) -> NDArray[np.int64]:
    """The clipped integer sum [d] over the units; None is padding."""
    units = [blank_unit(base.latent_shape) if unit is None else unit for unit in padded]
    losses, batch = _losses(base, trained, units, options)
    counted = [unit is not None for unit in padded]
    return trained.clipped_sum(losses, batch, scale=scale, clip_units=clip_units, counted=counted)


def _losses(
    base: Base, trained: Trained, units: Sequence[UnitRecords], options: GradientOptions
) -> tuple[LossPerRow, UnitBatch]:
    """The forward pass over all units' places, and whose they are."""
    drawn = [_draw(unit, options) for unit in units]
    batch = _batch(drawn)
    x_0, epsilon = (_stack(base, [getattr(one, name) for one in drawn]) for name in ("x_0", "epsilon"))
    t = timesteps(base, np.concatenate([one.fractions for one in drawn]), options.min_time)
    captions = [caption for one in drawn for caption in one.captions]

    def losses() -> Tensor:
        return denoising_loss(base, x_0, epsilon, t, trained.condition(captions, batch))

    return losses, batch


def _draw(unit: UnitRecords, options: GradientOptions) -> _Drawn:
    """All randomness of one unit's row, from its own generator; times stratified by a golden-ratio sequence."""
    generator, rows = unit.generator, options.draws * options.records
    chosen = np.arange(min(len(unit.captions), options.records))  # the node chose those that enter
    records = np.repeat(chosen[np.arange(options.records) % len(chosen)], options.draws)
    epsilon = generator.standard_normal((rows, *unit.inputs.shape[1:]), dtype=np.float32)
    fractions = stratified(generator.random(), np.arange(rows))
    captions = drop_captions([unit.captions[index] for index in records], options.caption_dropout, generator)
    times_used = np.bincount(records, minlength=len(unit.captions))
    return _Drawn(unit.inputs[records], epsilon, fractions, captions, 1.0 / (len(chosen) * times_used[records]))


def _batch(drawn: Sequence[_Drawn]) -> UnitBatch:
    weights = torch.from_numpy(np.concatenate([one.weights for one in drawn]))
    unit_of_row = torch.arange(len(drawn)).repeat_interleave(len(drawn[0].weights))
    return UnitBatch(unit_of_row, weights, len(drawn))


def _stack(base: Base, arrays: Sequence[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays)).to(base.device)
