"""A unit moves each round's integer sum of dp-prototypes by s C at most, whoever it is (PRIVACY 16)."""

from collections.abc import Iterator, Sequence
from math import sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.prototypes import prototypes_of, some_start, stage_methods, unit_of, unwhitened
from undertone.methods.protocol import UnitRecords
from undertone.methods.prototypes import kept_latents
from undertone.methods.prototypes.method import DPPrototypes
from undertone.methods.prototypes.rows import bound
from undertone.privacy.quantise import Grid, clip_and_quantise, sum_of_blocks
from undertone.privacy.stages import Contributions
from undertone_client.compute.padding import padded

CLASSES = ["pneumonia", "none", "mass"]
BASE: Any = SimpleNamespace(pinned=None)
Rows = NDArray[np.float32]
Integers = NDArray[np.int64]


@pytest.fixture(scope="module", autouse=True)
def whitened_away() -> Iterator[None]:
    """Latents are the coordinates z themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_latents, "found", unwhitened)
        yield


def quiet(_steps: int) -> None:
    """Nobody watches."""


def grids(method: DPPrototypes) -> list[Grid]:
    """A coarse and a fine one, C the plan's: s C is an integer, C at most the bound of a row and near it."""
    longest = bound(method.radius, method.options.count_weight)
    return [Grid(scale, int(scale * longest), (1 << 31) - 1, 32) for scale in (1 << 10, 1 << 19)]


def summed(rows: Rows, grid: Grid) -> Integers:
    """As a site makes it: a row that is not finite is a zero row."""
    finite = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0).astype(np.float32)
    blocks = (Contributions(finite[first : first + 2]) for first in range(0, len(rows), 2))
    return sum_of_blocks(blocks, rows.shape[1], grid)


# --- units, ordinary and not ----------------------------------------------------------------------------

# (what it is, its records' classes)
UNITS = st.tuples(
    st.sampled_from(["ordinary", "huge", "tiny", "on a centre", "far beyond", "opposite", "infinite", "none"]),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
)


def made(kind: str, places: Sequence[int], centres: NDArray[np.float64], seed: int) -> UnitRecords:
    """A unit of a kind, at the centres [K, J, k] as they stand in this round."""
    drawn, order = np.random.default_rng(seed), sorted(CLASSES)
    at = np.array([centres[order.index(CLASSES[place]), 0] for place in places])
    away = drawn.standard_normal(at.shape)
    z = {
        "ordinary": 2 * away,
        "huge": 1e6 * away,
        "tiny": 1e-6 * away,
        "on a centre": at,
        "far beyond": at + 40 * np.eye(at.shape[1])[0],
        "opposite": at - 40 * np.eye(at.shape[1])[0],
        "infinite": np.where(np.arange(at.shape[1]) == 1, np.inf, away),
        "none": np.full_like(at, np.nan),
    }[kind]
    return unit_of(z, places, seed)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(UNITS, st.lists(UNITS, min_size=1, max_size=5), st.integers(0, 2**31), st.sampled_from([0.3, 1.0, 5.0]))
