"""A base model in memory, frozen, and the three things Undertone asks of it: latents, text, denoising."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from PIL import Image
from transformers.utils import logging as transformers_logging

from undertone.errors import ModelError
from undertone.models.pinned import PinnedBase, short_name
from undertone.models.staging import staged


@dataclass(eq=False)
class LoadedBase:
    """A frozen Stable Diffusion pipeline on one device, in eval mode.

    `pinned` names its files; `pipeline` is stock diffusers; `schedule` is the same noise schedule with the training
    formulas.
    """

    pinned: PinnedBase
    pipeline: StableDiffusionPipeline
    schedule: DDPMScheduler
    image_size: int
    device: torch.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image's latents."""
        side = int(self.pipeline.unet.config.sample_size)
        return int(self.pipeline.vae.config.latent_channels), side, side

    @torch.no_grad()
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels [n, h, w, 3] uint8 -> scaled latents [n, c, h/f, w/f] float32 (the posterior's mode)."""
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        mode = self.pipeline.vae.encode(pixels).latent_dist.mode()
        latents: NDArray[np.float32] = (mode * self.pipeline.vae.config.scaling_factor).cpu().numpy()
        return latents

    @torch.no_grad()
    def sample(
        self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, batch: int = 32
    ) -> list[Image.Image]:
        """One image per prompt, image i from the public seed i alone, whatever the batch."""
        images: list[Image.Image] = []
        for start in range(0, len(prompts), batch):
            noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[start : start + batch]]
            images += self.pipeline(
                prompts[start : start + batch],
                height=self.image_size,
                width=self.image_size,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=noise,
            ).images
        return images


def load_base(base: PinnedBase, device: str = "cpu", *, keep_safety_checker: bool = False) -> LoadedBase:
    """Load a pinned base model, frozen, float32, from its pinned files alone (`staging.py`).

    Args:
        base: what `pin` found.
        device: a torch device, such as one that `devices.choose` found.
        keep_safety_checker: for making images people will see; training and distances do without.

    Raises:
        ModelError: diffusers cannot load it, its weights lack a tensor, or it mixes a batch (PRIVACY 3).
        PlanChanged: a file is no longer the one that was hashed.
    """
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # their bars for each file would bury ours
    pipeline = _from_pinned_files(base, keep_safety_checker)
    _refuse_missing(pipeline, base)
    pipeline.set_progress_bar_config(disable=True)
    if torch.device(device).type == "cuda":
        # Kernels by shape alone (PRIVACY 3): never by a race between candidates, never with atomic sums.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        torch.set_float32_matmul_precision("highest")  # per-unit gradients are products: TF32 would keep 10 bits
    pipeline.to(device)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False).eval().float()  # a config's own precision may be half
        _refuse_batch_mixing(part, base.reference)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    return LoadedBase(base, pipeline, schedule, base.image_size, torch.device(device))


def _from_pinned_files(base: PinnedBase, keep_safety_checker: bool) -> StableDiffusionPipeline:
    unused = {} if keep_safety_checker else {"safety_checker": None, "feature_extractor": None}
    with staged(base) as view:
        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                view,
                use_safetensors=True,
                local_files_only=True,
                requires_safety_checker=keep_safety_checker,
                **unused,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{base.reference} cannot be loaded as a StableDiffusionPipeline: {error}") from None
    # Not the view, which is gone: whoever saves the pipeline would write its name down.
    for part in (pipeline, pipeline.vae, pipeline.unet):
        part.register_to_config(_name_or_path=str(base.folder))
    pipeline.text_encoder.config._name_or_path = pipeline.text_encoder.name_or_path = str(base.folder / "text_encoder")
    pipeline.tokenizer.name_or_path = str(base.folder / "tokenizer")
    return pipeline


def _refuse_missing(pipeline: StableDiffusionPipeline, base: PinnedBase) -> None:
    """Loaders go on without a tensor: diffusers leaves it without values, transformers draws them anew each time."""
    held = base.shapes("text_encoder").keys()
    missing = [
        f"text_encoder.{name}" for name, _ in pipeline.text_encoder.named_parameters() if short_name(name) not in held
    ]
    for part, module in (("unet", pipeline.unet), ("vae", pipeline.vae)):
        missing += [f"{part}.{name}" for name, value in module.named_parameters() if value.is_meta]
    if missing:
        raise ModelError(
            f"the weights of {base.reference} lack {missing[0]} and {len(missing) - 1} more tensors; download it again"
        )


def _refuse_batch_mixing(part: torch.nn.Module, reference: str) -> None:
    mixing = [name for name, layer in part.named_modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    if mixing:
        raise ModelError(
            f"{reference} has batch normalisation ({mixing[0]}), which mixes the rows of a batch; it cannot be used"
        )
