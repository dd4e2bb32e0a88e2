"""At fixed shapes a unit moves its row and the sum by its integers, and all else is bit-identical (PRIVACY 3, 14)."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support.unit_batches import clipped_sum, grid_for, noise, units_of
from undertone.gradients import book
from undertone.gradients.engine import GradientEngine
from undertone.models.base import load_base
from undertone.models.pinned import pin

SLOTS, DRAWS = 4, 2
CLIP = 0.05


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    torch.set_num_threads(1)
    return load_base(pin("embedded:tiny")).pipeline.unet


@pytest.fixture(params=["attention", "everything"])
def engine(request: pytest.FixtureRequest, unet: nn.Module) -> GradientEngine:
    names = [name for name, _ in unet.named_parameters()]
    return GradientEngine(unet, [n for n in names if request.param == "everything" or ".attentions." in n])


def batch_of(unet: nn.Module, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs of the units with these numbers, each from its number alone; negative numbers are dummies."""
    parts = [
        (
            noise(DRAWS, 4, 8, 8, seed=number) if number >= 0 else torch.zeros(DRAWS, 4, 8, 8),
            noise(DRAWS, 4, 8, 8, seed=100 + number) if number >= 0 else torch.zeros(DRAWS, 4, 8, 8),
            torch.tensor([abs(number) * 37 % 1000, 500]),
            noise(DRAWS, 3, unet.config.cross_attention_dim, seed=200 + number if number >= 0 else 999),
        )
        for number in numbers
    ]
    x, target, t, text = (torch.cat(column) for column in zip(*parts, strict=True))
    return x, target, t, text


def loss_of(unet: nn.Module, numbers: Sequence[int]):
    x, target, t, text = batch_of(unet, numbers)
    return lambda: (unet(x, t, encoder_hidden_states=text).sample - target).square().flatten(1).mean(1)


def rows(engine: GradientEngine, unet: nn.Module, numbers: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    found = engine.rows(loss_of(unet, numbers), units_of(*[DRAWS] * SLOTS))
    return dict(zip(numbers, found, strict=True))


NEIGHBOURS = ([3, -1, -2, -3], [3, 0, 1, 9], [2, 1, 3, 0], [7, 8, 9, 3])


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_row_and_its_norm_are_equal_to_the_bit_whoever_stands_beside_it(engine, unet, threads) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        everyone = rows(engine, unet, range(SLOTS))
        batch = units_of(*[DRAWS] * SLOTS)
        norms = engine.norms(loss_of(unet, range(SLOTS)), batch)
        for numbers in NEIGHBOURS:
            found = rows(engine, unet, numbers)
            found_norms = engine.norms(loss_of(unet, numbers), batch)
            for place, number in enumerate(numbers):
                if number in everyone:
                    np.testing.assert_array_equal(found[number], everyone[number])
                    assert found_norms[place] == norms[number]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("store", [0.0, book.STORE], ids=["ghost", "stored"])
def test_one_unit_moves_the_sum_by_its_own_integers(engine, unet, store, monkeypatch) -> None:
    """Taken out, put elsewhere, beside others: to the last integer, and none is longer than C."""
    monkeypatch.setattr(book, "STORE", store)
    scale, clip_units = grid_for(CLIP)
    batch = units_of(*[DRAWS] * SLOTS)

    def total(numbers: Sequence[int], counted: Sequence[bool] | None = None) -> NDArray[np.int64]:
        return engine.clipped_sum(loss_of(unet, numbers), batch, scale=scale, clip_units=clip_units, counted=counted)

    assert (engine.norms(loss_of(unet, range(SLOTS)), batch) > CLIP).all()  # every unit is clipped
    alone = total([-1, -2, 1, -3], [False, False, True, False])
    assert (0.99 * clip_units) ** 2 <= sum(int(value) ** 2 for value in alone) <= clip_units**2
    np.testing.assert_array_equal(total([0, 1, 2, 3]) - total([0, -1, 2, 3], [True, False, True, True]), alone)
    np.testing.assert_array_equal(total([9, 2, 7, 1]) - total([2, 9, -4, 7], [True, True, False, True]), alone)


@pytest.mark.parametrize("store", [0.0, book.STORE], ids=["ghost", "stored"])
def test_the_length_of_a_clipped_unit_is_just_below_the_bound(engine, unet, store, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", store)
    for number in range(SLOTS):
        total = clipped_sum(engine, loss_of(unet, [number]), units_of(DRAWS), CLIP)
        assert 0.997 * CLIP <= np.linalg.norm(total) <= CLIP
