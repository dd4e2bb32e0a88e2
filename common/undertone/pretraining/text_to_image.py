"""Stage 2: text encoder and UNet, trained jointly from scratch on the latents (Rombach et al. 2022)."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from undertone.pretraining.loop import Course, train

WIDTH = 64  # of token embeddings and of the text encoder


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
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    t = torch.randint(scheduler.config.num_train_timesteps, (len(z),), generator=generator).to(z.device)
    z_t = scheduler.add_noise(z, noise, t)
    v = scheduler.get_velocity(z, noise, t)
    error: Tensor = model(z_t, t, tokens).float() - v
    return error.square().mean()


def train_text_to_image(
    latents: Tensor,
    tokens: Tensor,
    model: TextToImage,
    drop: float,
    course: Course,
    folder: Path,
    generator: torch.Generator,
) -> TextToImage:
    """Train on latents float32 [N, 4, h, w] and the tokens int64 [N, L] of their captions.

    Args:
        latents: whitened latents of the images.
        tokens: one row per image; row N is that of the empty caption.
        model: as `initialise` left it, on its device.
        drop: share of captions replaced by the empty one, for classifier-free guidance (Ho and Salimans 2022).
        course: the settings.
        folder: of checkpoints and events.
        generator: source of all randomness, on the CPU.

    Returns:
        The averaged model in eval mode.
    """
    scheduler = build_scheduler()
    device = next(model.parameters()).device
    nothing = tokens[len(latents)]

    def loss(chosen: Tensor, generator: torch.Generator) -> Tensor:
        dropped = torch.rand(len(chosen), 1, generator=generator) < drop
        prompt = torch.where(dropped, nothing, tokens[chosen])
        return v_loss(model, scheduler, latents[chosen].to(device), prompt.to(device), generator)

    trained = train("unet", model, loss, len(latents), course, folder, generator)
    assert isinstance(trained, TextToImage)
    return trained


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token numbers, int64 [N, L], padded to the tokenizer's length as the pipeline does."""
    batch = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    tokens: Tensor = batch.input_ids
    return tokens
