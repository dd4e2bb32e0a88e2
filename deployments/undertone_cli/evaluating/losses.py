"""Losses of whole images under a model: what membership inference by loss compares (Carlini et al. 2023)."""

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from undertone.methods.losses import denoising_loss, timesteps
from undertone.models.base import LoadedBase
from undertone.models.interface import OwnDrawer
from undertone.models.kinds import TEXT

_ROWS, _SEED = 32, 20_301_201


@torch.no_grad()
def image_losses(
    base: LoadedBase, images: Iterable[NDArray[np.uint8]], prompts: Sequence[str], draws: int
) -> NDArray[np.float64] | None:
    """The mean denoising loss of each image under its prompt, [n]; None where a release draws without a denoiser.

    Args:
        base: the model.
        images: n of [size, size, 3].
        prompts: n.
        draws: pairs of noise and time for each image: public, and the same for every image and model, so that
            differences are the images' and the models'.
    """
    generator = np.random.Generator(np.random.Philox(key=_SEED))
    noise = torch.from_numpy(generator.standard_normal((draws, *base.latent_shape), dtype=np.float32)).to(base.device)
    fractions = (np.arange(draws) + 0.5) / draws
    times, own = timesteps(base, fractions, 0.0), base.drawer if isinstance(base.drawer, OwnDrawer) else None
    pairs, found, at_once = zip(images, prompts, strict=True), list[NDArray[np.float64]](), max(1, _ROWS // draws)
    while batch := list(islice(pairs, at_once)):
        n = len(batch)
        latents = torch.from_numpy(base.encode(np.stack([image for image, _ in batch]))).to(base.device)
        x_0, beside, told = latents.repeat_interleave(draws, 0), noise.repeat(n, 1, 1, 1), [one for _, one in batch]
        if own is not None:
            losses = own.losses(x_0, beside, np.tile(fractions, n), [one for one in told for _ in range(draws)])
            if losses is None:
                return None
        else:
            condition = _condition(base, told)
            condition = None if condition is None else condition.repeat_interleave(draws, 0)
            losses = denoising_loss(base, x_0, beside, times.repeat(n), condition)
        found.append(losses.reshape(n, draws).mean(1).double().cpu().numpy())
    return np.concatenate(found)


def _condition(base: LoadedBase, prompts: list[str]) -> torch.Tensor | None:
    """What the base is told of prompts; of words what the pipeline makes of them, those of several vectors too.

    A study may have classes that the base lacks: it is told nothing of them.
    """
    if base.pinned.kind != TEXT:
        return base.conditions([prompt if prompt in base.labels else "" for prompt in prompts])
    text: torch.Tensor
    text, _ = base.pipeline.encode_prompt(prompts, base.device, 1, False)
    return text
