"""Blocks of the UNet, and what tells it what to draw, moved by w while they are trained, or by a release's differences.

Of a class embedding only the rows of a study's classes are moved, each by a tensor of its own. A row that no class has
is told to no image, so its gradient is zero, and leaving it out of w leaves every length as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from undertone.gradients.engine import GradientEngine, LossPerRow, UnitBatch
from undertone.methods.gradient.trained import EngineTrained, trained_text
from undertone.methods.ldm.names import CLASS, NULL, TABLE
from undertone.models.class_names import labels_for
from undertone.models.interface import Base
from undertone.models.layout import Layout

_UNET, _ENCODER = "unet", "text_encoder"


class TrainedBlocks(EngineTrained):
    """Whole blocks of the UNet, and the text encoder or rows of the class embedding where the layout names them.

    Args:
        base: what they are parts of.
        layout: of w.
        w: the differences, [d].
        classes: the study's, of a base that is told one.
    """

    def __init__(self, base: Base, layout: Layout, w: NDArray[np.float32], classes: Sequence[str] = ()) -> None:
        self._base, self._classes = base, classes
        self._differences = Layout(layout.tensors).unflatten(w)
        of_class = class_rows(base, classes)
        rows = [of_class[name] for name in self._differences if name in of_class]
        parts = _parts(base)
        self._model = nn.ModuleDict({part: module for part, module in parts.items() if self._has(part, rows)})
        named = dict(self._model.named_parameters())
        whole = [name for name in self._differences if name not in of_class]
        self._parameters = {name: named[name] for name in (*whole, *([f"{_UNET}.{TABLE}"] if rows else []))}
        self._places = self._places_in(rows)
        self._originals: dict[str, Tensor] = {}
        self._named = list(base.labels)

    def __enter__(self) -> Self:
        """Move the parameters; they alone ask for gradients."""
        for name, parameter in self._parameters.items():
            self._originals[name] = parameter.data
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(True)
        add_differences(self._base, self._differences, self._classes)
        self._base.name_classes(self._classes)
        self._engine = GradientEngine(self._model, list(self._parameters))
        return self

    def __exit__(self, *_exc: object) -> None:
        del self._engine
        self._base.name_classes(self._named)
        for name, original in self._originals.items():
            self._parameters[name].data = original
            self._parameters[name].requires_grad_(False)

    def condition(self, captions: Sequence[str], batch: UnitBatch) -> Tensor | None:
        """Text states, of the encoder in training where the layout names it; labels; or None."""
        del batch
        trains_text = _ENCODER in self._model
        return trained_text(self._base, captions) if trains_text else self._base.conditions(captions)

    def gradients(self, losses: LossPerRow, batch: UnitBatch) -> NDArray[np.float32]:
        """Each unit's gradient in the layout's tensors."""
        whole = super().gradients(losses, batch)
        return whole if self._places is None else whole[:, self._places]

    def clipped_sum(
        self, losses: LossPerRow, batch: UnitBatch, *, scale: int, clip_units: int, counted: Sequence[bool]
    ) -> NDArray[np.int64]:
        """The integer sum in the layout's tensors."""
        whole = super().clipped_sum(losses, batch, scale=scale, clip_units=clip_units, counted=counted)
        return whole if self._places is None else whole[self._places]

    def _places_in(self, rows: Sequence[int]) -> NDArray[np.int64] | None:
        """Where w's values lie among the parameters': all of each tensor but the last, the table, and of that `rows`.

        None: where they are all of them.
        """
        if not rows:
            return None
        *whole, table = self._parameters.values()
        before, width = sum(one.numel() for one in whole), table.shape[1]
        picked = [before + row * width + np.arange(width) for row in rows]
        return np.concatenate([np.arange(before), *picked])

    def _has(self, part: str, rows: Sequence[int]) -> bool:
        return (part == _UNET and bool(rows)) or any(one.startswith(f"{part}.") for one in self._differences)


@torch.no_grad()
def add_differences(base: Base, differences: Mapping[str, NDArray[np.float32]], classes: Sequence[str] = ()) -> None:
    """Add each difference to the tensor that it names: `unet.` or `text_encoder.` first, or a class of `classes`."""
    named = named_parameters(base, classes)
    for name, difference in differences.items():
        named[name].add_(torch.from_numpy(np.array(difference)).to(named[name].device))


def named_parameters(base: Base, classes: Sequence[str] = ()) -> dict[str, Tensor]:
    """The parameters of UNet and text encoder, by part and name, and of a class base the rows of its classes."""
    found: dict[str, Tensor] = {
        f"{part}.{name}": one for part, module in _parts(base).items() for name, one in module.named_parameters()
    }
    table = found.get(f"{_UNET}.{TABLE}")
    return found if table is None else found | {name: table[row] for name, row in class_rows(base, classes).items()}


def class_rows(base: Base, classes: Sequence[str]) -> dict[str, int]:
    """Name of a tensor of w -> its row of the class embedding: of each class, and of the null label."""
    if not classes:
        return {}
    names = base.pinned.classes
    return {f"{CLASS}{name}": row for name, row in labels_for(classes, names).items()} | {NULL: len(names)}


def _parts(base: Base) -> dict[str, nn.Module]:
    parts = {_UNET: base.pipeline.unet}
    return parts | ({_ENCODER: base.pipeline.text_encoder} if _ENCODER in base.pinned.parts else {})
