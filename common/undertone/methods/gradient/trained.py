"""What is trained in a loaded base: a context that puts w in, turns losses into gradients, and takes w out again.

The base is shared by all requests of a process, so a context that ends leaves it as it was.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.gradients.engine import GradientEngine, LossPerRow, UnitBatch
from undertone.models.interface import Base
from undertone.models.tokens import token_ids


class Trained(Protocol):
    """A loaded base with w in it: how captions become conditions, and how losses become gradients in w."""

    def condition(self, captions: Sequence[str], batch: UnitBatch) -> Tensor | None:
        """What `Base.predict` takes for each row's caption: text states [rows, positions, width], labels, or None."""

    def gradients(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float32]:
        """Each unit's gradient in the order of the layout, [units, d]."""

    def norms(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float64]:
        """Length of each unit's gradient, [units]."""

    def clipped_sum(
        self, losses: LossPerRow, batch: UnitBatch, *, scale: int, clip_units: int, counted: Sequence[bool]
    ) -> NDArray[np.int64]:
        """As `GradientEngine.clipped_sum`: the integer sum over the units that are counted, [d]."""


class EngineTrained:
    """Parameters of the base itself, whose gradients `gradients/engine.py` takes; a subclass sets `_engine`."""

    _engine: GradientEngine

    def gradients(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float32]:
        """Each unit's gradient in the trained tensors."""
        return self._engine.rows(losses, batch)

    def norms(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float64]:
        """See `Trained`."""
        return self._engine.norms(losses, batch)

    def clipped_sum(
        self, losses: LossPerRow, batch: UnitBatch, *, scale: int, clip_units: int, counted: Sequence[bool]
    ) -> NDArray[np.int64]:
        """See `Trained`."""
        return self._engine.clipped_sum(losses, batch, scale=scale, clip_units=clip_units, counted=counted)


def trained_text(base: Base, captions: Sequence[str]) -> Tensor:
    """Text states [n, positions, width] of captions, by an encoder of which something is trained.

    Each row has its own positions: the encoder's default is one row for all, whose gradient would be the batch's.
    """
    ids = token_ids(base, captions)
    positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    states: Tensor = base.pipeline.text_encoder(ids, position_ids=positions)[0]
    return states
