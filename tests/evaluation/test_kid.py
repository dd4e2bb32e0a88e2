"""KID against a slow oracle, and features that tell kinds of image apart."""

import numpy as np
import pytest
from numpy.typing import NDArray

from undertone.evaluation.encoder import WEIGHTS, kinds_of, public_features
from undertone.evaluation.kid import EncoderFeatures, PublicFeatures, kid, nearest
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.public_images.procedural import draw


def slow_kid(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Lemma 6 of Gretton et al. 2012, term by term."""

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(x[i], y[j]) for i in range(n) for j in range(m)) / (n * m)
    return within_x + within_y - 2 * between


def test_kid_is_the_unbiased_estimate() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.normal(0.3, 1.2, size=(9, 5))
    assert kid(x, y) == pytest.approx(slow_kid(x, y), rel=1e-9)


def test_kid_of_one_law_is_near_zero_and_grows_with_the_shift() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 8))
    near, far = kid(x, rng.normal(size=(400, 8))), kid(x, rng.normal(0.5, 1, size=(400, 8)))
    assert abs(near) < 0.05 < far


def test_nearest_neighbours_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(20, 4))
    found, distances = nearest(x, y, 3)
    for row, indices, lengths in zip(x, found, distances, strict=True):
        slow = sorted((float(np.linalg.norm(row - other)), index) for index, other in enumerate(y))[:3]
        assert [index for _, index in slow] == indices.tolist()
        np.testing.assert_allclose(lengths, [length for length, _ in slow], atol=1e-9)


@pytest.mark.parametrize("which", ["public", "autoencoder"])
def test_features_put_a_kind_nearer_to_itself_than_to_others(which: str) -> None:
    drawn = [draw(5, index, 64) for index in range(700)]
    public = np.stack([draw(6, index, 64).pixels for index in range(128)])
    features: PublicFeatures | EncoderFeatures = PublicFeatures.from_public(public)
    if which == "autoencoder":
        features = EncoderFeatures.from_public(load_base(pin("embedded:tiny")), public)

    def of(kind: str) -> NDArray[np.float64]:
        return features.of(np.stack([image.pixels for image in drawn if image.subject.kind == kind][:40]))

    chests, knees, digits = of("chest"), of("knee"), of("digit")
    same = kid(chests[::2], chests[1::2])
    assert same < kid(chests, knees)
    assert same < kid(chests, digits)


def test_the_public_encoder_names_most_fresh_kinds_and_is_small() -> None:
    drawn = [draw(8, index, 64) for index in range(300)]
    found = kinds_of(np.stack([image.pixels for image in drawn]))
    assert np.mean([kind == image.subject.kind for kind, image in zip(found, drawn, strict=True)]) > 0.9
    assert WEIGHTS.stat().st_size < 800_000


def test_public_features_take_images_of_any_size_and_each_by_itself() -> None:
    small = np.stack([draw(9, index, 32).pixels for index in range(6)])
    large = np.stack([draw(9, index, 128).pixels for index in range(3)])
    assert public_features(small).shape[1] == public_features(large).shape[1]
    np.testing.assert_allclose(public_features(small)[2:3], public_features(small[2:3]), atol=1e-4)
