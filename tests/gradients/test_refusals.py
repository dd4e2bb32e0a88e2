"""What the engine refuses, and that it says what to do; empty batches, numbers that are not finite, bad batches."""

import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.support.unit_batches import BATCHES, clipped_sum, noise, rows_in, units_of
from undertone.errors import MechanismViolation, ModelError
from undertone.gradients import book
from undertone.gradients.engine import GradientEngine, UnitBatch
from undertone.gradients.fallback import rows_by_opacus
from undertone.gradients.oracle import rows_one_at_a_time

THREE = units_of(1, 1, 1)


def model(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), *layers)


class Bias(nn.Module):
    """A layer of a type that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Doubled(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_an_unknown_name_comes_with_the_nearest_one() -> None:
    with pytest.raises(ModelError, match=r"no parameter 0\.wieght; the nearest is 0\.weight"):
        GradientEngine(model(), ["0.wieght"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [([], "name at least one"), (["0.bias", "0.weight", "0.bias"], r"0\.bias is named twice")],
)
def test_no_name_or_a_name_twice(parameters: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        GradientEngine(model(), parameters)


def test_the_same_tensor_under_two_names() -> None:
    tied = model(nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelError, match=r"1\.weight is named twice, or is the same tensor as 0\.weight"):
        GradientEngine(tied, ["0.weight", "1.weight"])


@pytest.mark.parametrize("layer", [Bias(), Doubled(4, 4), nn.Bilinear(4, 4, 4), nn.MultiheadAttention(4, 2)])
def test_a_trained_layer_without_a_rule(layer: nn.Module) -> None:
    name = next(name for name, _ in layer.named_parameters())
    with pytest.raises(ModelError, match=rf"1 \({type(layer).__name__}: {name}.*covered are .*Conv2d"):
        GradientEngine(model(layer), ["0.weight", f"1.{name}"])
    if not isinstance(layer, nn.Bilinear | nn.MultiheadAttention):
        GradientEngine(model(layer), ["0.weight"])  # frozen, it is fine


def test_a_reparametrised_layer() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    name = "1.parametrizations.weight.original1"
    with pytest.raises(ModelError, match="cannot be trained with bounded contributions"):
        GradientEngine(model(layer), [name])


def test_a_shared_tensor_that_a_layer_without_a_rule_holds_too() -> None:
    tied = model(nn.LayerNorm(4), Bias())
    tied[2].weight = tied[1].weight
    with pytest.raises(ModelError, match=r"2 \(Bias: weight\)"):
        GradientEngine(tied, ["1.weight"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(4), "1 is batch normalisation.*GroupNorm"),
        (nn.SyncBatchNorm(4), "1 is batch normalisation"),
        (nn.BatchNorm1d(4).eval(), "1 is batch normalisation"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "track_running_stats"),
        (nn.Embedding(4, 4, max_norm=1.0), "max_norm"),
    ],
)
def test_a_layer_that_mixes_the_batch_even_if_frozen(layer: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        GradientEngine(model(layer), ["0.weight"])


def test_an_embedding_that_divides_by_counts_over_the_batch() -> None:
    with pytest.raises(ModelError, match="scale_grad_by_freq"):
        GradientEngine(nn.Sequential(nn.Embedding(4, 4, scale_grad_by_freq=True)), ["0.weight"])


def test_peft_adapters_that_use_weights_outside_a_layer() -> None:
    adapted = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], use_dora=True), model())
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    with pytest.raises(ModelError, match="lora_magnitude_vector"):
        GradientEngine(adapted, names)


def test_a_layer_that_does_not_run() -> None:
    net = model(nn.Linear(4, 4))
    engine = GradientEngine(net, ["0.weight", "1.weight"])
    with pytest.raises(ModelError, match="1 did not run as a layer"):
        clipped_sum(engine, lambda: net[0](noise(3, 4)).sum(1), THREE, 1.0)


def test_reentrant_checkpointing() -> None:
    net = model(nn.ReLU())
    engine, x = GradientEngine(net, ["0.weight"]), noise(3, 4).requires_grad_()
    with pytest.raises(ModelError, match="use_reentrant=False"):
        clipped_sum(engine, lambda: checkpoint(net, x, use_reentrant=True).sum(1), THREE, 1.0)
    total = clipped_sum(engine, lambda: checkpoint(net, x, use_reentrant=False).sum(1), THREE, 1.0)
    np.testing.assert_array_equal(total, clipped_sum(engine, lambda: net(x).sum(1), THREE, 1.0))


def test_a_loss_of_another_shape_or_without_a_path_to_the_parameters() -> None:
    net = model()
    engine = GradientEngine(net, ["0.weight"])
    with pytest.raises(ModelError, match=r"shape \(\); it must be one value for each of 3 rows"):
        clipped_sum(engine, lambda: net(noise(3, 4)).sum(), THREE, 1.0)
    with pytest.raises(ModelError, match="does not depend on any trained parameter"):
        clipped_sum(engine, lambda: net(noise(3, 4)).sum(1).detach(), THREE, 1.0)


def test_a_layer_whose_first_axis_is_not_the_rows() -> None:
    net = model()
    engine = GradientEngine(net, ["0.weight"])
    with pytest.raises(ModelError, match=r"0 got a tensor of shape \(2, 3, 4\) in a batch of 3 rows"):
        engine.rows(lambda: net(noise(2, 3, 4)).sum((0, 2)), THREE)


def test_active_dropout() -> None:
    net = model(nn.Dropout(0.5))
    engine = GradientEngine(net, ["0.weight"])
    with pytest.raises(ModelError, match="1 is active dropout"):
        clipped_sum(engine, lambda: net(noise(3, 4)).sum(1), THREE, 1.0)
    net.eval()
    assert engine.norms(lambda: net(noise(3, 4)).sum(1), THREE).shape == (3,)


def test_a_batch_without_units_is_zero_and_runs_nothing() -> None:
    empty = UnitBatch(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64), 0)
    engine = GradientEngine(model(), ["0.bias"])
    assert engine.clipped_sum(lambda: pytest.fail("it ran"), empty, scale=1, clip_units=1024).tolist() == [0] * 4
    assert engine.rows(lambda: pytest.fail("it ran"), empty).shape == (0, 4)


def test_a_unit_without_gradient_adds_zero() -> None:
    net = model()
    x = noise(3, 4)
    x[1] = 0
    engine = GradientEngine(net, ["0.weight"])

    def loss() -> Tensor:
        return net(x).square().sum(1)

    assert engine.norms(loss, THREE)[1] == 0
    without = clipped_sum(engine, loss, THREE, 1.0, [True, False, True])
    np.testing.assert_array_equal(clipped_sum(engine, loss, THREE, 1.0), without)


@pytest.mark.parametrize("store", [0.0, float("inf")], ids=["ghost", "stored"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_unit_that_is_not_finite_adds_nothing_and_harms_nobody(bad, store, monkeypatch) -> None:
    monkeypatch.setattr(book, "STORE", store)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(2), nn.Linear(4, 3))
    batch = BATCHES["ragged patients"]
    x = noise(rows_in(batch), 2, 4, 4)
    names = [name for name, _ in net.named_parameters()]

    def total_of(images: Tensor, clip_norm: float) -> tuple[np.ndarray, np.ndarray]:
        engine = GradientEngine(net, names)

        def loss() -> Tensor:
            return net(images).square().flatten(1).sum(1)

        return clipped_sum(engine, loss, batch, clip_norm), engine.norms(loss, batch)

    true = rows_one_at_a_time(net, names, lambda: net(x).square().flatten(1).sum(1), batch)
    broken = x.clone()
    broken[batch.unit_of_row == 2, 0, 0, 0] = bad
    total, norms = total_of(broken, 1000.0)
    assert np.isinf(norms[2])
    assert np.isfinite(np.delete(norms, 2)).all()
    np.testing.assert_allclose(total, true.sum(0) - true[2], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("unit", "weight", "units", "message"),
    [
        ([0, 2], [1.0, 1.0], 2, r"outside 0\.\.1"),
        ([0, -1], [1.0, 1.0], 2, r"outside 0\.\.1"),
        ([0, 0], [0.5, 0.5], 2, "a unit has no row"),
        ([0, 1], [1.0, 0.5], 2, "must sum to 1"),
        ([0, 0], [1.5, -0.5], 1, "must not be negative"),
        ([0, 1], [1.0], 2, "must be int64"),
    ],
)
def test_a_batch_that_is_no_grouping_of_rows(unit, weight, units, message) -> None:
    with pytest.raises(MechanismViolation, match=message):
        UnitBatch(torch.tensor(unit), torch.tensor(weight, dtype=torch.float64), units)


def test_the_fallback_covers_other_layers_and_says_when_it_cannot() -> None:
    torch.manual_seed(0)
    net, batch = nn.Sequential(nn.Conv1d(3, 4, 2), nn.Flatten(1), nn.Linear(8, 2)), BATCHES["ragged patients"]
    names = [name for name, _ in net.named_parameters()]

    def loss() -> Tensor:
        return net(noise(rows_in(batch), 3, 3)).square().sum(1)

    found = rows_by_opacus(net, names, loss, batch)
    np.testing.assert_allclose(found, rows_one_at_a_time(net, names, loss, batch), rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match=r"no gradient of each row for 2\.weight"):
        rows_by_opacus(net, names, lambda: net[0](noise(rows_in(batch), 3, 3)).flatten(1).sum(1), batch)


def test_the_fallback_without_opacus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)
    with pytest.raises(ModelError, match="pip install"):
        rows_by_opacus(model(), ["0.weight"], lambda: noise(3), THREE)