def test_adding_a_unit_moves_the_integer_sum_of_each_round_by_s_c_at_most(
    mine: tuple[str, list[int]], others: list[tuple[str, list[int]]], seed: int, count_weight: float
) -> None:
    """Exactly, in integers, in all rounds of one study: each at the state that the noised rounds before it made."""
    method = prototypes_of(CLASSES, count_weight=count_weight)
    sizes, noise = method.sizes, np.random.default_rng(seed)
    for grid in grids(method):
        state = some_start(sizes, seed).vector()
        for round_, one in enumerate(stage_methods(method)):
            centres = one.prototypes(state).centres
            units = [made(*other, centres, seed + place) for place, other in enumerate((*others, mine))]
            # In batches of one shape, as a site makes rows.
            without = one.rows(BASE, state, padded(units[:-1], 8), quiet)[: len(units) - 1]
            with_it = one.rows(BASE, state, padded(units, 8), quiet)[: len(units)]
            np.testing.assert_array_equal(with_it[:-1], without)
            moved = summed(with_it, grid) - summed(without, grid)
            assert int(sum(int(value) ** 2 for value in moved)) <= grid.clip_units**2, round_
            own = np.where(np.isfinite(with_it[-1:]).all(), with_it[-1:], 0).astype(np.float32)
            np.testing.assert_array_equal(moved, clip_and_quantise(own, grid)[0])
            sigma = 0.2 * grid.clip_units
            noised = summed(with_it, grid) + np.rint(sigma * noise.standard_normal(moved.size))
            denominator = grid.scale * (len(units) + 1)
            state = one.step_from(state, noised / denominator, sigma / denominator)
            assert np.isfinite(state).all()


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(UNITS, st.integers(0, 2**31), st.sampled_from([0.3, 1.0, 5.0]), st.sampled_from([0.5, 2.0, 30.0]))
def test_no_row_is_longer_than_its_bound(
    unit: tuple[str, list[int]], seed: int, count_weight: float, radius: float
) -> None:
    """Which is C: nothing that a unit holds is cut a second time, and C is no guess."""
    method = prototypes_of(CLASSES, count_weight=count_weight, radius=radius)
    start = some_start(method.sizes, seed)
    for one in stage_methods(method)[-2:]:
        (row,) = one.rows(BASE, start.vector(), [made(*unit, start.centres, seed)], quiet)
        if unit[0] in ("infinite", "none"):
            assert not np.isfinite(row).all()
        else:
            assert np.linalg.norm(row.astype(np.float64)) <= bound(radius, count_weight) * (1 + 1e-6)


def test_the_bound_is_reached() -> None:
    """By a record far from its centre; on one axis and on the diagonal, whose moments lie off it."""
    method = prototypes_of(radius=2.0, count_weight=0.7)
    state = some_start(method.sizes).vector()
    for direction in ([1.0, 0.0, 0.0], [1.0, 1.0, 1.0]):
        for one in stage_methods(method)[-2:]:
            (row,) = one.rows(BASE, state, [unit_of(1e3 * np.array([direction]), [0])], quiet)
            assert np.linalg.norm(row) == pytest.approx(sqrt(4 + 0.49))


def test_a_cut_row_keeps_counts_and_sums_in_proportion() -> None:
    """One clip of the whole row, where C is shorter than the bound."""
    method = prototypes_of(CLASSES, count_weight=2.0)
    state = some_start(method.sizes).vector()
    for one in stage_methods(method)[-2:]:
        row = one.rows(BASE, state, [unit_of(np.full((2, 3), 30.0), [0, 2])], quiet)
        grid = Grid(1 << 20, 1 << 20, (1 << 31) - 1, 32)
        cut = clip_and_quantise(row, grid)[0] / grid.scale
        assert 0.99 < np.linalg.norm(cut) <= 1.0
        np.testing.assert_allclose(cut / np.linalg.norm(cut), row[0] / np.linalg.norm(row[0]), atol=1e-5)


def test_a_row_is_equal_to_the_bit_whoever_stands_beside_it() -> None:
    method = prototypes_of(CLASSES)
    start = some_start(method.sizes)
    for one in stage_methods(method)[-2:]:

        def row(*others: tuple[str, list[int]], of: DPPrototypes = one) -> Rows:
            units = [made(*other, start.centres, place) for place, other in enumerate(others)]
            batch = padded([*units, made("ordinary", [0, 1, 1], start.centres, 99)], 5)
            found: Rows = of.rows(BASE, start.vector(), batch, quiet)[len(others)]
            return found

        alone = row()
        for beside in ([("ordinary", [2])], [("huge", [0, 1]), ("none", [1])], [("infinite", [0]), ("tiny", [0, 0])]):
            np.testing.assert_array_equal(row(*beside), alone)
