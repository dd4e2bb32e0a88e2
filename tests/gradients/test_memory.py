"""What is kept between the backward pass and the sum follows the activations, never units x parameters."""

import pytest
import torch
from torch import nn

from tests.support.unit_batches import noise, units_of
from undertone.gradients.book import STORE, Book
from undertone.gradients.coverage import cover

UNITS = 8
BATCH = units_of(*[1] * UNITS)
WIDE = {
    "linear": (nn.Linear(256, 256), (4, 256), (4, 256)),
    "conv": (nn.Conv2d(64, 64, 3, padding=1), (64, 4, 4), (64, 4, 4)),
    "embedding": (nn.Embedding(4096, 8), (4,), (4, 8)),
}


@pytest.mark.parametrize(("layer", "input_shape", "output_shape"), WIDE.values(), ids=WIDE)
def test_large_layers_store_no_gradient_per_unit(layer, input_shape, output_shape) -> None:
    x, g = noise(UNITS, *input_shape), noise(UNITS, *output_shape)
    x = x.abs().long() if isinstance(layer, nn.Embedding) else x
    (trained,) = cover(layer, ["weight"])
    entries = Book(BATCH, torch.device("cpu"), whole=False)
    entries.enter(trained, x, g)
    assert not entries.stored
    whole = Book(BATCH, torch.device("cpu"), whole=True)
    whole.enter(trained, x, g)
    assert whole.stored[0].numel() == UNITS * layer.weight.numel() > STORE * (x.numel() + g.numel())


def test_a_small_models_gradients_are_stored_and_their_lengths_are_known() -> None:
    layer, input_shape, output_shape = WIDE["conv"]
    x, g = noise(UNITS, *input_shape), noise(UNITS, *output_shape)
    (trained,) = cover(layer, ["weight"])
    few = Book(BATCH, torch.device("cpu"), whole=False, few=True)
    few.enter(trained, x, g)
    assert few.stored[0].numel() == UNITS * layer.weight.numel()
    kept = Book(BATCH, torch.device("cpu"), whole=False)
    kept.enter(trained, x, g)
    torch.testing.assert_close(few.norms(), kept.norms(), rtol=1e-4, atol=0)


def test_small_layers_store_less_than_they_would_keep() -> None:
    layer, x, g = nn.Linear(8, 8), noise(UNITS, 64, 8), noise(UNITS, 64, 8)
    (trained,) = cover(layer, ["weight"])
    entries = Book(BATCH, torch.device("cpu"), whole=False)
    entries.enter(trained, x, g)
    assert 0 < entries.stored[0].numel() <= STORE * (x.numel() + g.numel())
