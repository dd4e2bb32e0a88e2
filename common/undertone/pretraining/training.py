"""What both training stages share: seeded weights, the learning rate's course, a progress line."""

import math
import time

import click
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def initialise(module: nn.Module, generator: torch.Generator, token_std: float = 0.1) -> None:
    """Draw all weights anew from the generator; normalisation layers keep one and zero.

    Linear and convolution layers get PyTorch's default distribution, embeddings a normal one with
    standard deviation `token_std`. The libraries' own start values come from the global generator,
    which the order of imports and calls can shift.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                bound = 1 / math.sqrt(layer.weight[0].numel())
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=token_std, generator=generator)


def cosine(optimiser: torch.optim.Optimizer, steps: int, warm_up: int = 100) -> LambdaLR:
    """A learning rate that rises for `warm_up` steps and falls to zero along a cosine at `steps`."""

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warm_up)
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return LambdaLR(optimiser, factor)


def picks(count: int, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Indices of one batch, int64 [batch], uniform over `count` images."""
    return torch.randint(count, (batch,), generator=generator)


class Progress:
    """Prints the mean loss since the last line and the time left, every `every` steps."""

    def __init__(self, stage: str, steps: int, every: int = 50) -> None:
        """Start the clock."""
        self._stage, self._steps, self._every = stage, steps, every
        self._start = time.monotonic()
        self._losses: list[float] = []

    def step(self, number: int, loss: float) -> None:
        """Record the loss of step `number`, counted from 1."""
        self._losses.append(loss)
        if number % self._every and number != self._steps:
            return
        mean = sum(self._losses) / len(self._losses)
        self._losses.clear()
        left = (time.monotonic() - self._start) / number * (self._steps - number)
        click.echo(f"{self._stage} {number}/{self._steps}  loss {mean:.4f}  left {left / 60:.1f} min")
