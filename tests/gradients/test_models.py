"""Whole models: embedded:tiny's UNet and text encoder, peft's LoRA, gradient checkpointing, half precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.unit_batches import NORM_TOLERANCE, assert_agrees, clipped_sum, noise, relative, rows_in, units_of
from undertone.gradients.clipping import MARGIN
from undertone.gradients.engine import GradientEngine, LossPerRow, UnitBatch
from undertone.gradients.fallback import rows_by_opacus
from undertone.gradients.oracle import clip_and_sum, rows_one_at_a_time
from undertone.models.base import load_base
from undertone.models.pinned import pin

RAGGED = units_of(2, 1, 3, shuffled=True)
DRAWS = units_of(2, 2)


@pytest.fixture
def both() -> nn.ModuleDict:
    """A fresh UNet and text encoder of embedded:tiny."""
    torch.set_num_threads(1)
    pipeline = load_base(pin("embedded:tiny")).pipeline
    return nn.ModuleDict({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder})


def denoising(model: nn.ModuleDict, batch: UnitBatch) -> LossPerRow:
    """The loss of each row: its own latents, noise, time and tokens."""
    rows = rows_in(batch)
    latents, target = noise(rows, 4, 8, 8, seed=1), noise(rows, 4, 8, 8, seed=2)
    times = torch.linspace(20, 900, rows).long()
    tokens = torch.arange(3 * rows).reshape(rows, 3) % 7 + 1

    def loss() -> Tensor:
        text = model["text_encoder"](tokens)[0]
        predicted = model["unet"](latents, times, encoder_hidden_states=text).sample
        return (predicted.float() - target).square().flatten(1).mean(1)

    return loss


def names(model: nn.Module, wanted: Callable[[str], bool] = lambda _name: True) -> list[str]:
    return [name for name, _ in model.named_parameters() if wanted(name)]


def attention(name: str) -> bool:
    """The transformer blocks of the UNet (DP-LDM)."""
    return name.startswith("unet.") and ".attentions." in name


def add_lora(model: nn.ModuleDict) -> None:
    """Adapters on attention and on convolutions; B is not zero, so that A has a gradient too."""
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in"])
    model["unet"].add_adapter(config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * noise(*parameter.shape, seed=len(name))


def checkpointed(model: nn.ModuleDict) -> None:
    """Both recompute their blocks; transformers does so in training mode only (there is no dropout)."""
    model["unet"].enable_gradient_checkpointing()
    model["text_encoder"].gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()


SELECTIONS: dict[str, Callable[[str], bool]] = {
    "attention": attention,
    "everything": lambda _name: True,
    "norms and biases": lambda name: "norm" in name or name.endswith("bias"),
    "lora": lambda name: "lora_" in name,
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_embedded_model_agrees_with_the_oracle(both: nn.ModuleDict, selection: str, checkpointing: bool) -> None:
    if selection == "lora":
        add_lora(both)
    if checkpointing:
        checkpointed(both)
    assert_agrees(both, names(both, SELECTIONS[selection]), denoising(both, RAGGED), RAGGED)


def test_checkpointing_changes_no_bit_and_recomputes(both: nn.ModuleDict) -> None:
    parameters, loss = names(both), denoising(both, DRAWS)
    runs: list[int] = []
    both["unet"].down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: runs.append(1))
    engine = GradientEngine(both, parameters)
    total = clipped_sum(engine, loss, DRAWS, 0.1)
    assert len(runs) == 1
    checkpointed(both)
    again = clipped_sum(engine, loss, DRAWS, 0.1)
    assert len(runs) == 3  # once forward, once more on the way back
    np.testing.assert_array_equal(total, again)


@pytest.mark.parametrize(
    ("dtype", "selection", "checkpointing"),
    [
        (torch.bfloat16, "attention", True),
        (torch.bfloat16, "everything", False),
        (torch.bfloat16, "lora", False),
        (torch.float16, "everything", False),
        (torch.float16, "lora", True),
    ],
)
def test_half_precision(both: nn.ModuleDict, dtype: torch.dtype, selection: str, checkpointing: bool) -> None:
    """The forward pass rounds, so sums are near the oracle's; and are the sums of the gradients that it finds."""
    if selection == "lora":
        add_lora(both)
    if checkpointing:
        checkpointed(both)
    parameters, plain = names(both, SELECTIONS[selection]), denoising(both, DRAWS)
    scale = 2.0**10 if dtype == torch.float16 else 1.0
    engine = GradientEngine(both, parameters, loss_scale=scale)
    expected, _ = clip_and_sum(rows_one_at_a_time(both, parameters, plain, DRAWS), 0.1 * MARGIN)

    def half() -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return plain()

    total, norms = clipped_sum(engine, half, DRAWS, 0.1), engine.norms(half, DRAWS)
    # bfloat16 has 8 bits of mantissa, float16 11; errors of some dozens of layers add up.
    assert 1e-6 < relative(total, expected) < (0.1 if dtype == torch.bfloat16 else 0.02)
    rows = engine.rows(half, DRAWS).astype(np.float64)
    clipped, row_norms = clip_and_sum(rows, 0.1 * MARGIN)
    assert np.abs(norms / row_norms - 1).max() < NORM_TOLERANCE
    assert relative(total, clipped) < 2e-3  # values are cut to integers


def test_autocast_around_the_call_makes_no_half_precision_sums(both: nn.ModuleDict) -> None:
    parameters, plain = names(both, attention), denoising(both, DRAWS)
    engine = GradientEngine(both, parameters)

    def half() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain()

    inside = clipped_sum(engine, half, DRAWS, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outside = clipped_sum(engine, plain, DRAWS, 0.1)
    np.testing.assert_array_equal(inside, outside)


def test_the_model_is_left_as_it_was(both: nn.ModuleDict) -> None:
    loss = denoising(both, DRAWS)
    before = loss().detach()
    engine = GradientEngine(both, names(both, attention))
    clipped_sum(engine, loss, DRAWS, 0.1)
    assert all(parameter.grad is None for parameter in both.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in both.modules())
    assert {n for n, p in both.named_parameters() if p.requires_grad} == set(names(both, attention))
    torch.testing.assert_close(loss().detach(), before, rtol=0, atol=0)


def test_the_second_reference_agrees_too(both: nn.ModuleDict) -> None:
    unet = both["unet"]
    assert isinstance(unet, UNet2DConditionModel)
    parameters, loss = names(both, attention), denoising(both, RAGGED)
    hooked = rows_by_opacus(both, parameters, loss, RAGGED).astype(np.float64)
    rows = GradientEngine(both, parameters).rows(loss, RAGGED).astype(np.float64)
    assert relative(rows, hooked) < 1e-5
    assert not any(hasattr(parameter, "grad_sample") for parameter in both.parameters())
    assert not any(part.training for part in both.values())


class ConvolutionMasks(TorchDispatchMode):
    """Which gradients each backward pass of a convolution computed: (input, weight, bias)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


def test_one_forward_pass_and_no_summed_weight_gradient_that_nobody_reads(both: nn.ModuleDict) -> None:
    plain, calls = denoising(both, DRAWS), []
    engine = GradientEngine(both, names(both))

    def counted() -> Tensor:
        calls.append(1)
        return plain()

    with ConvolutionMasks() as ours:
        clipped_sum(engine, counted, DRAWS, 0.1)
    assert calls == [1]
    assert (True, False, False) in ours.seen
    assert (True, True, True) not in ours.seen
    with ConvolutionMasks() as ordinary:
        plain().sum().backward()
    assert (True, True, True) in ordinary.seen
