"""Accuracy, AUC and their intervals: against scikit-learn, and on patients whose true figure is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from undertone.evaluation.resampling import SHARE, estimate, unit_weights, weighted_auc
from undertone.evaluation.scores import scored


def test_auc_is_that_of_scikit_learn_with_weights_and_ties() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 12, 80).astype(float), rng.random(80) < 0.3
    weights = rng.integers(0, 4, (20, 80)).astype(float)
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auc(scores, positive, weights), expected, atol=1e-12)


def test_auc_of_one_class_alone_has_no_value() -> None:
    assert np.isnan(weighted_auc(np.arange(3.0), np.ones(3, dtype=bool), np.ones((1, 3)))).all()


def test_a_resample_draws_units_whole_and_as_many_as_there_are_in_each_stratum() -> None:
    units = ["a", "a", "b", "c", "a", "d"]
    strata = [0, 0, 0, 0, 1, 1]  # "a" of the other stratum is another unit
    weights = unit_weights(units, strata, resamples=200)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all()
    assert (weights[:, 4] + weights[:, 5] == 2).all()
    assert (weights[:, 0] != weights[:, 4]).any()
    assert np.unique(weights[:, 0]).size > 2


def test_resamples_are_public_and_the_same_every_time() -> None:
    assert (unit_weights(["a", "b", "c"]) == unit_weights(["a", "b", "c"])).all()


def patients(
    rng: np.random.Generator, count: int, each: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    """Scores of patients with `each` images of one class, which a patient's own level makes alike."""
    positive = np.repeat(rng.permutation(count) % 2 == 0, each)
    level = np.repeat(rng.normal(size=count), each)
    scores = positive + level + 0.3 * rng.normal(size=count * each)
    return scores, positive, [f"patient {n // each}" for n in range(count * each)]


def test_intervals_by_patient_hold_the_true_auc_as_often_as_they_say_and_those_by_image_do_not() -> None:
    """The normal law gives the true AUC: P(X > Y) with X - Y of mean 1 and variance 2 (1 + 0.09)."""
    rng = np.random.default_rng(1)
    large = patients(rng, 20_000, 1)
    true = float(weighted_auc(large[0], large[1], np.ones((1, 20_000)))[0])
    held = {"patient": 0, "image": 0}
    for _ in range(150):
        scores, positive, units = patients(rng, 60, 5)
        for by, names in (("patient", units), ("image", list(map(str, range(len(units)))))):
            found = estimate(0.0, weighted_auc(scores, positive, unit_weights(names, resamples=200)))
            held[by] += found.low <= true <= found.high
    assert held["patient"] / 150 > SHARE - 0.06
    assert held["image"] / 150 < SHARE - 0.15


def test_scores_are_those_of_scikit_learn_by_class() -> None:
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1, 2], [30, 20, 10])
    probabilities = rng.dirichlet(np.ones(3), 60) + 0.4 * np.eye(3)[truth]
    probabilities /= probabilities.sum(1, keepdims=True)
    found = scored(probabilities, truth, ["clear", "mass", "other"], list(map(str, range(60))))
    expected = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert found.auc.value == pytest.approx(expected, abs=1e-12)
    assert found.accuracy.value == pytest.approx(float((probabilities.argmax(1) == truth).mean()))
    assert found.auc.low < found.auc.value < found.auc.high
    assert found.largest_class == 0.5
    assert [one.images for one in found.classes] == [30, 20, 10]
    assert [sum(row) for row in found.confusion] == [30, 20, 10]
    assert found.classes[1].recall == found.confusion[1][1] / 20
    named = sum(row[1] for row in found.confusion)
    assert found.classes[1].precision == pytest.approx(found.confusion[1][1] / named)


def test_a_perfect_and_a_blind_classifier() -> None:
    truth, units = np.repeat([0, 1], 20), list(map(str, range(40)))
    perfect = scored(np.eye(2)[truth], truth, ["a", "b"], units)
    assert (perfect.auc.value, perfect.auc.low, perfect.auc.high) == (1.0, 1.0, 1.0)
    assert perfect.confusion == ((20, 0), (0, 20))
    blind = scored(np.full((40, 2), 0.5), truth, ["a", "b"], units)
    assert blind.auc.value == 0.5
    assert blind.accuracy.value == blind.largest_class == 0.5
