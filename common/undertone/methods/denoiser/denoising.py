"""The denoiser of a base: what stands around its network, its losses, and which of it w moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.gradients.engine import GradientEngine, LossPerRow, UnitBatch
from undertone.methods.denoiser.initial_weights import TABLE
from undertone.methods.denoiser.options import OF_LATENTS, OF_PIXELS, Figures
from undertone.methods.gradient.trained import EngineTrained
from undertone.methods.gradient.unit_gradients import RowLoss
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase
from undertone.training.parametrisations import (
    EDM,
    VE,
    VP,
    Continued,
    Network,
    Parametrisation,
    V,
    denoising_losses,
)


@dataclass(frozen=True)
class Scheduled:
    """What a parametrisation needs of a base: `schedule` as in `Base`."""

    pinned: PinnedBase
    schedule: Any


def parametrisation_of(base: Base | Scheduled, figures: Figures) -> Parametrisation:
    """The one that the figures name; "base" is that of the base's own schedule.

    Raises:
        ModelError: the base predicts neither noise nor v.
    """
    if figures.parametrisation == "base":
        return Continued(base.schedule.alphas_cumprod, str(base.schedule.config.prediction_type))
    if figures.parametrisation == "edm":
        sigma_data = figures.sigma_data or (OF_LATENTS if "vae" in base.pinned.parts else OF_PIXELS)
        return EDM(sigma_data, figures.log_sigma_mean, figures.log_sigma_deviation)
    others: dict[str, Parametrisation] = {"v": V(), "vp": VP(), "ve": VE()}
    return others[figures.parametrisation]


def network_of(base: Base, condition: Tensor | None) -> Network:
    """The base's UNet, told this, as a function of c_in x and c_noise."""

    def network(x: Tensor, noise: Tensor) -> Tensor:
        found: Tensor = base.predict(x, noise, condition)
        return found

    return network


def row_loss(base: Base, figures: Figures, least: float) -> RowLoss:
    """Lambda |D - x_0|^2 of each row, at noise levels from the quantile `least` on."""
    of = parametrisation_of(base, figures)

    def loss(x_0: Tensor, noise: Tensor, fractions: NDArray[np.float64], condition: Tensor | None) -> Tensor:
        u = torch.from_numpy(least + (1 - least) * fractions)
        return denoising_losses(of, network_of(base, condition), x_0, noise, u)

    return loss


class TrainedDenoiser(EngineTrained):
    """Every parameter of the UNet at w; of its class embedding the rows of a study's classes and the null label's.

    Args:
        base: told a class or nothing.
        tensors: the UNet's tensors but the class embedding, by name, in the order of the layout.
        rows: label -> its row, in the order of the layout, before those tensors; empty where it is told nothing.
        labels: a class's name, or "" -> its label.
    """

    def __init__(
        self,
        base: Base,
        tensors: Mapping[str, NDArray[np.float32]],
        rows: Mapping[int, NDArray[np.float32]],
        labels: Mapping[str, int],
    ) -> None:
        self._base, self._labels = base, labels
        self._unet, self._tensors, self._rows = base.pipeline.unet, tensors, rows
        self._originals: dict[str, Tensor] = {}

    def __enter__(self) -> Self:
        """Put w in; all of the UNet asks for gradients."""
        named = dict(self._unet.named_parameters())
        trained = [*([TABLE] if self._rows else []), *self._tensors]
        for name in trained:
            self._originals[name] = named[name].data
            fresh = named[name].data.clone() if name == TABLE else _like(self._tensors[name], named[name])
            for label, row in self._rows.items() if name == TABLE else ():
                fresh[label] = _like(row, fresh)
            named[name].data = fresh
        self._engine = GradientEngine(self._unet, trained)
        self._order = self._places(named[TABLE]) if self._rows else None
        return self

    def __exit__(self, *_exc: object) -> None:
        del self._engine
        named = dict(self._unet.named_parameters())
        for name, original in self._originals.items():
            named[name].data = original
            named[name].requires_grad_(False)

    def condition(self, captions: Sequence[str], batch: UnitBatch) -> Tensor | None:
        """The label of each row's class, int64 [rows]; None where the base is told nothing."""
        del batch
        return self.told(captions)

    def told(self, names: Sequence[str]) -> Tensor | None:
        """The label of each class, "" for none, int64 [n]; None where the base is told nothing."""
        if not self._rows:
            return None
        return torch.tensor([self._labels[name] for name in names], device=self._base.device)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What w moves, for training that is not private; the class embedding first, whole."""
        named = dict(self._unet.named_parameters())
        return [named[name] for name in self._originals]

    def moved(self) -> NDArray[np.float32]:
        """`w` as it is now, [D]."""
        whole = torch.cat([one.detach().flatten() for one in self.parameters()]).cpu().numpy()
        return whole if self._order is None else whole[self._order]

    def gradient(self, value: Tensor) -> NDArray[np.float32]:
        """D value / d w, [D], by plain autograd; zero for what the value does not depend on."""
        parameters = self.parameters()
        found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        whole = torch.cat([one.flatten() for one in found]).float().cpu().numpy()
        return whole if self._order is None else whole[self._order]

    def gradients(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float32]:
        """See `Trained`."""
        found = super().gradients(losses, batch)
        return found if self._order is None else found[:, self._order]

    def clipped_sum(
        self, losses: LossPerRow, batch: UnitBatch, *, scale: int, clip_units: int, counted: Sequence[bool]
    ) -> NDArray[np.int64]:
        """See `Trained`. Rows of no class and of other classes are zero, so that leaving them out changes no length."""
        found = super().clipped_sum(losses, batch, scale=scale, clip_units=clip_units, counted=counted)
        return found if self._order is None else found[self._order]

    def _places(self, table: Tensor) -> NDArray[np.int64]:
        """Where each value of w stands in what the engine gives, [D]."""
        count, width = table.shape
        rows = [np.arange(label * width, (label + 1) * width) for label in self._rows]
        return np.concatenate([*rows, np.arange(count * width, self._engine.d)])


def _like(values: NDArray[np.float32], beside: Tensor) -> Tensor:
    return torch.from_numpy(np.array(values)).to(beside.device)
