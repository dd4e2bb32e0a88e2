"""Classifiers trained on one set of images and tested on another (Ravuri and Vinyals 2019), on public features.

Whatever is chosen is chosen on the training set alone: scales and regularisation by cross-validation within it. So
nothing of the images that are tested on enters the model.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from undertone.errors import InputError

STRENGTHS = tuple(float(strength) for strength in 10.0 ** np.arange(-4, 3))  # C of scikit-learn: 1 / regularisation
FOLDS, FEWEST = 5, 4


class Classifier:
    """Logistic regression on standardised features; `strength` is the C that cross-validation chose."""

    def __init__(
        self, features: NDArray[np.float64], truth: NDArray[np.int64], classes: int, units: Sequence[str] | None = None
    ) -> None:
        """Train on features [n, d] of images whose classes are truth [n], places among so many `classes`.

        Args:
            features: of the training images.
            truth: their classes.
            classes: how many there are; a training set may lack some.
            units: whose each image is; images of one unit stand in one fold. None: each by itself.

        Raises:
            InputError: fewer than two classes, or too few images or units of one.
        """
        groups = np.arange(len(truth)) if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
        fewest = min(len(np.unique(groups[truth == one])) for one in np.unique(truth))
        if len(np.unique(truth)) < 2 or fewest < FEWEST:
            raise InputError(f"a classifier needs two classes, each with {FEWEST} images of different units or more")
        folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
            {"logisticregression__C": STRENGTHS},
            scoring="neg_log_loss",
            cv=list(folds.split(features, truth, groups)),
        )
        self._search, self._classes = search.fit(features, truth), classes
        self.strength = float(search.best_params_["logisticregression__C"])

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """How likely each class is, [n, classes]; 0 for one that the training set lacked."""
        found = np.zeros((len(features), self._classes))
        found[:, self._search.classes_] = self._search.predict_proba(features)
        return found


def halves(units: Sequence[str], truth: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Two halves of images: whole units, and of each class about as many in both; true: in the first.

    Raises:
        InputError: there is one unit, or one image of each class.
    """
    groups = np.unique(np.asarray(units), return_inverse=True)[1]
    if groups.max() < 1 or np.bincount(truth).max() < 2:
        raise InputError("all images are of one unit, or of a class each: halves by unit need more, better fifty")
    splitter = StratifiedGroupKFold(2, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # its one unit is in one half
        _, first = next(iter(splitter.split(groups[:, None], truth, groups)))
    found = np.zeros(len(truth), dtype=np.bool_)
    found[first] = True
    return found


def cross_fitted(
    features: NDArray[np.float64], truth: NDArray[np.int64], classes: int, units: Sequence[str], half: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Each half's probabilities [n, classes] by a classifier that was trained on the other.

    Raises:
        InputError: a half has too few of a class.
    """
    found, names = np.zeros((len(truth), classes)), np.asarray(units)
    for tested in (half, ~half):
        there = ~tested
        model = Classifier(features[there], truth[there], classes, names[there].tolist())
        found[tested] = model.probabilities(features[tested])
    return found
