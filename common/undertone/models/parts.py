"""The stock parts of a base that is told a class or nothing, side by side: what stands in a pipeline's place."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMPipeline, DDPMPipeline, DDPMScheduler, LDMPipeline, UNet2DModel

from undertone.models.class_names import FILE as CLASSES


@dataclass(eq=False)
class Parts:
    """UNet, scheduler, and the autoencoder where latents are denoised; `classes` in the order of their labels."""

    unet: UNet2DModel
    scheduler: Any
    vae: AutoencoderKL | None = None
    classes: tuple[str, ...] = ()

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Part -> network."""
        return {"unet": self.unet} | ({} if self.vae is None else {"vae": self.vae})

    def save_pretrained(self, folder: Path, *, safe_serialization: bool = True) -> None:
        """Write them as `undertone pretrain` does, so that they are a base again.

        Told nothing, they are a stock LDMPipeline, or of pixels a DDIMPipeline or DDPMPipeline. No stock pipeline takes
        a class, so a class base is its parts, each in a folder, and classes.json.
        """
        if not self.classes:
            self._pipeline().save_pretrained(folder, safe_serialization=safe_serialization)
            return
        for name, part in (*self.modules.items(), ("scheduler", self.scheduler)):
            part.save_pretrained(folder / name)
        (folder / CLASSES).write_text(json.dumps(list(self.classes), indent=2) + "\n", encoding="utf-8")

    def _pipeline(self) -> LDMPipeline | DDIMPipeline | DDPMPipeline:
        if self.vae is not None:
            return LDMPipeline(vqvae=self.vae, unet=self.unet, scheduler=self.scheduler)
        kind = DDPMPipeline if isinstance(self.scheduler, DDPMScheduler) else DDIMPipeline
        return kind(unet=self.unet, scheduler=self.scheduler)
