"""Part of mnist.py: sets of small labelled images as folders that sites read, and the CNN that judges drawn ones."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

CLASSES = [str(digit) for digit in range(10)]
COLUMN, SITE_COLUMN = "digit", "site"
_EPOCHS, _BATCH, _RATE = 5, 64, 2e-3
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Labelled:
    """Grey images [n, h, w] and their digits [n]."""

    images: Pixels
    digits: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.digits)

    def first(self, count: int) -> "Labelled":
        """The first `count` of them."""
        return Labelled(self.images[:count], self.digits[:count])

    def sized(self, side: int) -> Pixels:
        """As a node makes them: `side` pixels, three equal channels, [n, side, side, 3]."""
        fitted = [
            np.asarray(ImageOps.fit(Image.fromarray(one).convert("RGB"), (side, side), Image.Resampling.BICUBIC))
            for one in self.images
        ]
        return np.stack(fitted)


def mnist(file: Path, part: str) -> Labelled:
    """MNIST's own split, "train" or "test", from an .npz file."""
    with np.load(file) as held:
        return Labelled(held[f"{part}_images"], held[f"{part}_labels"].astype(np.int64))


def optical_digits(part: str) -> Labelled:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, in the order of their writers: the last 360 are "test"."""
    found = load_digits()
    whole = Labelled((found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64))
    cut = len(whole) - 360
    return whole.first(cut) if part == "train" else Labelled(whole.images[cut:], whole.digits[cut:])


def write_folder(folder: Path, found: Labelled, sites: int) -> None:
    """An imagefolder with the columns `digit` and `site`; image i is at site i mod `sites`."""
    part = folder.with_name(f"{folder.name}.part")
    (part / "images").mkdir(parents=True, exist_ok=True)
    with (part / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["file_name", SITE_COLUMN, COLUMN])
        for number, (image, digit) in enumerate(zip(found.images, found.digits, strict=True)):
            name = f"images/{number:05d}.png"
            Image.fromarray(image).save(part / name)
            table.writerow([name, f"site-{number % sites:02d}", int(digit)])
    part.rename(folder)


def accuracy(made: Pixels, digits: NDArray[np.int64], tested: Pixels, truth: NDArray[np.int64], seed: int) -> float:
    """Share of `tested` that a CNN trained on `made` names as `truth`; all images [n, s, s, 3], grey.

    Its settings are fixed and its last epoch counts, so nothing of the tested images chooses anything.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _trained(_grey(made), torch.from_numpy(digits))
    right = 0
    with torch.no_grad():
        for start in range(0, len(truth), 1000):
            named = network(_grey(tested[start : start + 1000])).argmax(1).numpy()
            right += int((named == truth[start : start + 1000]).sum())
    return right / len(truth)


def _trained(x: torch.Tensor, truth: torch.Tensor) -> nn.Module:
    side = x.shape[-1] // 4
    network = nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * side * side, 64),
        nn.ReLU(),
        nn.Linear(64, len(CLASSES)),
    )
    steps = _EPOCHS * -(-len(truth) // _BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.02)
    fall = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    for chosen in _batches(len(truth)):
        optimiser.zero_grad()
        functional.cross_entropy(network(x[chosen]), truth[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        fall.step()
    return network.eval()


def _batches(count: int) -> Iterator[torch.Tensor]:
    for _ in range(_EPOCHS):
        yield from torch.randperm(count).split(_BATCH)


def _grey(images: Pixels) -> torch.Tensor:
    return torch.from_numpy(images).float().mean(3)[:, None] / 127.5 - 1
