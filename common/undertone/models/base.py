"""A base model in memory, frozen, and what Undertone asks of it: latents and back, conditions, denoising, drawing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DModel
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.utils import logging as transformers_logging

from undertone.errors import ModelError
from undertone.models.class_names import labels_for
from undertone.models.drawing import PipelineDrawer, ScheduledDrawer
from undertone.models.interface import Drawer
from undertone.models.kinds import TEXT
from undertone.models.part_files import read_json
from undertone.models.parts import Parts
from undertone.models.pinned import PinnedBase, short_name
from undertone.models.staging import staged
from undertone.models.tokens import token_ids


@dataclass(eq=False)
class LoadedBase:
    """A frozen base on one device, in eval mode.

    `pinned` names its files; `pipeline` is stock diffusers, or of a base that is told a class or nothing its `Parts`;
    `schedule` is the same noise schedule with the training formulas; `labels` and `drawer` as in `Base`.
    """

    pinned: PinnedBase
    pipeline: Any
    schedule: DDPMScheduler
    image_size: int
    device: torch.device
    labels: dict[str, int] = field(default_factory=dict)
    drawer: Drawer = field(init=False)

    def __post_init__(self) -> None:
        text = self.pinned.kind == TEXT
        self.drawer = PipelineDrawer(self) if text else ScheduledDrawer(self)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image's latents; of its pixels, where pixels are denoised."""
        side, vae = int(self.pipeline.unet.config.sample_size), self.pipeline.vae
        channels = self.pipeline.unet.config.in_channels if vae is None else vae.config.latent_channels
        return int(channels), side, side

    @property
    def arithmetic(self) -> str:
        """What the last bits of a result depend on besides its inputs: the device; of a processor its threads too."""
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        return f"{self.device}{threads}"

    @torch.no_grad()
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels [n, h, w, 3] uint8 -> scaled latents [n, c, h/f, w/f] float32 (the posterior's mode).

        Where pixels are denoised: the pixels in -1..1, [n, 3, h, w], or their mean over the colours, [n, 1, h, w].
        """
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        vae = self.pipeline.vae
        if vae is None:
            scaled = pixels.mean(1, keepdim=True) if self.latent_shape[0] == 1 else pixels
            found: NDArray[np.float32] = scaled.contiguous().cpu().numpy()
            return found
        mode = vae.encode(pixels).latent_dist.mode()
        latents: NDArray[np.float32] = (mode * vae.config.scaling_factor).cpu().numpy()
        return latents

    @torch.no_grad()
    def decode(self, latents: NDArray[np.float32] | Tensor) -> NDArray[np.uint8]:
        """What is denoised [n, c, h, w] -> pixels [n, h, w, 3] uint8, the reverse of `encode`.

        One channel is drawn as three equal ones.
        """
        x, vae = torch.as_tensor(latents).to(self.device, torch.float32), self.pipeline.vae
        pixels = x if vae is None else vae.decode(x / vae.config.scaling_factor).sample
        scaled = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        images: NDArray[np.uint8] = scaled.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return images

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """The UNet's output [n, c, h, w] for x_t at timesteps t; `condition` is what `conditions` gave."""
        told = {TEXT: "encoder_hidden_states", "class": "class_labels"}.get(self.pinned.kind)
        found: Tensor = self.pipeline.unet(x_t, t, **({told: condition} if told else {})).sample
        return found

    @torch.no_grad()
    def conditions(self, captions: Sequence[str]) -> Tensor | None:
        """What `predict` takes for captions: text states [n, positions, width], labels int64 [n], or None.

        Raises:
            ModelError: a caption names no class of a class base.
        """
        if self.pinned.kind == "none":
            return None
        if self.pinned.kind == "class":
            return torch.tensor([self._label(caption) for caption in captions], device=self.device)
        states: Tensor = self.pipeline.text_encoder(token_ids(self, captions))[0]
        return states

    def _label(self, caption: str) -> int:
        if caption == "":
            return len(self.pinned.classes)
        if caption not in self.labels:
            known = ", ".join(list(self.labels)[:20])
            raise ModelError(
                f"{self.pinned.reference} is told one of its classes, and {ascii(caption)[:80]} is none: {known}"
            )
        return self.labels[caption]

    def name_classes(self, names: Sequence[str]) -> None:
        """From now on `labels` are those of a study's classes, by `labels_for`; on other bases nothing changes.

        Raises:
            ModelError: a class base has fewer rows than there are names.
        """
        if self.pinned.kind == "class":
            self.labels = labels_for(names, self.pinned.classes)

    def sample(
        self, prompts: list[str], seeds: list[int], *, steps: int, guidance: float, batch: int = 32
    ) -> list[Image.Image]:
        """One image per prompt, image i from the public seed i alone, whatever the batch."""
        images: list[Image.Image] = []
        for start in range(0, len(prompts), batch):
            noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[start : start + batch]]
            images += self.drawer(prompts[start : start + batch], noise, steps=steps, guidance=guidance)
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
    text = base.kind == TEXT
    pipeline: Any = _from_pinned_files(base, keep_safety_checker) if text else _parts_from_pinned_files(base)
    modules = _modules_of(pipeline) if text else pipeline.modules
    _refuse_missing(modules, base)
    if torch.device(device).type == "cuda":
        # Kernels by shape alone (PRIVACY 3): never by a race between candidates, never with atomic sums.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        torch.set_float32_matmul_precision("highest")  # per-unit gradients are products: TF32 would keep 10 bits
    if text:
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(device)
    for part in modules.values():
        part.to(torch.device(device))
        part.requires_grad_(False).eval().float()  # a config's own precision may be half
        _refuse_batch_mixing(part, base.reference)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    labels = {name: label for label, name in enumerate(base.classes)}
    return LoadedBase(base, pipeline, schedule, base.image_size, torch.device(device), labels)


