"""One unit moves the integer sum by at most s C, exactly, whatever is beside it, however floats round (PRIVACY 14)."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.unit_batches import noise, units_of
from undertone.errors import MechanismViolation
from undertone.gradients import book, integers
from undertone.gradients.engine import GradientEngine
from undertone.gradients.integers import IntegerSum, clipped_integers, equal_parts

SCALE, CLIP_UNITS = 1 << 20, 3_000_000
TOKENS = (2, 8, 64)
SIDE = {2: (2, 1), 8: (4, 2), 64: (8, 8)}
KINDS: dict[
    str, tuple[Callable[[int], nn.Module], Callable[[int], tuple[int, ...]], Callable[[int], tuple[int, ...]]]
] = {
    # the layer, the shape of its input and that of its output, by the number of tokens or pixels
    "linear": (lambda _t: nn.Linear(48, 40, bias=False), lambda t: (t, 48), lambda t: (t, 40)),
    "convolution": (
        lambda _t: nn.Conv2d(6, 8, 3, padding=1, bias=False),
        lambda t: (6, *SIDE[t]),
        lambda t: (8, *SIDE[t]),
    ),
    "grouped, strided": (
        lambda _t: nn.Conv2d(6, 8, 1, groups=2, bias=False),
        lambda t: (6, *SIDE[t]),
        lambda t: (8, *SIDE[t]),
    ),
    "embedding": (lambda _t: nn.Embedding(11, 12), lambda t: (t,), lambda t: (t, 12)),
    "group norm": (lambda _t: nn.GroupNorm(2, 6), lambda t: (6, *SIDE[t]), lambda t: (6, *SIDE[t])),
    "layer norm": (lambda _t: nn.LayerNorm(16), lambda t: (t, 16), lambda t: (t, 16)),
}


def plain(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return x, g


def cancelling(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Large terms that sum to nothing: what moved a float sum by 1.107 C."""
    half = x.shape[1] // 2
    if half and x.is_floating_point():
        x = 1e6 * torch.cat([x[:, :half], x[:, :half], x[:, 2 * half :]], dim=1)
        g = torch.cat([g[:, : g.shape[1] // 2], -g[:, : g.shape[1] // 2], g[:, g.shape[1] // 2 * 2 :]], dim=1)
    return x, g


def times(factor: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda x, g: (x * factor if x.is_floating_point() else x, g * factor)


def filled(value: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda x, g: (x, torch.full_like(g, value))


NEIGHBOURS = {
    "plain": plain,
    "cancelling": cancelling,
    "huge": times(1e15),
    "denormal": times(1e-30),
    "zero": times(0.0),
    "not a number": filled(float("nan")),
    "infinite": filled(float("inf")),
}


class Batch:
    """A layer, and for each slot an input and the gradient of its output."""

    def __init__(self, kind: str, tokens: int) -> None:
        make, self._into, self._out = KINDS[kind]
        torch.manual_seed(0)
        self.tokens, self.layer = tokens, make(tokens)
        self.engine = GradientEngine(self.layer, [name for name, _ in self.layer.named_parameters()])

    def unit(self, seed: int, change: str = "plain") -> tuple[Tensor, Tensor]:
        x, g = noise(1, *self._into(self.tokens), seed=seed), noise(1, *self._out(self.tokens), seed=seed + 1000)
        if isinstance(self.layer, nn.Embedding):
            x = (x.abs() * 1e4).long() % self.layer.num_embeddings
        return NEIGHBOURS[change](x, g)

    def sum(self, units: Sequence[tuple[Tensor, Tensor] | None]) -> np.ndarray:
        """None is an empty slot."""
        blank = tuple(torch.zeros_like(part) for part in self.unit(0))
        x, g = (torch.cat(parts) for parts in zip(*(unit or blank for unit in units), strict=True))

        def loss() -> Tensor:
            return (self.layer(x) * g).flatten(1).sum(1)

        counted = [unit is not None for unit in units]
        return self.engine.clipped_sum(
            loss, units_of(*[1] * len(units)), scale=SCALE, clip_units=CLIP_UNITS, counted=counted
        )


def length_squared(values: np.ndarray) -> int:
    return sum(int(value) ** 2 for value in values)


@pytest.mark.parametrize("store", [0.0, book.STORE, float("inf")], ids=["ghost", "either", "stored"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_unit_moves_the_sum_by_its_own_integers_whoever_its_neighbours_are(kind, store, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", store)
    for tokens in TOKENS:
        batch, places = Batch(kind, tokens), 4
        for own in NEIGHBOURS:
            unit = batch.unit(1, own)
            alone = batch.sum([unit, *[None] * (places - 1)])
            assert length_squared(alone) <= CLIP_UNITS**2
            for change in NEIGHBOURS:
                others = [batch.unit(seed, change) for seed in range(2, places + 1)]
                without = batch.sum([None, *others])
                for place in (0, places - 1):  # where it stands does not matter either
                    with_it = batch.sum([*others[:place], unit, *others[place:]])
                    np.testing.assert_array_equal(with_it - without, alone)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(TOKENS),
    st.lists(st.tuples(st.sampled_from(sorted(NEIGHBOURS)), st.integers(2, 50)), min_size=7, max_size=7),
    st.sampled_from(sorted(NEIGHBOURS)),
    st.integers(0, 7),
    st.sampled_from([0.0, 2.5, 1e9]),
)
def test_the_same_for_any_mix_of_neighbours(kind, tokens, others, own, place, store) -> None:
    before, book.STORE = book.STORE, store
    try:
        batch = Batch(kind, tokens)
        beside = [batch.unit(seed, change) for change, seed in others]
        unit = batch.unit(1, own)
        with_it = batch.sum([*beside[:place], unit, *beside[place:]])
        moved = with_it - batch.sum([*beside[place:], None, *beside[:place]])
        assert length_squared(moved) <= CLIP_UNITS**2
        np.testing.assert_array_equal(moved, batch.sum([*[None] * 5, unit, None, None]))
    finally:
        book.STORE = before


@pytest.mark.parametrize("store", [0.0, float("inf")], ids=["ghost", "stored"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.0, 1e-3, 0.99, 10.0, float("nan")], ids=str)
def test_norms_that_are_wrong_cost_signal_and_never_the_bound(kind, store, factor, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", store)
    right = book.Book.norms
    monkeypatch.setattr(book.Book, "norms", lambda self: right(self) * factor)
    batch = Batch(kind, 64)
    units = [tuple(100 * part if part.is_floating_point() else part for part in batch.unit(seed)) for seed in (1, 2, 3)]
    for unit in units:
        found = length_squared(batch.sum([unit, None, None]))
        assert found <= CLIP_UNITS**2
        if 0 < factor < 1:
            assert found >= (0.99 * CLIP_UNITS) ** 2, "lowered by what its own length says"
    together = batch.sum(units)
    np.testing.assert_array_equal(together, sum(batch.sum([unit, None, None]) for unit in units))


def test_without_the_check_in_integers_a_low_norm_breaks_the_bound(monkeypatch) -> None:
    """The mutant that this file is about."""
    right = book.Book.norms
    monkeypatch.setattr(book.Book, "norms", lambda self: right(self) * 0.5)
    monkeypatch.setattr(IntegerSum, "over", lambda self, _clip_units: torch.zeros(len(self.factors), dtype=torch.bool))
    batch = Batch("linear", 64)
    unit = tuple(100 * part for part in batch.unit(1))
    assert length_squared(batch.sum([unit])) > CLIP_UNITS**2


def fill_with(rows: Tensor) -> integers.Fill:
    return lambda total: total.add(0, slice(0, len(rows)), 0, rows * total.factors[:, None].to(rows.dtype))


def test_a_unit_that_no_factor_brings_below_the_bound_is_a_zero_row() -> None:
    """A sum that answers a lowered factor with longer rows: two tries, then nothing of that unit."""
    calls: list[list[float]] = []

    def stubborn(total: IntegerSum) -> None:
        calls.append(total.factors.tolist())
        total.add(0, slice(0, 2), 0, torch.tensor([[5000.0, 0.0], [0.0, 7.0]]))

    norms = torch.tensor([1.0, 1.0], dtype=torch.float64)
    found = clipped_integers(stubborn, norms, [2], scale=1, clip_units=1024)
    assert found.tolist() == [0, 7]
    assert len(calls) == integers.TRIES + 1
    assert calls[-1][0] == 0
    assert [factors[1] for factors in calls] == [calls[0][1]] * len(calls), "its neighbour is what it was"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=40))
def test_any_row_at_all_is_within_the_bound(values: list[float]) -> None:
    row = torch.tensor([values], dtype=torch.float32)
    for norm in (0.0, 1.0, 1e30):
        found = clipped_integers(
            fill_with(row), torch.tensor([norm], dtype=torch.float64), [len(values)], 1 << 10, 4096
        )
        assert length_squared(found) <= 4096**2


def test_values_are_cut_towards_zero_and_added_exactly() -> None:
    rows = torch.tensor([[1.9, -1.9, 0.5, -0.5], [2.0, -2.0, 1e-9, -1e-9]])
    found = clipped_integers(fill_with(rows), torch.ones(2, dtype=torch.float64), [4], 1, 1024)
    assert found.tolist() == [3, -3, 0, 0]


def test_sums_of_squares_are_exact_up_to_the_last_unit() -> None:
    """(s C)^2 is allowed and one more is not, at 2^22, where float32 would round both to the same."""
    clip_units = 1 << 22
    exact = torch.tensor([[float(clip_units), 0.0]])
    over = torch.tensor([[float(clip_units), 1.0]])
    for rows, allowed in ((exact, True), (over, False)):
        total = IntegerSum(torch.ones(1, dtype=torch.float64), [2])
        total.add(0, slice(0, 1), 0, rows)
        assert bool(total.over(clip_units)[0]) is not allowed


def test_more_than_32_bits_hold_is_refused() -> None:
    rows = torch.ones(512, 1)
    with pytest.raises(MechanismViolation, match="micro_batch of at most 511"):
        clipped_integers(fill_with(rows), torch.ones(512, dtype=torch.float64), [1], 1, 1024)
    with pytest.raises(MechanismViolation, match="32 bits"):
        clipped_integers(fill_with(rows[:1]), torch.ones(1, dtype=torch.float64), [1], 1, (1 << 22) + 1)
    largest = torch.full((511, 1), float(1 << 22))
    found = clipped_integers(fill_with(largest), torch.ones(511, dtype=torch.float64), [1], 1, 1 << 22)
    assert found.tolist() == [511 << 22]
    assert found[0] < 1 << 31


@pytest.mark.parametrize(("count", "most"), [(1, 1), (8, 3), (7, 3), (12, 5), (16, 0), (6, 100)])
def test_parts_are_of_one_size(count: int, most: int) -> None:
    parts = equal_parts(count, most)
    sizes = {part.stop - part.start for part in parts}
    assert len(sizes) == 1
    assert max(sizes) <= max(most, 1)
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(count))
