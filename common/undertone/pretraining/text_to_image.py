"""Stage 2: text encoder and UNet, trained jointly from scratch on the latents (Rombach et al. 2022)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from undertone.pretraining.training import Progress, cosine, initialise, picks

WIDTH = 64  # of token embeddings and of the text encoder


@dataclass(frozen=True)
class UnetRecipe:
    """Steps, batch, average and caption dropout; `warm_up` steps pass before averaging starts."""

    steps: int = 2500
    batch: int = 64
    learning_rate: float = 1.2e-3
    average: float = 0.997
    drop: float = 0.1
    warm_up: int = 200
    checkpoint_every: int = 500


class TextToImage(nn.Module):
    """The two models that are trained and averaged together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Build both with the library's start values; prompt length and vocabulary are the tokenizer's."""
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=3 * WIDTH,
                projection_dim=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(WIDTH, 2 * WIDTH),
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Predicted v, float32 [N, 4, h, w], for latents z_t, steps t int64 [N] and tokens int64 [N, L]."""
        prediction: Tensor = self.unet(z_t, t, self.text_encoder(tokens).last_hidden_state).sample
        return prediction


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


def v_loss(model: nn.Module, scheduler: DDIMScheduler, z: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Mean |v' - v|^2 with v = alpha_t noise - sigma_t z (Salimans and Ho 2022, appendix D).

    z is float32 [N, 4, h, w], tokens int64 [N, L]; one uniform step t and one noise per image.
    """
    noise = torch.randn(z.shape, generator=generator)
    t = picks(scheduler.config.num_train_timesteps, len(z), generator)
    z_t = scheduler.add_noise(z, noise, t)
    v = scheduler.get_velocity(z, noise, t)
    error: Tensor = model(z_t, t, tokens) - v
    return error.square().mean()


def train_text_to_image(
    latents: Tensor,
    captions: list[str],
    tokenizer: CLIPTokenizer,
    recipe: UnetRecipe,
    generator: torch.Generator,
    checkpoint: Callable[[TextToImage], None],
) -> TextToImage:
    """Train on latents float32 [N, 4, h, w] and their captions.

    Args:
        latents: whitened latents of the images.
        captions: one per image.
        tokenizer: gives the vocabulary and the prompt length.
        recipe: the settings.
        generator: start weights, order, noise.
        checkpoint: called with the averaged model every `checkpoint_every` steps.

    Returns:
        The averaged model in eval mode.
    """
    tokens = tokenize(tokenizer, captions)
    nothing = tokenize(tokenizer, [""])
    model, scheduler = TextToImage(tokenizer), build_scheduler()
    initialise(model, generator)
    averaged = AveragedModel(model, avg_fn=lambda mean, new, _: torch.lerp(mean, new, 1 - recipe.average))
    result = cast(TextToImage, averaged.module)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    schedule = cosine(optimiser, recipe.steps)
    progress = Progress("text and unet", recipe.steps)
    for step in range(1, recipe.steps + 1):
        chosen = picks(len(latents), recipe.batch, generator)
        dropped = torch.rand(recipe.batch, 1, generator=generator) < recipe.drop
        prompt = torch.where(dropped, nothing, tokens[chosen])
        loss = v_loss(model, scheduler, latents[chosen], prompt, generator)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step >= recipe.warm_up:
            averaged.update_parameters(model)
        if step % recipe.checkpoint_every == 0:
            checkpoint(result)
        progress.step(step, loss.item())
    return result.eval()


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token numbers, int64 [N, L], padded to the tokenizer's length as the pipeline does."""
    batch = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    tokens: Tensor = batch.input_ids
    return tokens