def schedule_of(base: PinnedBase) -> DDPMScheduler:
    """`schedule` of the base once it is loaded, from its scheduler's file alone.

    Raises:
        ModelError: the file is not there, or names no scheduler of diffusers.
    """
    config = base.config("scheduler")
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None:
        raise ModelError(f"{base.reference} names a scheduler that diffusers does not have, or none")
    return DDPMScheduler.from_config(kind.from_config(config).config)


def _modules_of(pipeline: StableDiffusionPipeline) -> dict[str, torch.nn.Module]:
    return {"vae": pipeline.vae, "text_encoder": pipeline.text_encoder, "unet": pipeline.unet}


def _parts_from_pinned_files(base: PinnedBase) -> Parts:
    """UNet, scheduler and perhaps an autoencoder, each by the one class of diffusers that `pin` found it to be."""
    with staged(base) as view:
        try:
            unet = UNet2DModel.from_pretrained(view / "unet", use_safetensors=True, local_files_only=True)
            vae = None
            if "vae" in base.parts:
                folder = view / base.folder_of("vae")
                vae = AutoencoderKL.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            scheduler: Any = getattr(diffusers, read_json(view / "scheduler" / "scheduler_config.json")["_class_name"])
            parts = Parts(unet, scheduler.from_pretrained(view / "scheduler", local_files_only=True), vae, base.classes)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{base.reference} cannot be loaded: {error}") from None
    part: Any
    for name, part in parts.modules.items():
        part.register_to_config(_name_or_path=str(base.folder / base.folder_of(name)))  # not the view, which is gone
    return parts


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


def _refuse_missing(modules: Mapping[str, torch.nn.Module], base: PinnedBase) -> None:
    """Loaders go on without a tensor: diffusers leaves it without values, transformers draws them anew each time."""
    missing: list[str] = []
    if "text_encoder" in modules:
        held = base.shapes("text_encoder").keys()
        named = modules["text_encoder"].named_parameters()
        missing += [f"text_encoder.{name}" for name, _ in named if short_name(name) not in held]
    for part in ("unet", "vae"):
        if part in modules:
            missing += [f"{part}.{name}" for name, value in modules[part].named_parameters() if value.is_meta]
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
