"""Public directions by themselves: which numbers P is, how firmly they stand, and what is told from what."""

import numpy as np
import pytest
from numpy.typing import NDArray

from undertone.errors import ModelError, StudyError
from undertone.methods.gradient import directions as module
from undertone.methods.gradient.directions import Directions, leading_directions, same_directions
from undertone.methods.gradient.optimisers import OptimiserOptions
from undertone.methods.gradient.options import GradientOptions

N, D, K = 24, 301, 6


def generator(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key))


def rotation(key: int, rows: int, columns: int) -> NDArray[np.float64]:
    return np.linalg.qr(generator(key).standard_normal((columns, rows)))[0].T


def unit_gradients() -> NDArray[np.float64]:
    """G [N, D] of rows of length 1, whose leading singular values come in near-equal pairs."""
    values = np.repeat([4.0, 2.0, 1.0, 0.3, 0.1, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.008], 2)
    mixed = rotation(1, N, N) * (values * (1 + 1e-6 * np.arange(N))) @ rotation(2, N, D)
    found: NDArray[np.float64] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return found


def made(gradients: NDArray[np.float64], k: int = K) -> Directions:
    return leading_directions(gradients.astype(np.float32), gradients[:4].astype(np.float32), k)


def singular(gradients: NDArray[np.float64], k: int = K) -> NDArray[np.float64]:
    """The leading right singular vectors, [k, D]."""
    found: NDArray[np.float64] = np.linalg.svd(gradients, full_matrices=False)[2][:k]
    return found


def test_they_are_orthonormal_and_span_what_the_leading_singular_vectors_span() -> None:
    basis = made(unit_gradients()).basis.astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(K), atol=1e-5)
    leading = singular(unit_gradients())
    np.testing.assert_allclose(basis.T @ basis, leading.T @ leading, atol=1e-4)


def test_of_all_bases_of_that_span_it_is_the_nearest_to_the_public_numbers() -> None:
    reference = generator(module._BASIS_SEED).standard_normal((D, K))
    basis = made(unit_gradients()).basis.astype(np.float64)
    ours = np.linalg.norm(basis.T - reference)
    for key in range(20):
        other = rotation(key, K, K) @ basis
        assert np.linalg.norm(other.T - reference) > ours


def test_they_stand_firm_where_single_singular_vectors_do_not() -> None:
    """Gradients that differ as between machines, in another order: P moves as its span does; singular vectors turn."""
    gradients, noise = unit_gradients(), generator(5).standard_normal((N, D)) / np.sqrt(D)
    other = (gradients * (1 + 1e-5 * noise) + 1e-5 * noise)[::-1]
    moved = np.linalg.norm(made(other).basis - made(gradients).basis) / np.sqrt(K)
    assert moved < 1e-3
    assert same_directions(made(other).fingerprint(), made(gradients).fingerprint())
    turned = np.abs(singular(other) - singular(gradients)).max()
    assert turned > 0.05, "or this test shows nothing"


def test_how_long_a_drawings_gradient_is_does_not_matter() -> None:
    lengths = 10.0 ** generator(3).uniform(-4, 3, N)
    np.testing.assert_allclose(made(unit_gradients() * lengths[:, None]).basis, made(unit_gradients()).basis, atol=1e-5)


def test_columns_are_taken_some_at_a_time_and_that_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(unit_gradients())
    monkeypatch.setattr(module, "_BLOCK", 7)
    np.testing.assert_allclose(made(unit_gradients()).basis, whole.basis, atol=1e-6)
    assert same_directions(made(unit_gradients()).fingerprint(), whole.fingerprint())


def test_a_projected_row_is_equal_to_the_bit_wherever_its_gradient_stands() -> None:
    found, gradients = made(unit_gradients()), generator(4).standard_normal((9, D), dtype=np.float32)
    together = found.project(gradients)
    np.testing.assert_allclose(together, gradients @ found.basis.T, rtol=1e-4, atol=1e-4)
    for order in ([8, 3], [3], [5, 4, 3, 2, 1, 0, 8, 7, 6]):
        np.testing.assert_array_equal(found.project(gradients[order]), together[order])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_gives_a_row_that_is_not_and_touches_no_other(value: float) -> None:
    found, gradients = made(unit_gradients()), generator(4).standard_normal((3, D), dtype=np.float32)
    before = found.project(gradients)
    gradients[1, 17] = value
    after = found.project(gradients)
    assert not np.isfinite(after[1]).any()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])


def test_what_is_adapted_moves_w_along_them() -> None:
    found, start = made(unit_gradients()), generator(6).standard_normal(D).astype(np.float32)
    c = generator(7).standard_normal(K).astype(np.float32)
    moved = found.moved(start, c)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(
        moved, start + sum(one * c_i for one, c_i in zip(found.basis, c, strict=True)), atol=1e-5
    )
    assert np.linalg.norm(moved - start) == pytest.approx(np.linalg.norm(c), rel=1e-4)


def test_what_they_keep_is_measured_on_other_gradients_each_of_length_one() -> None:
    held_out = generator(8).standard_normal((5, D)) * [[1], [10], [0.1], [3], [1]] + 1
    found = leading_directions(unit_gradients().astype("f4"), np.vstack([held_out, np.zeros((1, D))]).astype("f4"), K)
    units = held_out / np.linalg.norm(held_out, axis=1, keepdims=True)
    projected = units @ found.basis.T.astype(np.float64)
    assert found.of_rows == pytest.approx(np.mean([row @ row for row in projected]), rel=1e-4)
    mean = units.mean(0)
    assert found.of_mean == pytest.approx(np.sum((found.basis @ mean) ** 2) / (mean @ mean), rel=1e-4)


def test_a_fingerprint_tells_other_directions_and_forgives_rounding() -> None:
    found = made(unit_gradients())
    basis = found.basis.copy()
    basis[0] = rotation(9, 1, D)[0]  # one of six
    assert not same_directions(Directions(basis, 0, 0).fingerprint(), found.fingerprint())
    assert not same_directions(Directions(-found.basis, 0, 0).fingerprint(), found.fingerprint())
    near = Directions((found.basis * (1 + 1e-4)).astype(np.float32), 0, 0)
    assert same_directions(near.fingerprint(), found.fingerprint())
    assert len(found.fingerprint()) < 120
    for text in ("", "1.0", "x" * 40, " ".join(["nan"] * 16), " ".join(["0"] * 17)):
        assert not same_directions(text, found.fingerprint())


def test_more_directions_than_gradients_span_are_refused() -> None:
    few = np.repeat(unit_gradients()[:3], 4, axis=0)
    with pytest.raises(StudyError, match="span 3 directions"):
        made(few, 5)
    with pytest.raises(StudyError, match="span 0 directions"):
        made(np.zeros((N, D)), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_base_that_overflows_has_none(value: float) -> None:
    gradients = unit_gradients()
    gradients[3, 3] = value
    with pytest.raises(ModelError, match="not finite"):
        made(gradients)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"directions": 300}, "direction_drawings"),
        ({"direction_check": "1"}, "above 0"),
        ({"direction_caption": "a"}, "above 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GradientOptions.model_validate(options)


def test_they_follow_from_every_option_but_those_of_steps_and_of_units_rows() -> None:
    """A new option of a gradient method counts until somebody writes down here that it does not."""
    others = {"draws", "records", "caption_dropout", "largest_row_mib", "direction_check"}
    wanted = set(GradientOptions.model_fields) - set(OptimiserOptions.model_fields) - others
    assert set(GradientOptions(directions=2).directions_follow_from()) == wanted
    assert {"min_time", "directions", "direction_drawings", "direction_caption"} == wanted
