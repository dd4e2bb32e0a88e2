"""Train `embedded:tiny`: `python -m undertone.pretraining.tiny --out FOLDER`.

Draws public images, trains the autoencoder, then text encoder and UNet, and writes a stock
StableDiffusionPipeline. About 40 minutes on a quiet CPU. All randomness comes from the public seeds below.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from undertone.pretraining.card import model_card
from undertone.pretraining.export import export
from undertone.pretraining.procedural import WORDS, PublicImage, draw
from undertone.pretraining.text_to_image import TextToImage, UnetRecipe, train_text_to_image
from undertone.pretraining.tokenizer import build_tokenizer
from undertone.pretraining.vae import VaeRecipe, encode, train_vae

SIZE = 32  # pixels
PROMPT_LENGTH = 24  # tokens
TRAIN_SEED = 1  # series of public images; tests draw from others
_STAGE_SEEDS = {"vae": 11, "encode": 12, "text and unet": 13}  # public, so that runs repeat


def draw_many(seed: int, count: int, size: int, workers: int) -> tuple[Tensor, list[str]]:
    """Images 0..count-1 of a series: pixels uint8 [count, size, size, 3] and their captions."""
    with ProcessPoolExecutor(workers) as pool:
        one = partial(_draw_one, seed, size)
        images: list[PublicImage] = list(pool.map(one, range(count), chunksize=500))
    return torch.from_numpy(np.stack([image.pixels for image in images])), [image.caption for image in images]


def _draw_one(seed: int, size: int, index: int) -> PublicImage:
    return draw(seed, index, size)


def train(out: Path, images: int, vae_recipe: VaeRecipe, unet_recipe: UnetRecipe, reuse: Path | None) -> None:
    """Run both stages and export to `out`; earlier states of the second stage are exported there too.

    Args:
        out: folder of the pipeline.
        images: how many public images to draw.
        vae_recipe: stage 1.
        unet_recipe: stage 2.
        reuse: folder of a finished autoencoder; stage 1 is then left out.
    """
    pixels, captions = draw_many(TRAIN_SEED, images, SIZE, workers=torch.get_num_threads())
    click.echo(f"drew {images} public images")
    tokenizer = build_tokenizer(WORDS, PROMPT_LENGTH)
    if reuse is None:
        vae = train_vae(pixels, vae_recipe, _stream("vae"))
        vae.save_pretrained(out / "vae")
    else:
        vae = AutoencoderKL.from_pretrained(reuse).eval()
    latents = encode(vae, pixels, _stream("encode"))

    card = model_card(images, TRAIN_SEED, len(WORDS), PROMPT_LENGTH, vae_recipe, unet_recipe)

    def save(model: TextToImage) -> None:
        # A fresh tokenizer: the one that is in use would be written with its last padding.
        export(vae, model, build_tokenizer(WORDS, PROMPT_LENGTH), card, out)

    stream = _stream("text and unet")
    save(train_text_to_image(latents, captions, tokenizer, unet_recipe, stream, checkpoint=save))
    click.echo(f"wrote {out}")


def _stream(stage: str) -> torch.Generator:
    return torch.Generator().manual_seed(_STAGE_SEEDS[stage])


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m undertone.pretraining.tiny", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pipeline")
    parser.add_argument("--images", type=int, default=120_000, help="public images to draw")
    parser.add_argument("--vae-steps", type=int, default=VaeRecipe.steps)
    parser.add_argument("--steps", type=int, default=UnetRecipe.steps, help="steps of text encoder and UNet")
    parser.add_argument("--vae", type=Path, help="reuse the autoencoder in this folder")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    train(
        chosen.out,
        chosen.images,
        VaeRecipe(steps=chosen.vae_steps),
        UnetRecipe(steps=chosen.steps),
        reuse=chosen.vae,
    )


if __name__ == "__main__":
    main()
