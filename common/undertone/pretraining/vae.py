"""Stage 1: the autoencoder, RGB to a latent of 4 channels (Rombach et al. 2022, 3.1, no critic)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from undertone.core.progress import reporter
from undertone.training.initial_weights import initialise
from undertone.training.loop import Course, train

_ENCODE_BATCH = 250
_WHITEN_IMAGES = 2_000


@dataclass(frozen=True)
class VaeShape:
    """Channels of each level; every level but the last halves the picture."""

    size: int = 64
    channels: tuple[int, ...] = (16, 32, 64, 64)
    layers: int = 1
    latent_channels: int = 4
    groups: int = 8

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class VaeWeights:
    """Weights of the loss terms beside the squared error."""

    l1: float = 0.3
    kl: float = 1e-4
    chroma: float = 1.0


def build_vae(shape: VaeShape) -> AutoencoderKL:
    """The untrained autoencoder; 1.0 million parameters with the default shape."""
    levels = len(shape.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=shape.channels,
        layers_per_block=shape.layers,
        norm_num_groups=shape.groups,
        latent_channels=shape.latent_channels,
        sample_size=shape.size,
        scaling_factor=1.0,
    )


def to_unit_range(pixels: Tensor) -> Tensor:
    """Pixels uint8 [N, S, S, 3] as the model's float32 [N, 3, S, S] in -1..1."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def vae_loss(vae: AutoencoderKL, x: Tensor, weights: VaeWeights, generator: torch.Generator) -> Tensor:
    """Mean of |x' - x|^2 + l1 |x' - x| + kl KL(q || N(0, 1)) + chroma |dark' - dark|^2.

    The last term compares the channels less their mean: the eye sees a tint on a grey long before
    the squared error does. x is float32 [N, 3, S, S]; the generator is one of the CPU.
    """
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
    error = vae.decode(posterior.mean + posterior.std * noise).sample.float() - x
    tint = error - error.mean(dim=1, keepdim=True)
    kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    fit = error.square().mean() + weights.l1 * error.abs().mean()
    loss: Tensor = fit + weights.kl * kl + weights.chroma * tint.square().mean()
    return loss


def train_vae(
    pixels: Tensor,
    shape: VaeShape,
    weights: VaeWeights,
    course: Course,
    folder: Path,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> AutoencoderKL:
    """Train on pixels uint8 [N, S, S, 3] and whiten the latents; returns the averaged model in eval mode."""
    vae = build_vae(shape)
    initialise(vae, generator)
    vae.to(device)

    def loss(chosen: Tensor, generator: torch.Generator) -> Tensor:
        return vae_loss(vae, to_unit_range(pixels[chosen].to(device)), weights, generator)

    trained: AutoencoderKL = train("vae", vae, loss, len(pixels), course, folder, generator)
    whiten(trained, encode(trained, pixels[:_WHITEN_IMAGES], generator, "whitening"))
    return trained


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator, label: str = "encoding") -> Tensor:
    """One posterior sample per image: uint8 [N, S, S, 3] to float32 [N, 4, S/f, S/f], on the CPU."""
    found: list[Tensor] = []
    with reporter().task(label, len(pixels)) as progress:
        for chunk in torch.split(pixels, _ENCODE_BATCH):
            posterior = vae.encode(to_unit_range(chunk.to(vae.device))).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            found.append(posterior.mean.float().cpu() + posterior.std.float().cpu() * noise)
            progress(len(chunk))
    return torch.cat(found).contiguous()


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
