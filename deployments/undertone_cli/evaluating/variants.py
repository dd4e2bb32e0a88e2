"""What a release is compared with: the base without adaptation, and random directions of equal length."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from undertone.methods.protocol import Method
from undertone.methods.release_format import Weights
from undertone.methods.weights import attach
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase

_AT_ONCE = 16


@dataclass(frozen=True)
class Variant:
    """A model that draws: its name in tables, class -> prompt, and its weights; None: the base without any.

    Where a study has no classes the one class is "".
    """

    name: str
    prompts: Mapping[str, str]
    weights: Weights | None


@dataclass(frozen=True)
class Sampling:
    """How images are drawn: `count` of each prompt, image i of each from the public seed `seed` + i.

    Classes share their seeds, so what tells their images apart is the prompt and never which seeds a class had.
    """

    count: int
    steps: int
    guidance: float = 1.0
    seed: int = 0


def loaded(pinned: PinnedBase, device: str, weights: Weights | None, *, safety_checker: bool = False) -> LoadedBase:
    """The base with a variant's weights in it."""
    base = load_base(pinned, device, keep_safety_checker=safety_checker)
    if weights is not None:
        attach(base, weights)
    return base


def drawn(base: LoadedBase, prompts: Mapping[str, str], sampling: Sampling) -> Iterator[tuple[str, Image.Image]]:
    """(class, image) of `count` images of each prompt, all of one class after the other."""
    wanted = [(one, prompt) for one, prompt in prompts.items() for _ in range(sampling.count)]
    for start in range(0, len(wanted), _AT_ONCE):
        batch = wanted[start : start + _AT_ONCE]
        seeds = [sampling.seed + (start + place) % sampling.count for place in range(len(batch))]
        texts = [prompt for _, prompt in batch]
        images = base.sample(texts, seeds, steps=sampling.steps, guidance=sampling.guidance)
        yield from ((one, image) for (one, _), image in zip(batch, images, strict=True))


def random_direction(method: Method, pinned: PinnedBase, weights: Weights, number: int) -> Weights:
    """The release's tensors as far from the start as `weights` are, in public random direction `number`.

    The direction lies in what the method adapts: with public directions within those.
    """
    start = method.released(method.initial_state(pinned))
    at_start = method.weights(pinned, start)
    direction = np.random.Generator(np.random.Philox(key=number)).standard_normal(start.size)
    direction /= np.linalg.norm(direction)

    def moved(length: float) -> Weights:
        return method.weights(pinned, (start + length * direction).astype(np.float32))

    # Tensors are linear in w: LoRA's file holds B times alpha / r.
    return moved(_between(weights, at_start, method) / _between(moved(1.0), at_start, method))


def _between(one: Weights, other: Weights, method: Method) -> float:
    """The distance of two releases over all tensors that a study adapts."""
    squares = [
        _square(tensor - other[file][name])
        for file, tensors in one.items()
        for name, tensor in tensors.items()
        if method.fixed(name) is None
    ]
    return float(np.sqrt(sum(squares)))


def _square(difference: NDArray[np.float32]) -> float:
    return float((difference.astype(np.float64) ** 2).sum())
