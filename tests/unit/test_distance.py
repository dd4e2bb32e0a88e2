"""KID against a slow oracle, and features that tell kinds of image apart."""

import numpy as np
import pytest
from numpy.typing import NDArray

from undertone.models.base import load_base
from undertone.models.distance import EncoderFeatures, kid
from undertone.models.pinned import pin
from undertone.pretraining.procedural import draw


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


def test_features_put_a_kind_nearer_to_itself_than_to_others() -> None:
    base = load_base(pin("embedded:tiny"))
    drawn = [draw(5, index, 32) for index in range(700)]
    public = np.stack([draw(6, index, 32).pixels for index in range(128)])
    features = EncoderFeatures.from_public(base, public)

    def of(word: str) -> NDArray[np.float64]:
        return features.of(np.stack([image.pixels for image in drawn if word in image.caption.split()][:40]))

    chests, knees, digits = of("chest"), of("knee"), of("digit")
    same = kid(chests[::2], chests[1::2])
    assert same < kid(chests, knees)
    assert same < kid(chests, digits)
