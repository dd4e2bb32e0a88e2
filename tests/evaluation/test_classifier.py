"""Trained on one set, tested on another: what the second holds can choose nothing."""

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from undertone.errors import InputError
from undertone.evaluation import small_cnn
from undertone.evaluation.classifier import Classifier, cross_fitted, halves
from undertone.evaluation.resampling import weighted_auc
from undertone.evaluation.small_cnn import SmallCNN

Features = NDArray[np.float64]


def two_classes(rng: np.random.Generator, each: int, apart: float, d: int = 20) -> tuple[Features, NDArray[np.int64]]:
    truth = np.repeat([0, 1], each)
    return rng.normal(size=(2 * each, d)) + apart * truth[:, None] * (np.arange(d) < 3), truth


def auc(probabilities: Features, truth: NDArray[np.int64]) -> float:
    return float(weighted_auc(probabilities[:, 1], truth == 1, np.ones((1, len(truth))))[0])


def test_classes_that_are_apart_are_found_and_shuffled_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    features, truth = two_classes(rng, 80, 1.0)
    tested, true = two_classes(rng, 200, 1.0)
    assert auc(Classifier(features, truth, 2).probabilities(tested), true) > 0.85
    shuffled = [auc(Classifier(features, rng.permutation(truth), 2).probabilities(tested), true) for _ in range(6)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.12)


def test_probabilities_are_of_all_classes_and_sum_to_one() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 2], 20)  # a training set that lacks class 1
    found = Classifier(rng.normal(size=(40, 4)), truth, 3).probabilities(rng.normal(size=(7, 4)))
    assert found.shape == (7, 3)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(1), 1.0)


def test_everything_is_chosen_on_the_training_set() -> None:
    """What is tested on is not known to the model: neither its scale nor its classes change a probability."""
    rng = np.random.default_rng(2)
    features, truth = two_classes(rng, 30, 0.7)
    tested = rng.normal(size=(50, 20))
    model = Classifier(features, truth, 2)
    whole = model.probabilities(tested)
    np.testing.assert_allclose(model.probabilities(tested[:1]), whole[:1], atol=1e-12)
    again = Classifier(features, truth, 2)
    assert again.strength == model.strength
    np.testing.assert_array_equal(again.probabilities(tested), whole)


def test_little_signal_is_regularised_more_than_much() -> None:
    rng = np.random.default_rng(3)
    weak, strong = (Classifier(*two_classes(rng, 60, apart, 40), 2).strength for apart in (0.1, 2.0))
    assert weak < strong


@pytest.mark.parametrize("truth", [[0] * 12, [0] * 9 + [1] * 3], ids=["one class", "three images of a class"])
def test_too_few_classes_or_images_are_refused(truth: list[int]) -> None:
    with pytest.raises(InputError, match="two classes"):
        Classifier(np.random.default_rng(4).normal(size=(12, 3)), np.array(truth), 2)


def test_images_of_one_unit_stand_in_one_fold() -> None:
    """Images of a patient that are one but for noise: folds that split patients would find them again, and C large."""
    rng = np.random.default_rng(5)
    patients = rng.normal(size=(24, 60))
    features = np.repeat(patients, 6, axis=0) + 0.01 * rng.normal(size=(144, 60))
    truth = np.repeat(rng.permutation(24) % 2, 6)
    units = [f"patient {n // 6}" for n in range(144)]
    assert Classifier(features, truth, 2, units).strength < Classifier(features, truth, 2).strength


def test_halves_are_of_whole_units_and_of_both_classes() -> None:
    units = [f"patient {n // 3}" for n in range(60)]
    truth = np.repeat(np.arange(20) % 2, 3)
    half = halves(units, truth)
    sides = [{unit for unit, first in zip(units, half, strict=True) if first is side} for side in (True, False)]
    assert not {str(u) for u in sides[0]} & {str(u) for u in sides[1]}
    assert abs(int(half.sum()) - 30) <= 3
    assert 12 <= int((truth[half] == 0).sum()) <= 18
    with pytest.raises(InputError, match="one unit"):
        halves(["a"] * 6, np.zeros(6, dtype=np.int64))
    with pytest.raises(InputError, match="a class each"):
        halves(["a", "b"], np.array([0, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 2 <= halves(list("abcdef"), np.array([0, 0, 0, 0, 0, 1])).sum() <= 4


def test_cross_fitting_tests_no_unit_on_a_model_that_saw_it() -> None:
    """Classes that only a patient's own look tells: a model that saw the patient would know, another cannot."""
    rng = np.random.default_rng(6)
    features = np.repeat(rng.normal(size=(40, 80)), 3, axis=0)
    truth = np.repeat(rng.permutation(40) % 2, 3)
    units = [f"patient {n // 3}" for n in range(120)]
    found = cross_fitted(features, truth, 2, units, halves(units, truth))
    assert auc(found, truth) == pytest.approx(0.5, abs=0.22)
    assert auc(Classifier(features, truth, 2).probabilities(features), truth) > 0.95


def pictures(rng: np.random.Generator, each: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise, and in class 1 a bright square somewhere: nothing that a mean of pixels would tell for sure."""
    truth = np.repeat([0, 1], each)
    images = rng.integers(0, 120, (2 * each, 16, 16, 3))
    for image, one in zip(images, truth, strict=True):
        top, left = rng.integers(0, 10, 2)
        image[top : top + 6, left : left + 6] += 130 * one
    return images.astype(np.uint8), truth


def test_a_small_cnn_learns_from_pixels_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_cnn, "EPOCHS", 6)
    rng, epochs = np.random.default_rng(7), list[int]()
    images, truth = pictures(rng, 40)
    tested, true = pictures(rng, 40)
    before = torch.get_rng_state()
    model = SmallCNN(images, truth, 2, epochs.append)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's randomness
    found = model.probabilities(tested)
    np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
    assert auc(found, true) > 0.9
    assert 1 <= model.epochs <= len(epochs) == 6
    np.testing.assert_array_equal(SmallCNN(images, truth, 2, epochs.append).probabilities(tested), found)
    np.testing.assert_allclose(model.probabilities(tested[3:4]), found[3:4], atol=1e-5)
    with pytest.raises(InputError, match="10 drawn images"):
        SmallCNN(images[:49], truth[:49], 2, epochs.append)


def test_the_epoch_is_chosen_on_images_that_were_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of classes that nothing tells apart a network learns each image by heart, and an early epoch is best."""
    monkeypatch.setattr(small_cnn, "EPOCHS", 12)
    rng = np.random.default_rng(8)
    images = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    assert SmallCNN(images, np.arange(60) % 2, 2, lambda _steps: None).epochs < 12
