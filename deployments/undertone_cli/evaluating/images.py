"""Images as features, with their classes and units, whether they lie in a folder or a model drew them.

A few are in memory at a time; of each, small pixels are kept where a network is to learn from them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.core.progress import reporter
from undertone.data.images import read_images
from undertone.errors import DataError
from undertone.evaluation.encoder import SIDE, to_encoder
from undertone.evaluation.kid import PublicFeatures
from undertone.public_images.procedural import draw

PUBLIC, INCEPTION = "public encoder", "Inception"
_SEED, _DRAWINGS, _AT_ONCE = 7, 512, 32
Pixels = NDArray[np.uint8]
Features = Callable[[Pixels], NDArray[np.float64]]
"""Images uint8 [n, h, w, 3] of any size -> features [n, d]."""


@dataclass(frozen=True)
class ImageSet:
    """n images as features [n, d] by name of the encoder, and of each its class and its unit.

    small: [n, 64, 64, 3], where they are kept.
    """

    features: Mapping[str, NDArray[np.float64]]
    classes: tuple[str, ...]
    units: tuple[str, ...]
    small: Pixels | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def places(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """The place of each image's class among `classes`, [n]."""
        return np.array([classes.index(one) for one in self.classes], dtype=np.int64)


@dataclass(frozen=True)
class ImageFiles:
    """n files, of each its class ("" where there are none) and whose it is, and the columns that say so.

    unit_column: "" where each image stands for itself. class_column: "" where there are no classes. left_out: other
    classes, and how many images each has.
    """

    files: tuple[Path, ...]
    classes: tuple[str, ...]
    units: tuple[str, ...]
    unit_column: str = ""
    class_column: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, size: int, progress: Callable[[int], None]) -> Iterator[Pixels]:
        """Each image, [size, size, 3].

        Raises:
            DataError: one cannot be read.
        """
        for image in read_images(Path(), [str(file.absolute()) for file in self.files], size):
            if isinstance(image, DataError):
                raise image
            yield image
            progress(1)

    def featured(self, label: str, size: int, encoders: Mapping[str, Features], *, keep: bool = False) -> ImageSet:
        """All of them as features; `label` says at a bar what they are."""
        with reporter().task(f"reading {label}", len(self)) as progress:
            return featured(
                zip(self.classes, self.units, self.pixels(size, progress), strict=True), encoders, keep=keep
            )

    def at_most(self, most: int) -> "ImageFiles":
        """A public random choice of `most` of them, in their order; all where there are no more."""
        order = np.random.Generator(np.random.Philox(key=_SEED)).permutation(len(self))
        chosen = sorted(order[:most].tolist())
        return replace(
            self,
            files=tuple(self.files[place] for place in chosen),
            classes=tuple(self.classes[place] for place in chosen),
            units=tuple(self.units[place] for place in chosen),
        )


def public_features(drawings: int = _DRAWINGS) -> Features:
    """Features of the public encoder, standardised by public drawings."""
    drawn = np.stack([draw(_SEED, index, SIDE).pixels for index in range(drawings)])
    return PublicFeatures.from_public(drawn).of


def featured(
    images: Iterable[tuple[str, str, Pixels]], encoders: Mapping[str, Features], *, keep: bool = False
) -> ImageSet:
    """A set of (class, unit, pixels [h, w, 3]), all of one size; `keep` their small pixels too."""
    rest, classes, units, small = iter(images), list[str](), list[str](), list[Pixels]()
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in encoders}
    while batch := list(islice(rest, _AT_ONCE)):
        classes += [one for one, _, _ in batch]
        units += [unit for _, unit, _ in batch]
        pixels = np.stack([image for _, _, image in batch])
        for name, features in encoders.items():
            found[name].append(features(pixels))
        if keep:
            small.append(_small(pixels))
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    return ImageSet(whole, tuple(classes), tuple(units), np.concatenate(small) if keep else None)


def _small(images: Pixels) -> Pixels:
    pixels: Pixels = ((to_encoder(images) + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return pixels
