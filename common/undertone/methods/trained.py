"""Three things to train in a loaded base: a word, LoRA adapters, whole blocks. Each is put in and taken out again.

The base is shared by all requests of a process, so a context that ends leaves it as it was.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig
from torch import Tensor, nn

from undertone.gradients.engine import GradientEngine, LossPerRow, UnitBatch
from undertone.gradients.integers import IntegerSum, clipped_integers
from undertone.layout import Layout
from undertone.methods.unit_gradients import token_ids
from undertone.models.base import LoadedBase
from undertone.models.tokens import RowTokens

_ADAPTER = "undertone"


class TrainedToken:
    """A shared token embedding w [vectors, width]. Each unit reads a copy of its own, whose gradient is its row."""

    def __init__(self, base: LoadedBase, token: str, w: NDArray[np.float32]) -> None:
        self._tokens = RowTokens(base, token, len(w))
        self._encoder = base.pipeline.text_encoder
        self._w = torch.from_numpy(w.copy()).to(base.device)
        self._copies = self._w

    def __enter__(self) -> Self:
        """Nothing to put in: copies are made for each batch."""
        return self

    def __exit__(self, *_exc: object) -> None:
        self._copies = self._w

    def text(self, captions: Sequence[str], batch: UnitBatch) -> Tensor:
        """Text states with each unit's copy in place of the token."""
        self._copies = self._w.expand(batch.units, *self._w.shape).clone().requires_grad_(True)
        with self._tokens.bound(self._copies[batch.unit_of_row.to(self._w.device)]):
            states: Tensor = self._encoder(self._tokens.tokenise(captions))[0]
        return states

    def gradients(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float32]:
        """Each unit's gradient, [units, vectors * width]: no row of the model reads another unit's copy."""
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


class _ByEngine:
    """What the gradient engine finds in the tensors that it trains; it is there while the context is open."""

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


class TrainedLora(_ByEngine):
    """LoRA adapters of peft in the UNet, with w's A and B in them."""

    def __init__(self, base: LoadedBase, layout: Layout, w: NDArray[np.float32], rank: int, alpha: int) -> None:
        self._base, self._values = base, layout.unflatten(w)
        layers = sorted({name.removeprefix("unet.").rsplit(".lora_", 1)[0] for name in self._values})
        self._config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)

    def __enter__(self) -> Self:
        """Put the adapters in; they alone ask for gradients."""
        unet = self._base.pipeline.unet
        unet.add_adapter(self._config, adapter_name=_ADAPTER)
        named = dict(unet.named_parameters())
        with torch.no_grad():
            for name, value in self._values.items():
                named[_inside(name)].copy_(torch.from_numpy(np.array(value)))
        self._engine = GradientEngine(nn.ModuleDict({"unet": unet}), [f"unet.{_inside(name)}" for name in self._values])
        return self

    def __exit__(self, *_exc: object) -> None:
        del self._engine
        self._base.pipeline.unet.unload_lora()
        self._base.pipeline.unet.requires_grad_(False)

    def text(self, captions: Sequence[str], batch: UnitBatch) -> Tensor:
        """Text states of the frozen encoder."""
        del batch
        return _frozen_text(self._base, captions)


class TrainedBlocks(_ByEngine):
    """Whole blocks of the UNet, and the text encoder where the layout names it, moved by w."""

    def __init__(self, base: LoadedBase, layout: Layout, w: NDArray[np.float32]) -> None:
        self._base, self._differences = base, layout.unflatten(w)
        parts = {"unet": base.pipeline.unet, "text_encoder": base.pipeline.text_encoder}
        self._model = nn.ModuleDict({part: module for part, module in parts.items() if _has(layout, part)})
        named = dict(self._model.named_parameters())
        self._parameters = {name: named[name] for name in self._differences}
        self._originals: dict[str, Tensor] = {}

    def __enter__(self) -> Self:
        """Move the parameters; they alone ask for gradients."""
        for name, parameter in self._parameters.items():
            self._originals[name] = parameter.data
            difference = torch.from_numpy(np.array(self._differences[name])).to(parameter.device)
            parameter.data = parameter.data + difference
            parameter.requires_grad_(True)
        self._engine = GradientEngine(self._model, list(self._parameters))
        return self

    def __exit__(self, *_exc: object) -> None:
        del self._engine
        for name, original in self._originals.items():
            self._parameters[name].data = original
            self._parameters[name].requires_grad_(False)

    def text(self, captions: Sequence[str], batch: UnitBatch) -> Tensor:
        """Text states, of the encoder in training where the layout names it."""
        del batch
        if "text_encoder" not in self._model:
            return _frozen_text(self._base, captions)
        ids = token_ids(self._base, captions)
        # Each row its own positions: the encoder's default is one row for all, whose gradient would be the batch's.
        positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
        states: Tensor = self._base.pipeline.text_encoder(ids, position_ids=positions)[0]
        return states


def _inside(name: str) -> str:
    """A released LoRA tensor's name -> its parameter's inside the UNet."""
    return name.removeprefix("unet.").removesuffix("weight") + f"{_ADAPTER}.weight"


def _has(layout: Layout, part: str) -> bool:
    return any(name.startswith(f"{part}.") for name, _ in layout.tensors)


@torch.no_grad()
def _frozen_text(base: LoadedBase, captions: Sequence[str]) -> Tensor:
    states: Tensor = base.pipeline.text_encoder(token_ids(base, captions))[0]
    return states
