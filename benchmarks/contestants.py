"""One training step in five ways: no privacy, ours, Opacus with hooks, Opacus ghost, vmap of torch.func.

Each is a whole step on the same rows: forward, backward, clip and sum, Adam. The learning rate is 0, so that every
round of a benchmark does the same work, and the clipped sum stays in `.grad` to be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from undertone.gradients.engine import GradientEngine, UnitBatch

CLIP = 0.05
SCALE = 1 << 26  # of the integers that our sums consist of
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Noisy latents, timesteps, tokens or text states, and the target, each [rows, ...]."""


class Denoiser(nn.Module):
    """The UNet, and the text encoder where it is trained too, as one model: [rows, ...] -> [rows, 4, h, w]."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, latents: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """The predicted noise."""
        if self.text_encoder is not None:
            # Position numbers for each row, or Opacus would find one position gradient for the whole batch.
            places = torch.arange(text.shape[1], device=text.device).expand_as(text)
            text = self.text_encoder(text, position_ids=places)[0]
        return self.unet(latents, times, encoder_hidden_states=text).sample


@dataclass(frozen=True)
class Case:
    """What is trained, on which rows; `draws` rows belong to each unit."""

    build: Callable[[], Denoiser]
    trained: Callable[[str], bool]
    inputs: Inputs
    draws: int = 1

    def model(self) -> tuple[Denoiser, list[str]]:
        """A fresh model in which exactly the trained parameters require gradients, and their names."""
        model = self.build().train()  # Opacus asks for training mode; there is no dropout
        names = [name for name, _ in model.named_parameters() if self.trained(name)]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model, names


def row_losses(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared error of each row, [rows]."""
    return (predicted - target).square().flatten(1).mean(1)


def _adam(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.0)


Step = Callable[[], list[nn.Parameter]]
"""Does one step and returns the trained parameters, with what the optimiser was given in `.grad`."""


def not_private(case: Case) -> Step:
    """Forward, backward, Adam."""
    model, names = case.model()
    trained = [dict(model.named_parameters())[name] for name in names]
    adam, (*inputs, target) = _adam(trained), case.inputs

    def step() -> list[nn.Parameter]:
        adam.zero_grad()
        (row_losses(model(*inputs), target).sum() / case.draws).backward()
        adam.step()
        return trained

    return step


def ours(case: Case) -> Step:
    """The gradient engine, and the same Adam with the sum."""
    model, names = case.model()
    engine = GradientEngine(model, names)
    trained = [dict(model.named_parameters())[name] for name in names]
    adam, (*inputs, target) = _adam(trained), case.inputs
    rows, units = len(target), len(target) // case.draws
    weight = torch.full((rows,), 1 / case.draws, dtype=torch.float64)
    batch = UnitBatch(torch.arange(rows) // case.draws, weight, units)

    def step() -> list[nn.Parameter]:
        total = engine.clipped_sum(
            lambda: row_losses(model(*inputs), target), batch, scale=SCALE, clip_units=int(CLIP * SCALE)
        )
        flat = torch.from_numpy(total / SCALE).to(target.device, torch.float32)
        for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = part.view_as(parameter)
        adam.step()
        return trained

    return step


def opacus_hooks(case: Case) -> Step:
    """GradSampleModule and DPOptimizer without noise."""
    model, names = case.model()
    trained = [dict(model.named_parameters())[name] for name in names]
    wrapped = GradSampleModule(model, loss_reduction="sum")
    adam = DPOptimizer(
        _adam(trained), noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=None, loss_reduction="sum"
    )
    *inputs, target = case.inputs

    def step() -> list[nn.Parameter]:
        adam.zero_grad()
        row_losses(wrapped(*inputs), target).sum().backward()
        adam.step()
        return trained

    return step


def opacus_ghost(case: Case) -> Step:
    """Fast gradient clipping with ghost norms: two backward passes."""
    model, names = case.model()
    trained = [dict(model.named_parameters())[name] for name in names]
    wrapped = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=CLIP, use_ghost_clipping=True
    )
    adam = DPOptimizerFastGradientClipping(
        _adam(trained), noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=None, loss_reduction="sum"
    )
    *inputs, target = case.inputs

    def step() -> list[nn.Parameter]:
        adam.zero_grad()
        losses = row_losses(wrapped(*inputs), target)
        DPTensorFastGradientClipping(wrapped, adam, losses, loss_reduction="sum").backward()
        adam.step()
        return trained

    return step


def torch_vmap(case: Case, chunk: int = 4) -> Step:
    """vmap(grad(loss of one unit)) in chunks of units, then clip and sum."""
    model, names = case.model()
    named = dict(model.named_parameters())
    trained = {name: named[name] for name in names}
    frozen = {name: p.detach() for name, p in named.items() if name not in trained} | dict(model.named_buffers())
    adam = _adam(list(trained.values()))
    by_unit = [value.unflatten(0, (-1, case.draws)) for value in case.inputs]

    def loss(chosen: dict[str, Tensor], *unit: Tensor) -> Tensor:
        *inputs, target = unit
        return row_losses(functional_call(model, (chosen, frozen), tuple(inputs)), target).mean()

    gradients = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))

    def step() -> list[nn.Parameter]:
        chosen = {name: p.detach() for name, p in trained.items()}
        adam.zero_grad(set_to_none=False)
        for parameter in trained.values():
            parameter.grad = torch.zeros_like(parameter)
        for start in range(0, len(by_unit[0]), chunk):
            found = gradients(chosen, *(value[start : start + chunk] for value in by_unit))
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in found.values()]).norm(dim=0)
            factors = (CLIP / norms).clamp(max=1.0)
            for name, g in found.items():
                trained[name].grad += (factors @ g.flatten(1)).view_as(trained[name])
        adam.step()
        return list(trained.values())

    return step


CONTESTANTS: dict[str, Callable[[Case], Step]] = {
    "ours": ours,
    "no privacy": not_private,
    "opacus hooks": opacus_hooks,
    "opacus ghost": opacus_ghost,
    "torch.func vmap": torch_vmap,
}
ONE_ROW_EACH = ("opacus hooks", "opacus ghost")
"""These know no groups of rows: they stay out of cases with several draws."""
