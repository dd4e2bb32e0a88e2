"""FID, KID, precision, recall, density and coverage: against other programs' numbers and slow, plain searches."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from undertone.errors import InputError
from undertone.evaluation.distances import distances_to
from undertone.evaluation.frechet import frechet_distance
from undertone.evaluation.kid import kid
from undertone.evaluation.neighbourhoods import NEAREST, neighbourhoods

Features = NDArray[np.float64]


class AsTheyAre(nn.Module):
    """What torchmetrics takes for an encoder: features in, features out."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def pair(seed: int, n: int = 90, m: int = 70, d: int = 12) -> tuple[Features, Features]:
    """Two sets of features that are alike and not the same."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mixed, rng.normal(0.2, 1.1, size=(m, d)) @ mixed


def slow_frechet(x: Features, y: Features) -> float:
    """By the root of a matrix, as clean-fid and pytorch-fid compute it."""
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(means + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root.real))


@pytest.mark.parametrize("seed", range(3))
def test_the_frechet_distance_is_that_of_a_matrix_root(seed: int) -> None:
    x, y = pair(seed)
    assert frechet_distance(x, y) == pytest.approx(slow_frechet(x, y), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
@pytest.mark.parametrize("seed", range(3))
def test_kid_is_that_of_torchmetrics(seed: int) -> None:
    x, y = pair(seed, 64, 64)
    theirs = KernelInceptionDistance(feature=AsTheyAre(), subsets=1, subset_size=64)
    theirs.update(torch.from_numpy(x), real=True)
    theirs.update(torch.from_numpy(y), real=False)
    assert kid(x, y) == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_the_frechet_distance_of_a_set_to_itself_is_zero_and_a_shift_is_its_square() -> None:
    x, _ = pair(4)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-6 * float(np.trace(np.cov(x.T))))
    assert frechet_distance(x, x + 3.0) == pytest.approx(9.0 * x.shape[1], rel=1e-6)


@pytest.mark.parametrize("rows", [0, 1])
def test_one_image_has_no_covariance(rows: int) -> None:
    with pytest.raises(InputError, match="two images"):
        frechet_distance(np.zeros((rows, 3)), np.zeros((9, 3)))


def slow_neighbourhoods(real: Features, generated: Features, k: int) -> tuple[float, float, float, float]:
    """The definitions of Naeem et al. 2020, image by image."""

    def radius(x: Features, i: int) -> float:
        return sorted(math.dist(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]

    def inside(centres: Features, other: Features) -> NDArray[np.bool_]:
        return np.array([[math.dist(one, c) < radius(centres, i) for one in other] for i, c in enumerate(centres)])

    in_real, in_generated = inside(real, generated), inside(generated, real)
    return (
        float(in_real.any(axis=0).mean()),
        float(in_generated.any(axis=0).mean()),
        float(in_real.sum() / (k * len(generated))),
        float(in_real.any(axis=1).mean()),
    )


@pytest.mark.parametrize("k", [1, 3])
def test_the_four_figures_are_those_of_the_definitions(k: int) -> None:
    real, generated = pair(5, 21, 17, 4)
    found = neighbourhoods(real, generated, k)
    expected = slow_neighbourhoods(real, generated, k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_more_images_than_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from undertone.evaluation import neighbourhoods as module

    real, generated = pair(6, 50, 40)
    whole = neighbourhoods(real, generated)
    monkeypatch.setattr(module, "_ROWS", 7)
    assert neighbourhoods(real, generated) == whole


def test_real_images_against_the_same_and_against_others_of_the_same_law() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(300, 6)), rng.normal(size=(300, 6))
    same, alike = distances_to(x, x), distances_to(x, y)
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    assert same.fid == pytest.approx(0.0, abs=1e-6)
    for one in (alike.precision, alike.recall, alike.coverage):
        assert one is not None
        assert one > 0.85
    assert alike.density == pytest.approx(1.0, abs=0.15)
    assert alike.kid == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("of_real", [True, False], ids=["a real image", "another image"])
def test_one_image_repeated_has_no_recall(of_real: bool) -> None:
    """The balls of images that are all one are empty: a memorised image covers nothing but itself."""
    rng = np.random.default_rng(8)
    real = rng.normal(size=(60, 5))
    one = real[3] if of_real else real[3] + 1e-3
    found = distances_to(real, np.tile(one, (60, 1)))
    assert found.recall == 0.0
    assert found.precision == 1.0
    assert found.coverage is not None
    assert found.coverage < 0.5


def test_far_away_images_are_neither_precise_nor_covering() -> None:
    real, _ = pair(9)
    found = distances_to(real, real + 1e3)
    assert (found.precision, found.recall, found.density, found.coverage) == (0.0, 0.0, 0.0, 0.0)


def test_too_few_images_give_no_figure() -> None:
    real, generated = pair(10)
    few = distances_to(real, generated[:NEAREST])
    assert few.kid is not None
    assert few.fid is not None
    assert few.precision is few.recall is few.density is few.coverage is None
    assert distances_to(real, generated[:1]).kid is None
    with pytest.raises(InputError, match="at least 6"):
        neighbourhoods(real, generated[:NEAREST])
