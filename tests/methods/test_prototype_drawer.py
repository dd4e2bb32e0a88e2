"""What prototypes draw has the moments that the file says; a test that also rejects others (PRIVACY 16)."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from undertone.errors import ModelError
from undertone.methods.prototypes.drawer import Mixture, PrototypeDrawer
from undertone.methods.prototypes.names import classes_in, named
from undertone.methods.prototypes.release import PROTOTYPE_FILE, PROTOTYPES

DRAWS = 12_000
SHAPE = (1, 2, 3)
Held = dict[str, NDArray[np.float32]]


def held(names: tuple[str, ...] = ("a", "b"), seed: int = 1) -> Held:
    """Two centres and three components of each class."""
    drawn = np.random.default_rng(seed)
    found: Held = {}
    for name, shape in named(names, 2, 3, SHAPE).tensors:
        found[name] = drawn.standard_normal(shape).astype(np.float32)
        if name.startswith("weights"):
            found[name] = np.abs(found[name])
    total = sum(float(tensor.sum()) for name, tensor in found.items() if name.startswith("weights"))
    return {name: tensor / np.float32(total if name.startswith("weights") else 1) for name, tensor in found.items()}


def drawn(mixture: Mixture, count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.array(
        [mixture.drawn(torch.Generator().manual_seed(seed + number)).reshape(-1) for number in range(count)],
        dtype=np.float64,
    )


def largest_z(latents: NDArray[np.float64], centre: NDArray[np.float32], factor: NDArray[np.float32]) -> float:
    """The largest deviation, in standard errors, of mean and covariance from those of one Gaussian.

    In coordinates g where it is standard: means of g have variance 1 / n, products of two 1 / n, squares 2 / n.
    """
    flat = factor.reshape(len(factor), -1).astype(np.float64)
    g = (latents - centre.reshape(-1)) @ np.linalg.pinv(flat)
    np.testing.assert_allclose(g @ flat, latents - centre.reshape(-1), atol=1e-4)  # nothing outside the factor's span
    errors = np.sqrt((1 + np.eye(len(flat))) / len(g))
    away = np.abs(g.T @ g / len(g) - np.eye(len(flat))) / errors
    return float(max(away.max(), np.abs(g.mean(0)).max() * len(g) ** 0.5))


def test_around_a_centre_draws_have_its_mean_and_covariance_and_no_other() -> None:
    tensors = held()
    centres, factor = tensors["centres.a"], tensors["factor.a"]
    only = Mixture.of(centres[None, :1], np.ones((1, 1), np.float32), factor[None])
    latents = drawn(only, DRAWS)
    assert largest_z(latents, centres[0], factor) < 4.5
    # A scale that is off by 4 %, a component of another size, a rotation within the span, a shift: each is seen.
    wrong = [factor * 1.04, factor * np.array([1, 1, 1.07], np.float32).reshape(-1, 1, 1, 1)]
    turn = np.eye(3)
    turn[0, 1] = 0.1
    wrong.append(np.tensordot(turn, factor, axes=1).astype(np.float32))
    for other in wrong:
        assert largest_z(latents, centres[0], other) > 4.5
    assert largest_z(latents, centres[0] + np.float32(0.1) * factor[0], factor) > 4.5


def test_centres_are_drawn_by_their_weights_and_no_others() -> None:
    tensors = held()
    mixture = PrototypeDrawer.of(SimpleNamespace(), tensors).mixtures  # type: ignore[arg-type]
    shares = np.concatenate([tensors["weights.a"], tensors["weights.b"]]).astype(np.float64)
    np.testing.assert_allclose(mixture[""].shares, shares, rtol=1e-5)
    np.testing.assert_allclose(mixture["b"].shares, shares[2:] / shares[2:].sum(), rtol=1e-5)
    still = Mixture(mixture[""].centres, mixture[""].shares, 0 * mixture[""].factors)
    latents = drawn(still, 6000)
    every = mixture[""].centres.reshape(4, -1)
    counts = (np.abs(latents[:, None] - every).max(2) < 1e-6).sum(0)
    assert counts.sum() == 6000
    errors = np.sqrt(shares * (1 - shares) * 6000)
    assert np.abs(counts - 6000 * shares).max() < 4.5 * errors.max()
    assert (np.abs(counts - 6000 * shares[::-1]) > 4.5 * errors).any()


def test_each_class_steps_by_its_own_factor() -> None:
    tensors = held()
    mixture = PrototypeDrawer.of(SimpleNamespace(), tensors).mixtures[""]  # type: ignore[arg-type]
    second = Mixture(mixture.centres, np.array([0.0, 0.0, 0.0, 1.0]), mixture.factors)
    assert largest_z(drawn(second, DRAWS), tensors["centres.b"][1], tensors["factor.b"]) < 4.5


@pytest.fixture
def drawer() -> PrototypeDrawer:
    def decode(latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        return np.repeat((40 * latents + 128).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1), 3, axis=3)

    base: Any = SimpleNamespace(decode=decode)
    return PrototypeDrawer.of(base, held())


def test_an_image_follows_from_its_own_generator_whatever_the_batch(drawer: PrototypeDrawer) -> None:
    def images(*asked: tuple[str, int]) -> list[bytes]:
        seeds = [torch.Generator().manual_seed(seed) for _, seed in asked]
        return [one.tobytes() for one in drawer([prompt for prompt, _ in asked], seeds, steps=3, guidance=2.0)]

    together = images(("a", 1), ("b", 2), ("", 3), (" a ", 1))
    assert together[0] == together[3] == images(("a", 1))[0]
    assert together[2] == images(("", 3), ("b", 9))[0]
    assert len(set(together)) == 3
    assert images() == []
    with pytest.raises(ModelError, match='"c" is no class of these prototypes: ask for "a", "b", or for ""'):
        images(("a", 1), ("c", 1))


def test_weights_that_are_none_count_as_equal() -> None:
    """A random direction of equal length, as evaluations draw with, may have any."""
    centres, factors = np.zeros((1, 2, *SHAPE), np.float32), np.zeros((1, 3, *SHAPE), np.float32)
    np.testing.assert_array_equal(Mixture.of(centres, np.array([[-1.0, -2.0]], np.float32), factors).shares, [0.5, 0.5])
    np.testing.assert_array_equal(Mixture.of(centres, np.array([[-1.0, 2.0]], np.float32), factors).shares, [0, 1])


def test_a_file_says_its_classes_or_is_none() -> None:
    for names in (("a", "b"), (), ("x.y", "factor")):
        layout = named(names, 2, 3, SHAPE)
        shapes = dict(reversed(layout.tensors))
        assert classes_in(shapes) == (sorted(names) or [""])
        assert PROTOTYPE_FILE.layout({PROTOTYPES: shapes}) == layout
    good = dict(named(("a", "b"), 2, 3, SHAPE).tensors)
    bad = [
        {},
        {"other": (2, *SHAPE)},
        good | {"centres.a": (2, *SHAPE, 1)},
        good | {"weights.b": (3,)},
        good | {"factor.b": (4, *SHAPE)},
        good | {"factor.b": (3, 1, 2, 4)},
        good | {"centres": (2, *SHAPE), "weights": (2,), "factor": (3, *SHAPE)},
        dict(named([str(number) for number in range(65)], 1, 1, SHAPE).tensors),
        dict(named(("a" * 65,), 1, 1, SHAPE).tensors),
        dict(named(("a",), 257, 1, SHAPE).tensors),
    ]
    for shapes in bad:
        assert PROTOTYPE_FILE.layout({PROTOTYPES: shapes}) is None
