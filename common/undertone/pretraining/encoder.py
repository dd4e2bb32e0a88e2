"""Train the public feature encoder: `python -m undertone.pretraining.encoder --out FILE`. Minutes on a CPU."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from undertone.evaluation.encoder import SIDE, FeatureEncoder
from undertone.pretraining.dataset import drawn_images
from undertone.pretraining.vae import to_unit_range
from undertone.public_images.procedural import KINDS, WORDS, PublicImage
from undertone.public_images.wording import words_of
from undertone.training.initial_weights import initialise
from undertone.training.loop import Course, train

_SEED = 21  # of the encoder that ships; training of the base and the tests use others
_COARSE = 24  # pixels to which the most blurred images are reduced


def targets(images: Sequence[PublicImage]) -> tuple[Tensor, Tensor]:
    """What each drawn image shows: kinds int64 [n], and float32 [n, words], 1 for a word that is true of it."""
    kinds, words = torch.zeros(len(images), dtype=torch.int64), torch.zeros(len(images), len(WORDS))
    places = {word: number for number, word in enumerate(WORDS)}
    for index, image in enumerate(images):
        kinds[index] = KINDS.index(image.subject.kind)
        words[index, [places[word] for word in words_of(image.subject.words())]] = 1
    return kinds, words


def disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N, 3, S, S] with their contrast, sharpness and grain changed, each by its own chance."""
    n = len(x)

    def chance(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    coarse = functional.interpolate(x, (_COARSE, _COARSE), mode="bilinear", antialias=True)
    blurred = functional.interpolate(coarse, x.shape[-2:], mode="bilinear")
    blur = chance(0, 1) * (chance(0, 1) < 0.5)
    x = torch.lerp(x, blurred, blur)
    x = x * chance(0.7, 1.1) + chance(-0.15, 0.15)
    x = x + chance(0, 0.12) * torch.randn(x.shape, generator=generator)
    return x.clamp(-1, 1)


def train_encoder(seed: int, count: int, course: Course, folder: Path) -> FeatureEncoder:
    """Train on `count` drawn images: cross-entropy of the kind, and of every word that may be true of an image."""
    images = drawn_images(seed, count, SIDE)
    pixels = _pixels(images)
    kinds, words = targets(images)
    generator = torch.Generator().manual_seed(seed)
    encoder = FeatureEncoder()
    initialise(encoder, generator)

    def loss(chosen: Tensor, generator: torch.Generator) -> Tensor:
        features = encoder(disturb(to_unit_range(pixels[chosen]), generator))
        named = functional.cross_entropy(encoder.kind(features), kinds[chosen])
        described = functional.binary_cross_entropy_with_logits(encoder.words(features), words[chosen])
        return named + 10 * described

    return cast(FeatureEncoder, train("features", encoder, loss, count, course, folder, generator))


def save(encoder: FeatureEncoder, path: Path) -> None:
    """Write the weights in half precision."""
    weights = {name: weight.half().contiguous() for name, weight in encoder.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)


def accuracy(encoder: FeatureEncoder, seed: int, count: int) -> float:
    """Share of fresh drawn images whose kind the encoder names."""
    images = drawn_images(seed, count, SIDE)
    kinds, _ = targets(images)
    with torch.no_grad():
        found = encoder.kind(encoder(to_unit_range(_pixels(images)))).argmax(dim=1)
    return float((found == kinds).float().mean())


def _pixels(images: Sequence[PublicImage]) -> Tensor:
    return torch.from_numpy(np.stack([image.pixels for image in images]))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m undertone.pretraining.encoder", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the file of weights")
    parser.add_argument("--checkpoints", type=Path, required=True, help="a folder for checkpoints and events")
    parser.add_argument("--seed", type=int, default=_SEED, help="of the drawn images, the start and the order")
    parser.add_argument("--images", type=int, default=24_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    course = Course(steps=chosen.steps, batch=64, learning_rate=2e-3, average=0.995, weight_decay=0.02)
    encoder = train_encoder(chosen.seed, chosen.images, course, chosen.checkpoints)
    save(encoder, chosen.out)
    click.echo(f"names the kind of {100 * accuracy(encoder, 2026, 1000):.1f} % of fresh drawn images")


if __name__ == "__main__":
    main()
