"""Every layer type against the oracle: stored and ghost gradients, K draws, ragged patients, unequal weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.support.unit_batches import BATCHES, assert_agrees, noise, rows_in
from undertone.gradients import book
from undertone.gradients.coverage import RULES

Make = tuple[Callable[[], nn.Module], tuple[int, ...]]


def ids(*shape: int) -> Tensor:
    """Few ids, so that units repeat them within and between rows."""
    return torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(1))


LAYERS: dict[str, Make] = {
    "linear": (lambda: nn.Linear(5, 7), (5,)),
    "linear, sequence": (lambda: nn.Linear(5, 7), (6, 5)),
    "linear, image of tokens": (lambda: nn.Linear(5, 7, bias=False), (2, 3, 5)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 5, 6)),
    "conv, 1x1": (lambda: nn.Conv2d(4, 6, 1), (4, 5, 6)),
    "conv, stride": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 7, 6)),
    "conv, 1x1 and stride": (lambda: nn.Conv2d(4, 6, 1, stride=2, bias=False), (4, 7, 6)),
    "conv, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 5, 6)),
    "conv, depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 5, 6)),
    "conv, dilation": (lambda: nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), padding=(2, 0)), (4, 5, 6)),
    "conv, uneven": (lambda: nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(0, 1)), (4, 5, 6)),
    "conv, same": (lambda: nn.Conv2d(4, 6, (2, 3), padding="same"), (4, 5, 6)),
    "conv, reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 5, 6)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (6, 4, 5)),
    "group norm, flat": (lambda: nn.GroupNorm(2, 6), (6,)),
    "layer norm": (lambda: nn.LayerNorm(6), (3, 6)),
    "layer norm, two axes": (lambda: nn.LayerNorm((3, 6)), (4, 3, 6)),
    "layer norm, flat": (lambda: nn.LayerNorm(6, bias=False), (6,)),
    "embedding": (lambda: nn.Embedding(5, 6), ()),
    "embedding, sequence": (lambda: nn.Embedding(5, 6), (4,)),
    "embedding, padding": (lambda: nn.Embedding(5, 6, padding_idx=2), (4,)),
}


def perturbed(layer: nn.Module) -> nn.Module:
    """No parameter at its default, where errors could hide."""
    for number, parameter in enumerate(layer.parameters()):
        parameter.data += 0.3 * noise(*parameter.shape, seed=number)
    return layer


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("store", [0.0, float("inf")], ids=["ghost", "stored"])
@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_a_layer_agrees_with_the_oracle(make, shape, store, batch, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", store)
    layer = perturbed(make())
    shape = (rows_in(batch), *shape)
    x = ids(*shape) if isinstance(layer, nn.Embedding) else noise(*shape, seed=7)

    def loss() -> Tensor:
        out = layer(x)
        return (out.tanh() * noise(*out.shape, seed=9)).flatten(1).sum(1)

    assert_agrees(layer, [name for name, _ in layer.named_parameters()], loss, batch)


def test_there_is_a_case_for_every_rule() -> None:
    assert {type(make()) for make, _ in LAYERS.values()} == set(RULES)


@pytest.mark.parametrize("store", [0.0, float("inf")], ids=["ghost", "stored"])
@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("case", ["linear, sequence", "conv", "group norm", "layer norm"])
def test_weight_or_bias_alone(case, name, store, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", store)
    make, shape = LAYERS[case]
    layer, batch = perturbed(make()), BATCHES["ragged patients"]
    x = noise(rows_in(batch), *shape)
    assert_agrees(layer, [name], lambda: layer(x).tanh().flatten(1).sum(1), batch)


class Chain(nn.Module):
    """Trained and frozen layers in turn; one runs twice, two share a tensor, one speaks for all rows at once."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 6)
        self.places = nn.Embedding(4, 6)
        self.frozen = nn.Linear(6, 6)
        self.twice = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.image = nn.Conv2d(4, 3, 3, padding=1)
        self.out = nn.Linear(6, 5, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(4)[None])
        x = self.twice(self.frozen(x).relu())
        x = self.norm(self.twice(input=x).tanh())
        x = self.image(x[..., None].expand(-1, -1, -1, 6)).mean(1).relu()
        return self.out(x).tanh().flatten(1).sum(1)


CHAIN = ["norm.weight", "words.weight", "twice.weight", "image.bias", "twice.bias", "places.weight", "image.weight"]


@pytest.mark.parametrize("store", [0.0, float("inf")], ids=["ghost", "stored"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_frozen_layers_between_and_layers_that_run_twice_or_share_a_tensor(batch, store, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", store)
    torch.manual_seed(0)
    model, tokens = Chain(), ids(rows_in(batch), 4)
    assert_agrees(model, CHAIN, lambda: model(tokens), batch)
    trained = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    assert trained == {*CHAIN, "out.weight"}


@pytest.mark.parametrize("parameters", [["twice.weight"], ["out.weight", "norm.bias"], ["places.weight"]])
def test_layers_that_run_twice_or_share_a_tensor_alone(parameters, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", 0.0)
    torch.manual_seed(0)
    model, batch = Chain(), BATCHES["ragged patients"]
    tokens = ids(rows_in(batch), 4)
    assert_agrees(model, parameters, lambda: model(tokens), batch)
