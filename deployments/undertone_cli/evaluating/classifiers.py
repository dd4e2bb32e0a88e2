"""Classifiers trained on what each variant drew and tested on real images, beside their controls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.core.progress import reporter
from undertone.errors import InputError
from undertone.evaluation.classifier import Classifier
from undertone.evaluation.scores import Scores, scored
from undertone.evaluation.small_cnn import EPOCHS, SmallCNN
from undertone_cli.evaluating.attacks import Drawn
from undertone_cli.evaluating.images import PUBLIC, ImageSet, Pixels
from undertone_cli.evaluating.tables import BASE, REAL, RELEASE

SHUFFLES = 32
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Shuffled:
    """AUC of classifiers whose training images got each other's classes: their mean is near .5."""

    mean: float
    runs: tuple[float, ...]


def classified(
    images: ImageSet, made: Sequence[Drawn], classes: Sequence[str], real: Callable[[], Probabilities]
) -> tuple[dict[str, Scores], Shuffled]:
    """Classifiers trained on what each variant drew, tested on real images.

    Args:
        images: the real images.
        made: variants and what they drew, the release among them.
        classes: those of both.
        real: the control: probabilities of classes for `images`, by a classifier that was trained on others.

    Raises:
        InputError: a variant drew too few images of a class.
    """
    features, truth = images.features[PUBLIC], images.places(classes)
    found, several = dict[str, Scores](), len(classes)
    with reporter().task("classifiers", len(made) + 1 + SHUFFLES) as progress:
        for one in made:
            model = Classifier(one.images.features[PUBLIC], one.images.places(classes), several)
            found[one.variant.name] = scored(model.probabilities(features), truth, classes, images.units)
            progress(1)
        try:
            found[REAL] = scored(real(), truth, classes, images.units)
        except InputError as error:
            reporter().line(f"no classifier trained on real images to compare with: {error}")
        progress(1)
        release = next(one.images for one in made if one.variant.name == RELEASE)
        runs = []
        for number in range(SHUFFLES):
            mixed = np.random.Generator(np.random.Philox(key=number)).permutation(release.places(classes))
            model = Classifier(release.features[PUBLIC], mixed, several)
            runs.append(scored(model.probabilities(features), truth, classes, images.units).auc.value)
            progress(1)
    return found, Shuffled(float(np.mean(runs)), tuple(runs))


def by_small_cnn(
    images: ImageSet, half: NDArray[np.bool_], made: Sequence[Drawn], classes: Sequence[str]
) -> dict[str, Scores]:
    """Small networks trained on what base and release drew, and on one half of the real images, tested on real ones.

    Raises:
        InputError: too few images of a class.
    """
    truth, several, found = images.places(classes), len(classes), dict[str, Scores]()
    learned = [one for one in made if one.variant.name in (BASE, RELEASE)]
    with reporter().task("small CNNs", (len(learned) + 2) * EPOCHS) as progress:
        for one in learned:
            model = SmallCNN(_kept(one.images), one.images.places(classes), several, progress)
            found[one.variant.name] = scored(model.probabilities(_kept(images)), truth, classes, images.units)
        probabilities = np.zeros((len(truth), several))
        for tested in (half, ~half):
            try:
                model = SmallCNN(_kept(images)[~tested], truth[~tested], several, progress)
            except InputError as error:
                reporter().line(f"no small CNN trained on real images to compare with: {error}")
                return found
            probabilities[tested] = model.probabilities(_kept(images)[tested])
        found[REAL] = scored(probabilities, truth, classes, images.units)
    return found


def _kept(images: ImageSet) -> Pixels:
    if images.small is None:
        raise ValueError("small pixels were not kept")
    return images.small
