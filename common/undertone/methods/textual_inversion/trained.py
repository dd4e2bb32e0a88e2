"""A word that is trained: one embedding that all units share, and a copy of it for each unit's gradient."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undertone.gradients.engine import LossPerRow, UnitBatch
from undertone.gradients.integers import IntegerSum, clipped_integers
from undertone.models.interface import Base
from undertone.models.tokens import RowTokens


class TrainedToken:
    """Shared embeddings w [tokens * vectors, width]. Each unit reads a copy of its own, whose gradient is its row."""

    def __init__(self, base: Base, tokens: Sequence[str], w: NDArray[np.float32]) -> None:
        self._tokens = RowTokens(base, tokens, len(w) // len(tokens))
        self._encoder = base.pipeline.text_encoder
        self._w = torch.from_numpy(w.copy()).to(base.device)
        self._copies = self._w

    def __enter__(self) -> Self:
        """Nothing to put in: copies are made for each batch."""
        return self

    def __exit__(self, *_exc: object) -> None:
        self._copies = self._w

    def condition(self, captions: Sequence[str], batch: UnitBatch) -> Tensor:
        """Text states with each unit's copies in place of the tokens."""
        self._copies = self._w.expand(batch.units, *self._w.shape).clone().requires_grad_(True)
        with self._tokens.bound(self._copies[batch.unit_of_row.to(self._w.device)]):
            states: Tensor = self._encoder(self._tokens.tokenise(captions))[0]
        return states

    def gradients(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float32]:
        """Each unit's gradient, [units, tokens * vectors * width]: no row of the model reads another unit's copy."""
        loss = (losses() * batch.weight_of_row.to(self._w)).sum()
        (found,) = torch.autograd.grad(loss, self._copies)
        return found.reshape(batch.units, -1).cpu().numpy()

    def norms(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float64]:
        """From the rows themselves, which are short."""
        found: NDArray[np.float64] = np.linalg.norm(self.gradients(losses, batch).astype(np.float64), axis=1)
        return np.nan_to_num(found, nan=np.inf)

    def clipped_sum(
        self, losses: LossPerRow, batch: UnitBatch, *, scale: int, clip_units: int, counted: Sequence[bool]
    ) -> NDArray[np.int64]:
        """From the rows themselves, which are short."""
        rows = torch.from_numpy(self.gradients(losses, batch))

        def fill(total: IntegerSum) -> None:
            total.add(0, slice(0, batch.units), 0, rows * total.factors[:, None])

        norms = torch.linalg.vector_norm(rows.double(), dim=1).nan_to_num(nan=torch.inf)
        return clipped_integers(fill, norms, [rows.shape[1]], scale, clip_units, counted)


def load_words(base: Base, words: Mapping[str, NDArray[np.float32]]) -> None:
    """Put words into the pipeline's tokenizer and encoder, with diffusers' own loader."""
    base.pipeline.load_textual_inversion([{name: torch.from_numpy(np.array(word))} for name, word in words.items()])
