"""How a loaded base draws: by the stock pipeline, or by its own scheduler where it is told a class or nothing."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from undertone.models.interface import Base


class PipelineDrawer:
    """The stock pipeline of a text base; see `undertone.models.interface.Drawer`."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def __call__(
        self, prompts: Sequence[str], generators: Sequence[torch.Generator], *, steps: int, guidance: float
    ) -> list[Image.Image]:
        """One image for each prompt."""
        size, pipeline = self._base.image_size, self._base.pipeline
        images: list[Image.Image] = pipeline(
            list(prompts),
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=list(generators),
        ).images
        return images


class ScheduledDrawer:
    """The base's own scheduler, step by step, with classifier-free guidance (Ho and Salimans 2022) where told a class.

    Above 1 the guidance g leads away from the null label: e_null + g (e_class - e_null). See `Drawer`.
    """

    def __init__(self, base: Base) -> None:
        self._base = base

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], generators: Sequence[torch.Generator], *, steps: int, guidance: float
    ) -> list[Image.Image]:
        """One image for each prompt."""
        base, condition = self._base, self._base.conditions(prompts)
        null = base.conditions([""] * len(prompts)) if guidance > 1 else None
        # Schedulers count their steps and remember earlier ones: each call has one of its own.
        scheduler: Any = type(base.pipeline.scheduler).from_config(base.pipeline.scheduler.config)
        scheduler.set_timesteps(steps, device=base.device)
        shape, noise = (len(prompts), *base.latent_shape), list(generators)
        x = randn_tensor(shape, generator=noise, device=base.device) * scheduler.init_noise_sigma
        takes_noise = "generator" in inspect.signature(scheduler.step).parameters
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t)
            output = self._predicted(scaled, t, condition, null, guidance)
            x = scheduler.step(output, t, x, **({"generator": noise} if takes_noise else {})).prev_sample
        return [Image.fromarray(pixels) for pixels in base.decode(x)]

    def _predicted(
        self, x: Tensor, t: Tensor, condition: Tensor | None, null: Tensor | None, guidance: float
    ) -> Tensor:
        if condition is None or null is None:
            alone: Tensor = self._base.predict(x, t, condition)
            return alone
        both: Tensor = self._base.predict(torch.cat([x, x]), t, torch.cat([null, condition]))
        untold, told = both.chunk(2)
        return untold + guidance * (told - untold)
