"""Distances of what several variants drew to the same real images, at equal numbers and shares of classes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from undertone.evaluation.distances import Distances, distances_to
from undertone_cli.evaluating.attacks import Drawn
from undertone_cli.evaluating.images import ImageSet
from undertone_cli.evaluating.tables import REAL


def compared(images: ImageSet, half: NDArray[np.bool_], made: Sequence[Drawn]) -> dict[str, dict[str, Distances]]:
    """Each variant, and the other half of the real images, held against one half: as many images, in the same shares.

    The measures but KID change with the number of images, and all of them with the shares of classes.
    """
    classes = np.asarray(images.classes)
    sets = {REAL: (images, np.flatnonzero(~half))}
    sets |= {one.variant.name: (one.images, np.arange(len(one.images))) for one in made}
    numbers = in_shares(Counter(classes[half].tolist()), [Counter(_classes(*one)) for one in sets.values()])
    found: dict[str, dict[str, Distances]] = {}
    for encoder, features in images.features.items():
        reference = features[half]
        found[encoder] = {
            name: distances_to(reference, one.features[encoder][chosen(one, among, numbers)])
            for name, (one, among) in sets.items()
        }
    return found


def in_shares(reference: Counter[str], there: Sequence[Counter[str]]) -> dict[str, int]:
    """How many images of each class, in the shares of the reference, every set has."""
    total = sum(reference.values())
    most = min(counts[one] * total / n for counts in there for one, n in reference.items())
    return {one: math.floor(most * n / total + 1e-9) for one, n in reference.items()}


def _classes(images: ImageSet, among: NDArray[np.intp]) -> list[str]:
    return [images.classes[place] for place in among]


def chosen(images: ImageSet, among: NDArray[np.intp], numbers: Mapping[str, int]) -> NDArray[np.intp]:
    """The places of so many images of each class, evenly over those at hand."""
    classes, found = np.asarray(_classes(images, among)), []
    for one, n in numbers.items():
        places = among[classes == one]
        found.append(places[np.linspace(0, len(places) - 1, n).round().astype(np.intp)])
    return np.concatenate(found)
