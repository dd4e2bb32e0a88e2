"""Stage 1: the autoencoder, 32 x 32 RGB to a 4 x 8 x 8 latent (Rombach et al. 2022, 3.1, no critic)."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from undertone.pretraining.training import Progress, cosine, initialise, picks

_ENCODE_BATCH = 500


@dataclass(frozen=True)
class VaeRecipe:
    """Steps, batch and weights of the loss terms."""

    steps: int = 2600
    batch: int = 32
    learning_rate: float = 2e-3
    l1: float = 0.3
    kl: float = 3e-4
    chroma: float = 1.0


def build_vae() -> AutoencoderKL:
    """The untrained autoencoder, 0.68 million parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
        scaling_factor=1.0,
    )


def to_unit_range(pixels: Tensor) -> Tensor:
    """Pixels uint8 [N, S, S, 3] as the model's float32 [N, 3, S, S] in -1..1."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def vae_loss(vae: AutoencoderKL, x: Tensor, recipe: VaeRecipe, generator: torch.Generator) -> Tensor:
    """Mean of |x' - x|^2 + l1 |x' - x| + kl KL(q || N(0, 1)) + chroma |dark' - dark|^2.

    The last term compares the channels less their mean: the eye sees a tint on a grey long before
    the squared error does. x is float32 [N, 3, S, S].
    """
    posterior = vae.encode(x).latent_dist
    error = vae.decode(posterior.sample(generator)).sample - x
    tint = error - error.mean(dim=1, keepdim=True)
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    fit = error.square().mean() + recipe.l1 * error.abs().mean()
    loss: Tensor = fit + recipe.kl * kl + recipe.chroma * tint.square().mean()
    return loss


def train_vae(pixels: Tensor, recipe: VaeRecipe, generator: torch.Generator) -> AutoencoderKL:
    """Train on pixels uint8 [N, S, S, 3] and whiten the latents; returns the model in eval mode."""
    vae = build_vae()
    initialise(vae, generator)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
    schedule = cosine(optimiser, recipe.steps)
    progress = Progress("vae", recipe.steps)
    for step in range(1, recipe.steps + 1):
        x = to_unit_range(pixels[picks(len(pixels), recipe.batch, generator)])
        loss = vae_loss(vae, x, recipe, generator)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress.step(step, loss.item())
    vae.eval()
    whiten(vae, encode(vae, pixels[: 20 * _ENCODE_BATCH], generator))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One posterior sample per image: uint8 [N, S, S, 3] to float32 [N, 4, S/4, S/4]."""
    chunks = torch.split(pixels, _ENCODE_BATCH)
    return torch.cat([vae.encode(to_unit_range(chunk)).latent_dist.sample(generator) for chunk in chunks])


@torch.no_grad()
def whiten(vae: AutoencoderKL, latents: Tensor) -> None:
    """Give each latent channel mean 0 and variance 1 by changing the two 1 x 1 convolutions.

    The latents of a plain autoencoder differ much between channels; one scaling_factor for all fits
    none of them. Folded into the weights, the standardisation needs no code when the model is loaded:
    q' = (q - m) / s after the encoder, s q' + m before the decoder. Images decode as before.

    Args:
        vae: changed in place.
        latents: samples of the present latents, float32 [N, 4, h, w].
    """
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    out.bias += functional.conv2d(mean[None, :, None, None], out.weight).flatten()
    out.weight *= std[None, :, None, None]
