"""Representation alignment (Yu et al. 2024, "REPA"): the UNet's middle learns what a picture shows.

A small UNet spends its first thousand steps on colours, and tells a star from a cross last. Here the features at its
narrowest place, of a noisy latent, are also asked to foretell those of the clean picture in the public encoder
(`undertone.evaluation.encoder`). What foretells them is dropped after training: the model stays a stock one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from undertone.core.progress import reporter
from undertone.evaluation.encoder import feature_encoder, to_encoder
from undertone.pretraining.dataset import PublicSet
from undertone.training.denoisers import Conditioned, Observed
from undertone.training.initial_weights import initialise

_BATCH = 250
_HIDDEN = 256


@dataclass(frozen=True, eq=False)
class Alignment:
    """What the middle of the UNet is to foretell: `targets` float16 [images, f, s, s], standardised; its weight."""

    targets: Tensor
    weight: float

    def observe(self, model: Conditioned, generator: torch.Generator) -> "Aligned":
        """The model and a head that foretells the targets."""
        return Aligned(model, self, generator)

    def distance(self, found: Tensor, chosen: Tensor) -> Tensor:
        """1 - cos between found features [N, f, h, w] and those of images `chosen`, averaged over places."""
        wanted = functional.adaptive_avg_pool2d(self.targets[chosen].float().to(found.device), found.shape[-1])
        return 1 - functional.cosine_similarity(found.float(), wanted, dim=1).mean()


class Aligned(Observed):
    """A model and the head that reads features off its UNet's middle."""

    def __init__(self, model: Conditioned, alignment: Alignment, generator: torch.Generator) -> None:
        """The head gets its first weights from `generator`."""
        super().__init__()
        self.model = model
        self._middle = torch.empty(0)
        channels, features = model.unet.config.block_out_channels[-1], alignment.targets.shape[1]
        self.head = nn.Sequential(nn.Conv2d(channels, _HIDDEN, 1), nn.SiLU(), nn.Conv2d(_HIDDEN, features, 1))
        initialise(self.head, generator)
        self.head.to(next(model.parameters()).device)
        model.unet.mid_block.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        self._middle = output

    def forward(self, z_t: Tensor, t: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted v [N, c, h, w] and what the middle says of the clean picture [N, f, h', w']."""
        v = self.model(z_t, t, told)
        return v, self.head(self._middle)


@torch.no_grad()
def public_targets(data: PublicSet) -> Tensor:
    """The public encoder's last maps of every image, each channel standardised: float16 [N, 112, 4, 4]."""
    found: list[Tensor] = []
    with reporter().task("features of the images", len(data.pixels)) as progress:
        for start in range(0, len(data.pixels), _BATCH):
            chunk = data.pixels[start : start + _BATCH]
            found.append(feature_encoder().body(to_encoder(chunk)).half())
            progress(len(chunk))
    maps = torch.cat(found)
    mean = maps.float().mean(dim=(0, 2, 3), keepdim=True)
    deviation = maps.float().std(dim=(0, 2, 3), keepdim=True)
    return ((maps.float() - mean) / (deviation + 1e-3)).half()
