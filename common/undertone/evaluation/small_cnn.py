"""A small convolutional classifier, trained from nothing on one set of images and tested on another.

Beside logistic regression on the public encoder's features it can learn of details which that encoder overlooks, such
as an artefact of drawing: where it does much worse on real images than on drawn ones, that is what it learned. The
number of epochs is chosen on a part of the training set; nothing of the images that are tested on chooses anything.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from undertone.errors import InputError
from undertone.evaluation.encoder import to_encoder

EPOCHS, FEWEST = 30, 10
_BATCH, _HELD_OUT, _RATE = 32, 5, 2e-3  # one image in five chooses the epoch


class SmallCNN:
    """`epochs` is how many were best for the held-out part of the training set."""

    def __init__(
        self, images: NDArray[np.uint8], truth: NDArray[np.int64], classes: int, progress: Callable[[int], None]
    ) -> None:
        """Train on images [n, h, w, 3] whose classes are truth [n]; deterministic.

        Args:
            images: of any size.
            truth: their classes, places among so many `classes`.
            classes: how many there are.
            progress: told of each epoch, `EPOCHS` times.

        Raises:
            InputError: a class has fewer than ten images.
        """
        if np.bincount(truth, minlength=classes).min() < FEWEST:
            raise InputError(f"a small CNN needs {FEWEST} drawn images of each class or more")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._network, self.epochs = _trained(*_parts(images, truth), classes, progress)

    @torch.no_grad()
    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """How likely each class is, [n, classes]."""
        chunks = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        found: NDArray[np.float64]
        found = torch.cat([self._network(to_encoder(chunk)).softmax(1) for chunk in chunks]).double().numpy()
        return found


def _parts(images: NDArray[np.uint8], truth: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """All images as the network wants them, their classes, and which of them choose the epoch: of each class alike."""
    chosen = torch.zeros(len(truth), dtype=torch.bool)
    for one in np.unique(truth):
        places = torch.from_numpy(np.flatnonzero(truth == one))
        chosen[places[torch.randperm(len(places))[: max(1, len(places) // _HELD_OUT)]]] = True
    return to_encoder(images), torch.from_numpy(truth), chosen


def _trained(
    x: Tensor, truth: Tensor, chosen: Tensor, classes: int, progress: Callable[[int], None]
) -> tuple[nn.Module, int]:
    network = _network(classes)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.05)
    places, best, kept = (~chosen).nonzero()[:, 0], float("inf"), (network, 0)
    for epoch in range(1, EPOCHS + 1):
        network.train()
        for batch in torch.split(places[torch.randperm(len(places))], _BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(network(x[batch]), truth[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        network.eval()
        with torch.no_grad():
            loss = functional.cross_entropy(network(x[chosen]), truth[chosen]).item()
        if loss < best:
            best, kept = loss, (copy.deepcopy(network), epoch)
        progress(1)
    return kept


def _network(classes: int) -> nn.Module:
    """64 x 64 pixels -> scores [n, classes]; some 60,000 parameters."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 48), (48, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, classes))
