"""Rows become integers of bounded norm, one at a time, whatever they hold."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from undertone.errors import MechanismViolation, StudyError
from undertone.privacy import quantise
from undertone.privacy.quantise import Grid, choose_grid, clip_and_quantise, from_ring, site_sum, to_ring
from undertone.privacy.stages import Contributions

# C = 1, and a clamp so low that it cuts as soon as two rows agree.
TIGHT = Grid(scale=1024, clip_units=1024, site_clamp=700, modulus_bits=32)
FINE = Grid(scale=1 << 40, clip_units=(1 << 22) - 3, site_clamp=1 << 28, modulus_bits=32)
COARSE = Grid(scale=1, clip_units=1 << 20, site_clamp=1 << 24, modulus_bits=32)
GRIDS = [TIGHT, FINE, COARSE]

Rows = NDArray[np.float64]
shapes = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
any_rows = st.one_of(
    arrays.arrays(np.float64, shapes, elements=st.floats(allow_nan=True, allow_infinity=True)),
    arrays.arrays(np.float32, shapes, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    arrays.arrays(np.float64, shapes, elements=st.floats(-3, 3)),
)


def exact_norm_squared(row: NDArray[np.int64]) -> int:
    return sum(int(q) ** 2 for q in row)


def oracle_row(row: list[float], grid: Grid) -> list[Fraction]:
    """s * clip(x) without rounding or cutting, to 60 digits."""
    exact = [Fraction(x) for x in row]
    target = Fraction(grid.clip_units, grid.scale) * (1 - Fraction(1, 1024))
    squared = sum(x * x for x in exact)
    if squared > target * target:
        shift = 10**60
        inverse = Fraction(math.isqrt(int(target * target / squared * shift * shift)), shift)
        exact = [x * inverse for x in exact]
    return [x * grid.scale for x in exact]


@pytest.mark.parametrize("grid", GRIDS)
@given(rows=any_rows)
def test_no_row_is_longer_than_the_bound(grid: Grid, rows: Rows) -> None:
    quantised = clip_and_quantise(rows, grid)
    assert quantised.dtype == np.int64
    assert quantised.shape == rows.shape
    assert all(exact_norm_squared(row) <= grid.clip_units**2 for row in quantised)


@pytest.mark.parametrize("grid", GRIDS)
@given(rows=arrays.arrays(np.float64, shapes, elements=st.floats(-1e30, 1e30)))
def test_rows_agree_with_exact_fractions(grid: Grid, rows: Rows) -> None:
    for row, quantised in zip(rows, clip_and_quantise(rows, grid), strict=True):
        for exact, q in zip(oracle_row(row.tolist(), grid), quantised.tolist(), strict=True):
            # A float may land on the other side of an integer; nothing more.
            near_an_integer = abs(exact - round(exact)) < Fraction(1, 10**6)
            assert q == math.trunc(exact) or (near_an_integer and abs(q - exact) < 1 + Fraction(1, 10**6))


@pytest.mark.parametrize("grid", GRIDS)
@given(rows=any_rows, index=st.integers(0, 5))
def test_one_unit_moves_the_clamped_sum_by_at_most_delta(grid: Grid, rows: Rows, index: int) -> None:
    without = np.delete(rows, index % rows.shape[0], axis=0)
    with np.errstate(all="ignore"):
        everyone, others = (site_sum(Contributions(part.astype(np.float32)), grid) for part in (rows, without))
    assert everyone.sensitivity.l2 == grid.clip_units
    assert exact_norm_squared(everyone.values - others.values) <= grid.clip_units**2
    assert int(np.abs(everyone.values).max()) <= grid.site_clamp


def test_the_clamp_is_active_in_that_test() -> None:
    total = site_sum(Contributions(np.full((3, 2), 0.5, dtype=np.float32)), TIGHT)
    assert total.values.tolist() == [700, 700]
    assert site_sum(Contributions(np.full((3, 2), -0.5, dtype=np.float32)), TIGHT).values.tolist() == [-700, -700]


@given(rows=any_rows)
def test_a_row_does_not_depend_on_its_neighbours_or_on_memory_layout(rows: Rows) -> None:
    together = clip_and_quantise(rows, FINE)
    alone = np.concatenate([clip_and_quantise(rows[i : i + 1], FINE) for i in range(len(rows))])
    assert np.array_equal(together, alone)
    assert np.array_equal(together, clip_and_quantise(np.asfortranarray(rows), FINE))
    assert np.array_equal(together[::-1], clip_and_quantise(rows[::-1], FINE))


def test_long_rows_do_not_depend_on_their_neighbours_either() -> None:
    # Long enough for numpy to sum in blocks, where the order could differ between shapes.
    rows = np.random.default_rng(1).normal(size=(5, 20_011)).astype(np.float32)
    together = clip_and_quantise(np.asfortranarray(rows), FINE)
    assert all(np.array_equal(together[i], clip_and_quantise(rows[i : i + 1].copy(), FINE)[0]) for i in range(5))


@pytest.mark.parametrize("grid", GRIDS)
@given(rows=any_rows)
def test_values_never_raise_or_warn(grid: Grid, rows: Rows) -> None:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        clip_and_quantise(rows, grid)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.0, 0.0], [0, 0]),
        ([-0.0, 0.0], [0, 0]),
        ([math.nan, 0.5], [0, 0]),
        ([math.inf, 0.5], [0, 0]),
        ([0.5, -math.inf], [0, 0]),
        ([1e300, 0.0], [1023, 0]),
        ([1.7e308, -1.7e308], [723, -723]),
        ([5e-324, -5e-324], [0, 0]),
        ([0.9999 / 1024, -0.9999 / 1024], [0, 0]),
        ([1.0, 0.0], [1023, 0]),
        ([1 - 2.0**-10, 0.0], [1023, 0]),
        ([-0.75, 0.25], [-768, 256]),
        ([0.5 + 2.0**-11, 0.0], [512, 0]),
    ],
)
def test_edge_cases_of_the_docstring(row: list[float], expected: list[int]) -> None:
    assert clip_and_quantise(np.array([row]), TIGHT).tolist() == [expected]


def test_no_rows_and_no_columns_are_legal() -> None:
    assert clip_and_quantise(np.zeros((0, 4)), TIGHT).shape == (0, 4)
    assert clip_and_quantise(np.zeros((2, 0)), TIGHT).shape == (2, 0)
    assert site_sum(Contributions(np.zeros((0, 3), dtype=np.float32)), TIGHT).values.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("length", "expected"), [(1024.0, [1024, 0]), (1024.9, [1024, 0]), (1025.5, [1024, 0]), (1030.0, [0, 0])]
)
def test_a_row_past_the_bound_is_shrunk_once_and_then_dropped(
    length: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The float clip never lets such a row through; should it ever, the integer check must not.
    monkeypatch.setattr(quantise, "_clip", lambda vector, bound: vector)
    assert clip_and_quantise(np.array([[length / 1024, 0.0]]), TIGHT).tolist() == [expected]


def test_squares_are_summed_beyond_int64() -> None:
    # 2^20 entries of 2^22: the sum of squares is 2^64.
    assert quantise._squared_norm(np.full(1 << 20, 1 << 22, dtype=np.int64)) == 1 << 64


@given(
    clip_norm=st.floats(1e-6, 1000),
    rate=st.floats(0.001, 1),
    largest=st.integers(1, 100_000),
    sites=st.integers(1, 50),
    margin=st.integers(0, 1 << 20),
)
def test_the_grid_is_the_finest_that_fits(clip_norm: float, rate: float, largest: int, sites: int, margin: int) -> None:
    load = rate * largest + 6 * math.sqrt(rate * largest)
    clamp = (2**31 - 1 - margin) // sites
    try:
        grid = choose_grid(clip_norm, rate, largest, sites, noise_margin=lambda _: margin)
    except StudyError:
        assert 1024 * load > clamp / 2 or clip_norm * 1024 < 1
        return
    assert grid.site_clamp == clamp
    assert grid.clip_units == math.floor(Fraction(clip_norm) * grid.scale)
    assert grid.clip_norm <= clip_norm
    assert Fraction(grid.clip_norm) * grid.scale == grid.clip_units

    def fits(scale: int) -> bool:
        units = Fraction(clip_norm) * scale
        return units <= 2**22 and units * Fraction(load) <= clamp

    assert fits(grid.scale)
    assert not fits(2 * grid.scale)


def test_golden_grid() -> None:
    # Four sites of 280, everybody takes part: load 380.4, B = 536870911, so s = 2^20 and C = 1.
    assert choose_grid(1.0, 1.0, 280, 4) == Grid(1 << 20, 1 << 20, 536_870_911, 32)
    assert choose_grid(0.3, 1.0, 280, 4) == Grid(1 << 22, 1_258_291, 536_870_911, 32)


def test_six_deviations_above_the_expected_sample_must_fit() -> None:
    # B = 42949672 for 50 sites: 1024 units of C allow a load of 41943, which is N + 6 sqrt(N) at N = 40732.
    assert choose_grid(1.0, 1.0, 40_700, 50).scale == 1024
    assert choose_grid(1.0, 0.5, 2 * 40_700, 50).scale == 1024
    with pytest.raises(StudyError):
        choose_grid(1.0, 1.0, 40_800, 50)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((0.0, 1.0, 10, 3), "clip_norm"),
        ((math.nan, 1.0, 10, 3), "clip_norm"),
        ((math.inf, 1.0, 10, 3), "clip_norm"),
        ((1e7, 1.0, 10, 3), "clip_norm"),
        ((1e-300, 1.0, 10, 3), "clip_norm"),
        ((1.0, 0.0, 10, 3), "sampling_rate"),
        ((1.0, 1.1, 10, 3), "sampling_rate"),
        ((1.0, 1.0, 0, 3), "cohort.units"),
        ((1.0, 1.0, 10, 0), "cohort.units"),
        ((1.0, 1.0, 10_000_000, 3), "clip_norm"),
        ((1.0, 1.0, 10, 3, 33), "33 bits"),
        ((1.0, 1.0, 10, 3, 16), "clip_norm"),
    ],
)
def test_studies_without_a_grid_are_refused(arguments: tuple[float, float, int, int], key: str) -> None:
    with pytest.raises(StudyError, match=key):
        choose_grid(*arguments)


@pytest.mark.parametrize(
    "fields",
    [
        (3, 1024, 700, 32),
        (0, 1024, 700, 32),
        (1 << 63, 1024, 700, 32),
        (1024, 1023, 700, 32),
        (1024, (1 << 22) + 1, 700, 32),
        (1024, 1024, 0, 32),
        (1024, 1024, 1 << 31, 32),
        (1024, 1024, 700, 33),
    ],
)
def test_grids_from_a_false_plan_are_refused(fields: tuple[int, int, int, int]) -> None:
    with pytest.raises(MechanismViolation):
        Grid(*fields)


@given(st.lists(st.lists(st.integers(-(2**26), 2**26), min_size=3, max_size=3), min_size=1, max_size=16))
def test_ring_sums_come_back_signed(vectors: list[list[int]]) -> None:
    values = np.array(vectors, dtype=np.int64)
    words = np.zeros(3, dtype=np.uint32)
    for vector in values:
        words += to_ring(vector)
    assert from_ring(words, len(vectors), 2**26).tolist() == values.sum(axis=0).tolist()


def test_golden_ring_words() -> None:
    values = np.array([0, 1, -1, 2**31 - 1, -(2**31)], dtype=np.int64)
    words = to_ring(values)
    assert words.dtype == np.uint32
    assert words.tolist() == [0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000]
    assert from_ring(words, 1, 2**31).tolist() == values.tolist()


@pytest.mark.parametrize("value", [2101, -2101, 2**31 - 1, -(2**31)])
def test_a_sum_that_clamped_sites_cannot_reach_is_refused(value: int) -> None:
    words = to_ring(np.array([0, value], dtype=np.int64))
    with pytest.raises(MechanismViolation, match="did not clamp"):
        from_ring(words, 3, 700)
    assert from_ring(to_ring(np.array([2100, -2100])), 3, 700).tolist() == [2100, -2100]
