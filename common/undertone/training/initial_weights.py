"""First weights from a seed."""

import math

import torch
from torch import nn


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
