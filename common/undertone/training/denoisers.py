"""Stage 2: a UNet on the latents, from scratch, told a caption, a class or nothing (Rombach et al. 2022)."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from undertone.training.loop import Course, train

_HEADS = 4
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]  # z_t, t and what it is told, to v


class Conditioned(nn.Module):
    """A UNet and what tells it what to draw; called with z_t, t and what it is told, it predicts v [N, c, h, w]."""

    unet: UNet2DConditionModel | UNet2DModel


class Observed(nn.Module):
    """A model and what reads something off it: called like the model, it gives v and what was read, a Tensor."""

    model: Conditioned


class SideTask(Protocol):
    """What a model learns beside v while it is trained, and forgets afterwards (`undertone.pretraining.alignment`)."""

    @property
    def weight(self) -> float:
        """Its share of the loss; that of v has 1."""

    def observe(self, model: Conditioned, generator: torch.Generator) -> Observed:
        """The model with what reads it; first weights come from the generator."""

    def distance(self, found: Tensor, chosen: Tensor) -> Tensor:
        """How far what was read, of images `chosen` int64 [N], is from what it should be: a number."""


class TextToImage(Conditioned):
    """Text encoder and UNet, trained and averaged together."""

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        side: int,
        *,
        channels: tuple[int, ...] = (64, 128),
        layers: int = 1,
        width: int = 64,
        text_layers: int = 2,
        latent_channels: int = 4,
    ) -> None:
        """Build both with the library's start values.

        Args:
            tokenizer: gives vocabulary and prompt length.
            side: height and width of the latents.
            channels: of the UNet's levels.
            layers: residual blocks on each level.
            width: of token embeddings and of the text encoder.
            text_layers: of the text encoder.
            latent_channels: of the latents.
        """
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=3 * width,
                projection_dim=width,
                num_hidden_layers=text_layers,
                num_attention_heads=_HEADS,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=side,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=channels,
            down_block_types=("CrossAttnDownBlock2D",) * len(channels),
            up_block_types=("CrossAttnUpBlock2D",) * len(channels),
            layers_per_block=layers,
            cross_attention_dim=width,
            attention_head_dim=_HEADS,
            norm_num_groups=_groups(channels),
        )

    def forward(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Predicted v, float32 [N, c, h, w], for latents z_t, steps t int64 [N] and tokens int64 [N, L]."""
        prediction: Tensor = self.unet(z_t, t, self.text_encoder(tokens).last_hidden_state).sample
        return prediction


class ClassToImage(Conditioned):
    """A UNet told one of `classes` numbers; the number `classes` says nothing. With 0 classes it is told none."""

    def __init__(
        self,
        classes: int,
        side: int,
        *,
        channels: tuple[int, ...] = (64, 128),
        layers: int = 1,
        latent_channels: int = 4,
    ) -> None:
        """Build it with the library's start values; arguments as in `TextToImage`."""
        super().__init__()
        self.classes = classes
        self.unet = UNet2DModel(
            sample_size=side,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=channels,
            down_block_types=("AttnDownBlock2D",) * len(channels),
            up_block_types=("AttnUpBlock2D",) * len(channels),
            layers_per_block=layers,
            attention_head_dim=min(16, *channels),
            norm_num_groups=_groups(channels),
            num_class_embeds=classes + 1 if classes else None,
        )

    def forward(self, z_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Predicted v, float32 [N, c, h, w], for latents z_t, steps t int64 [N] and labels int64 [N, 1]."""
        told = labels[:, 0] if self.classes else None
        prediction: Tensor = self.unet(z_t, t, told).sample
        return prediction


def _groups(channels: tuple[int, ...]) -> int:
    """Groups of the normalisations: 16 where all levels can be cut so, else 8."""
    return 16 if all(count % 16 == 0 for count in channels) else 8


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, rescaled to end in pure noise (Lin et al. 2023), with v-prediction."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def v_loss(
    model: Denoiser,
    scheduler: DDIMScheduler,
    z: Tensor,
    told: Tensor,
    generator: torch.Generator,
    time_power: float = 1.0,
) -> Tensor:
    """Mean |v' - v|^2 with v = alpha_t noise - sigma_t z (Salimans and Ho 2022, appendix D).

    z is float32 [N, c, h, w]; `told` is what the model is told, int64 [N, L]; one step t = T u^time_power with u
    uniform and one noise per image, from a generator of the CPU.
    """
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    u = torch.rand(len(z), generator=generator)
    t = (scheduler.config.num_train_timesteps * u**time_power).long().to(z.device)
    z_t = scheduler.add_noise(z, noise, t)
    v = scheduler.get_velocity(z, noise, t)
    error: Tensor = model(z_t, t, told).float() - v
    return error.square().mean()


def train_denoiser(
    latents: Tensor,
    told: Tensor,
    model: Conditioned,
    drop: float,
    course: Course,
    folder: Path,
    generator: torch.Generator,
    *,
    time_power: float = 1.0,
    side_task: SideTask | None = None,
    compiled: bool = False,
    weights: Tensor | None = None,
) -> Conditioned:
    """Train on latents float32 [N, c, h, w].

    Args:
        latents: whitened latents of the images.
        told: int64 [N + 1, L], what the model is told of each image; row N says nothing.
        model: as `initialise` left it, on its device.
        drop: share of images of which nothing is told, for classifier-free guidance (Ho and Salimans 2022).
        course: the settings.
        folder: of checkpoints and events.
        generator: source of all randomness, on the CPU.
        time_power: 1 asks for every step t as often; more asks for steps of little noise more often, where edges form
            (Esser et al. 2024, 3.1, weigh the ends less).
        side_task: what else the model learns meanwhile.
        compiled: let torch.compile fuse the model's operations.
        weights: how likely each image is picked, [N]; all alike without.

    Returns:
        The averaged model in eval mode.
    """
    scheduler = build_scheduler()
    whole = model if side_task is None else side_task.observe(model, generator)
    denoiser = torch.compile(whole) if compiled else whole
    device = next(model.parameters()).device
    nothing = told[len(latents)]

    def loss(chosen: Tensor, generator: torch.Generator) -> Tensor:
        dropped = torch.rand(len(chosen), 1, generator=generator) < drop
        words = torch.where(dropped, nothing, told[chosen])
        z, words = latents[chosen].to(device), words.to(device)
        if side_task is None:
            return v_loss(denoiser, scheduler, z, words, generator, time_power)
        far: list[Tensor] = []

        def aligned(z_t: Tensor, t: Tensor, words: Tensor) -> Tensor:
            v, found = denoiser(z_t, t, words)
            far.append(side_task.distance(found, chosen))
            return cast(Tensor, v)

        fit = v_loss(aligned, scheduler, z, words, generator, time_power)
        return fit + side_task.weight * far[0]

    trained = train("unet", whole, loss, len(latents), course, folder, generator, weights)
    return trained.model if isinstance(trained, Observed) else cast(Conditioned, trained)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token numbers, int64 [N, L], padded to the tokenizer's length as the pipeline does."""
    batch = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return cast(Tensor, batch.input_ids)
