"""Base models with random weights: genuine diffusers folders that load in a second and train in milliseconds."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel
from transformers import CLIPTextConfig, CLIPTextModel

from undertone.models.parts import Parts
from undertone.pretraining.tokenizer import build_tokenizer
from undertone.training.denoisers import build_scheduler
from undertone.training.initial_weights import initialise

WIDTH = 16
WORDS = ("a", "picture", "of", "clear", "mass", "scan")


def make_base(folder: Path, velocity: bool = True) -> Path:
    """32 pixels, 4 x 8 x 8 latents, a UNet of 16 and 32 channels, words of width 16."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(WORDS, 16)
    parts = {
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=32,
            scaling_factor=1.0,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                projection_dim=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ),
        "unet": UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        ),
    }
    generator = torch.Generator().manual_seed(0)
    for part in parts.values():
        initialise(part, generator)
    noise = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=build_scheduler() if velocity else noise,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom weights, for tests.\n", encoding="utf-8")
    return folder


def tiny_class_base(
    folder: Path, classes: Sequence[str], *, side: int = 16, pixels: bool = False, channels: int = 3
) -> Path:
    """Told a class, of images of `side` pixels: latents of 4 channels and side / 4, or pixels of 1 or 3 channels."""
    return _write(folder, tuple(classes), side, pixels, channels)


def tiny_none_base(folder: Path, *, side: int = 16, pixels: bool = False, channels: int = 3) -> Path:
    """As `tiny_class_base`, told nothing."""
    return _write(folder, (), side, pixels, channels)


def _write(folder: Path, classes: tuple[str, ...], side: int, pixels: bool, channels: int) -> Path:
    torch.set_num_threads(1)
    vae = None if pixels else _tiny_vae(side)
    seen = channels if pixels else 4
    unet = UNet2DModel(
        sample_size=side if pixels else side // 4,
        in_channels=seen,
        out_channels=seen,
        block_out_channels=(8, 16),
        down_block_types=("AttnDownBlock2D",) * 2,
        up_block_types=("AttnUpBlock2D",) * 2,
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
        num_class_embeds=len(classes) + 1 if classes else None,
    )
    generator = torch.Generator().manual_seed(0)
    for part in (unet, vae):
        if part is not None:
            initialise(part, generator)
    Parts(unet, build_scheduler(), vae, classes).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom weights, for tests.\n", encoding="utf-8")
    return folder


def _tiny_vae(side: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=side,
        scaling_factor=1.0,
    )
