"""The book of one backward pass: what each layer said about each unit, and the rows that follow from it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from undertone.gradients.batch import UnitBatch
from undertone.gradients.coverage import TrainedLayer
from undertone.gradients.integers import IntegerSum
from undertone.gradients.rules import GhostRule, columns

STORE = 2.5
"""Per-unit gradients are stored where they are at most this many times as large as the layer's input and output
gradient, which would be kept otherwise. So memory follows the activations, never units x parameters."""

_BLOCK = 1024  # values whose squares are added in float32: a norm of millions of values would come out low


@dataclass
class _Kept:
    """A layer whose per-unit gradients are made at the end, in pieces, from its input and output gradient."""

    layer: TrainedLayer
    rule: GhostRule
    place: int
    x: Tensor
    g: Tensor


class Book:
    """Entries of one backward pass over `batch`.

    Args:
        batch: which rows belong to which unit.
        device: where the model is.
        whole: store every per-unit gradient, for `rows`.
        few: store them likewise, because all of them together are few; lengths are asked for.
    """

    def __init__(self, batch: UnitBatch, device: torch.device, *, whole: bool, few: bool = False) -> None:
        self._batch, self._whole, self._few = batch, whole, few
        self._squared = torch.zeros(batch.units, dtype=torch.float64, device=device)
        self._kept: list[_Kept] = []
        self._late: set[int] = set()
        self.stored: dict[int, Tensor] = {}
        """Per-unit gradients by place in the layout, [units, ...] float32 or wider."""
        self.reused: set[TrainedLayer] = set()
        """Layers that ran more than once: their gradients are added up before any norm."""

    def enter(self, layer: TrainedLayer, x: Tensor, g: Tensor) -> None:
        """Write down one layer: its input [rows, ...] and the gradient of its output [rows, ...]."""
        if layer.bias is not None:
            self._store(
                layer, layer.bias, [layer.rule.bias(layer.module, b.take(_wide(g))) for b in self._batch.buckets]
            )
        if layer.weight is None:
            return
        rule, module = layer.rule, layer.module
        if isinstance(rule, GhostRule) and not self._stores(layer, x, g):
            parts = [rule.squared_norm(module, b.take(_wide(x)), b.take(_wide(g))) for b in self._batch.buckets]
            self._squared += self._by_unit(parts).clamp(min=0)
            self._kept.append(_Kept(layer, rule, layer.weight, x, g))
            return
        parts = [rule.weight(module, b.take(_wide(x)), b.take(_wide(g))) for b in self._batch.buckets]
        self._store(layer, layer.weight, parts)

    def norms(self) -> Tensor:
        """Norm of each unit's whole gradient, float64 [units]; infinite if not finite.

        In float32 it can be off by a percent where terms cancel: the integers that follow are checked by themselves.
        """
        squared = self._squared.clone()
        for place in self._late:
            squared += _squares(self.stored[place])
        return torch.nan_to_num(squared.sqrt(), nan=torch.inf, posinf=torch.inf)

    def fill(self, total: IntegerSum) -> None:
        """Add every unit's row, scaled by the sum's factors, piece by piece; the book keeps what it holds."""
        for place, part in self.stored.items():
            scaled = total.factors.to(part.dtype)[:, None]
            for units, start, values in columns(slice(0, len(part)), part.flatten(1)):
                total.add(place, units, start, values * scaled)
        for kept in self._kept:
            self._fill_kept(kept, total)

    def _fill_kept(self, kept: _Kept, total: IntegerSum) -> None:
        """Make a layer's per-unit gradients from its input and output gradient; the factors go into the latter."""
        x, g = _wide(kept.x), _wide(kept.g)
        factors = total.factors[self._batch.unit_of_row.to(g.device)].to(g.dtype)
        g = g * factors.reshape(-1, *[1] * (g.dim() - 1))
        for bucket in self._batch.buckets:
            for units, start, values in kept.rule.pieces(kept.layer.module, bucket.take(x), bucket.take(g)):
                named = units if bucket.units is None else bucket.units.to(g.device)[units]
                total.add(kept.place, named, start, values)

    def _stores(self, layer: TrainedLayer, x: Tensor, g: Tensor) -> bool:
        if self._whole or self._few or layer.shared or layer in self.reused:
            return True
        weight = layer.module.get_parameter("weight")
        return weight.numel() * self._batch.units <= STORE * (x.numel() + g.numel())

    def _store(self, layer: TrainedLayer, place: int, parts: list[Tensor]) -> None:
        found = self._by_unit(parts)
        if layer.shared or layer in self.reused:
            self._late.add(place)
            self.stored[place] = self.stored[place] + found if place in self.stored else found
        else:
            self.stored[place] = found
            if not self._whole:
                self._squared += _squares(found)  # now, while the processor still holds it

    def _by_unit(self, parts: list[Tensor]) -> Tensor:
        """The buckets' answers [n, ...] put together in the order of the units, [units, ...]."""
        if len(parts) == 1 and self._batch.buckets[0].units is None:
            return parts[0]
        whole = parts[0].new_zeros(self._batch.units, *parts[0].shape[1:])
        for bucket, part in zip(self._batch.buckets, parts, strict=True):
            if bucket.units is not None:
                whole[bucket.units.to(whole.device)] = part
        return whole


def _wide(values: Tensor) -> Tensor:
    """Half precision becomes float32: norms and sums are never formed in less."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _squares(part: Tensor) -> Tensor:
    """|part|^2 of each unit, float64 [units]: in blocks, because float32 sums of millions of squares come out low."""
    flat = part.flatten(1)
    whole = flat.shape[1] // _BLOCK * _BLOCK
    blocks = flat[:, :whole].reshape(len(flat), whole // _BLOCK, _BLOCK)
    in_blocks, rest = torch.linalg.vector_norm(blocks, dim=2), torch.linalg.vector_norm(flat[:, whole:], dim=1)
    squares: Tensor = in_blocks.double().square().sum(1) + rest.double().square()
    return squares
