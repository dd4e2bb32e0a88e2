"""What a model is pre-trained on: public pixels with a caption and perhaps a class each."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from undertone.core.progress import reporter
from undertone.errors import DataError
from undertone.models.class_names import fault
from undertone.public_images.procedural import PublicImage, draw

_CHUNK = 500
_TOLD_APART = frozenset({"letter", "digit"})


@dataclass(frozen=True, eq=False)
class PublicSet:
    """Images in order: pixels uint8 [N, S, S, 3], a caption each, a class each where there are classes."""

    pixels: NDArray[np.uint8]
    captions: Sequence[str]
    classes: Sequence[str] | None = None

    def digest(self) -> str:
        """SHA-256 over pixels, captions and classes: training can only go on with the very same."""
        words = "\n".join([*self.captions, *(self.classes or ())])
        return hashlib.sha256(self.pixels.tobytes() + words.encode()).hexdigest()

    def class_names(self) -> tuple[str, ...]:
        """The distinct classes; a class's number is its place here.

        Raises:
            DataError: there are fewer than two, or a name that no base can have.
        """
        names = tuple(sorted(set(self.classes or ())))
        if len(names) < 2:
            raise DataError(f'{len(names)} classes in the data; unet.kind = "class" needs two or more')
        wrong = fault(names)
        if wrong:
            raise DataError(f"the data's classes: {wrong}")
        return names


def drawn_images(
    seed: int, count: int, size: int, workers: int = 1, kinds: Sequence[str] | None = None
) -> list[PublicImage]:
    """Images 0..count-1 of the drawn series `seed`, `size` pixels a side, of these kinds of drawings alone."""
    one = partial(_draw_one, seed, size, kinds)
    images: list[PublicImage] = []
    with reporter().task("drawing public images", count) as progress, ProcessPoolExecutor(workers) as pool:
        for image in pool.map(one, range(count), chunksize=_CHUNK):
            images.append(image)
            progress(1)
    return images


def drawn_set(seed: int, count: int, size: int, workers: int = 1, kinds: Sequence[str] | None = None) -> PublicSet:
    """What `drawn_images` draws; their kinds are the classes, or with letters or digits alone which one each is."""
    images = drawn_images(seed, count, size, workers, kinds)
    pixels = np.stack([image.pixels for image in images])
    alone = kinds is not None and len(set(kinds)) == 1 and set(kinds) <= _TOLD_APART
    classes = [_which(image) if alone else image.subject.kind for image in images]
    return PublicSet(pixels, [image.caption for image in images], classes)


def _which(image: PublicImage) -> str:
    """The one letter, "A" to "Z", or the digit, "zero" to "nine"."""
    last = image.subject.noun.rpartition(" ")[2]
    return last.upper() if image.subject.kind == "letter" else last


def _draw_one(seed: int, size: int, kinds: Sequence[str] | None, index: int) -> PublicImage:
    return draw(seed, index, size, kinds)
