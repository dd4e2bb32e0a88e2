"""How well classes were named: accuracy, AUC, a table by class, who was taken for whom; intervals by unit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from undertone.evaluation.resampling import Estimate, estimate, unit_weights, weighted_auc


@dataclass(frozen=True)
class ClassScores:
    """Of one class: how many images, how many of those named so were, how many were named so, AUC against the rest."""

    name: str
    images: int
    precision: float
    recall: float
    auc: Estimate


@dataclass(frozen=True)
class Scores:
    """`auc` is the mean over classes, each against the rest; with two classes it is the usual one.

    largest_class: the accuracy of always naming the most frequent class. confusion: [true class][named class].
    """

    accuracy: Estimate
    auc: Estimate
    largest_class: float
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]


def scored(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], classes: Sequence[str], units: Sequence[str]
) -> Scores:
    """Scores of probabilities [n, c] of images whose classes are truth [n], in order of `classes` [c].

    Args:
        probabilities: as a classifier gave them.
        truth: the true classes; each class has at least one image.
        classes: their names.
        units: whose each image is, [n]: what the bootstrap draws.
    """
    named, places = probabilities.argmax(axis=1), list(range(len(classes)))
    weights = np.concatenate([np.ones((1, len(truth))), unit_weights(units)])
    right = (weights * (named == truth)).sum(axis=1) / weights.sum(axis=1)
    areas = np.array([weighted_auc(probabilities[:, place], truth == place, weights) for place in places])
    precision, recall, _, images = precision_recall_fscore_support(truth, named, labels=places, zero_division=0.0)
    return Scores(
        accuracy=estimate(float(right[0]), right[1:]),
        auc=estimate(float(areas[:, 0].mean()), areas[:, 1:].mean(axis=0)),
        largest_class=float(np.bincount(truth).max() / len(truth)),
        classes=tuple(
            ClassScores(
                name,
                int(images[place]),
                float(precision[place]),
                float(recall[place]),
                estimate(float(areas[place, 0]), areas[place, 1:]),
            )
            for place, name in enumerate(classes)
        ),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion_matrix(truth, named, labels=places)),
    )
