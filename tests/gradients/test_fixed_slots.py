"""PRIVACY 14: at fixed shapes one unit moves its own slot alone, to the bit, and the sum by no more than it may."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support.gradients import noise, units_of
from undertone.gradients import book
from undertone.gradients.engine import GradientEngine
from undertone.models.base import load_base
from undertone.models.pinned import pin

SLOTS, DRAWS = 4, 2
CLIP = 0.05
ETA = 1e-3


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    torch.set_num_threads(1)
    return load_base(pin("embedded:tiny")).pipeline.unet


@pytest.fixture(params=["attention", "everything"])
def engine(request: pytest.FixtureRequest, unet: nn.Module) -> GradientEngine:
    names = [name for name, _ in unet.named_parameters()]
    return GradientEngine(unet, [n for n in names if request.param == "everything" or ".attentions." in n])


def slots(unet: nn.Module, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    x, target, t, text = slots(unet, numbers)
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
        _, norms = engine.clipped_sum(loss_of(unet, range(SLOTS)), batch, CLIP)
        for numbers in NEIGHBOURS:
            found = rows(engine, unet, numbers)
            _, found_norms = engine.clipped_sum(loss_of(unet, numbers), batch, CLIP)
            for place, number in enumerate(numbers):
                if number in everyone:
                    np.testing.assert_array_equal(found[number], everyone[number])
                    assert found_norms[place] == norms[number]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("store", [0.0, book.STORE], ids=["ghost", "stored"])
def test_one_unit_moves_the_sum_by_at_most_the_clip_norm(engine, unet, store, monkeypatch) -> None:
    """Replace one unit by a dummy: the sum moves by its clipped row, to within eta / 10 of C."""
    monkeypatch.setattr(book, "STORE", store)
    batch = units_of(*[DRAWS] * SLOTS)
    everyone = rows(engine, unet, range(SLOTS))
    dummies = rows(engine, unet, [0, -1, 2, 3])
    with_unit, norms = engine.clipped_sum(loss_of(unet, range(SLOTS)), batch, CLIP)
    without, _ = engine.clipped_sum(loss_of(unet, [0, -1, 2, 3]), batch, CLIP)
    assert (norms > CLIP).all()  # every unit is clipped, so each adds exactly C

    def clipped(row: NDArray[np.float32]) -> NDArray[np.float64]:
        wide = row.astype(np.float64)
        return wide * min(1.0, CLIP / float(np.linalg.norm(wide)))

    moved = clipped(everyone[1]) - clipped(dummies[-1])
    assert np.linalg.norm(with_unit - without - moved) < CLIP * ETA / 10


@pytest.mark.parametrize("store", [0.0, book.STORE], ids=["ghost", "stored"])
def test_the_norm_of_a_clipped_unit_is_the_bound(engine, unet, store, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", store)
    alone = units_of(DRAWS)
    for number in range(SLOTS):
        total, _ = engine.clipped_sum(loss_of(unet, [number]), alone, CLIP)
        assert abs(np.linalg.norm(total) / CLIP - 1) < ETA / 10
