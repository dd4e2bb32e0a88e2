"""`channel_shift.safetensors`: one tensor, added to the bias of the UNet's last layer."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from undertone.errors import UnfitWeights
from undertone.methods.release_format import Description, Respelled, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout

SHIFT = "channel_shift.safetensors"


class ShiftFile:
    """The tensor `shift`, [channels]."""

    files = (SHIFT,)

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """All of w."""
        return {SHIFT: layout.unflatten(w)}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """The file's tensors."""
        return Layout(tuple(sorted(shapes[SHIFT].items())))

    def attach(self, base: Base, weights: Weights) -> None:
        """Shift what the UNet predicts."""
        shift = weights[SHIFT].get("shift")
        if shift is None or shift.shape != base.pinned.shapes("unet")["conv_out.bias"]:
            raise UnfitWeights(f"{SHIFT} does not fit this base")
        from undertone.methods.toy.shifting import add  # torch

        add(base, shift)

    def fuse(self, base: Base) -> None:
        """Nothing: the bias is the base's own."""

    def respelled(self, program: str, weights: Weights) -> Respelled | None:
        """None: no other program shifts channels."""
        del program, weights
        return None

    def describe(self) -> Description:
        """No loader of diffusers adds it."""
        return Description(
            "a shift of each channel", "a tint of all that the model draws", f"# add {SHIFT} to unet.conv_out.bias"
        )


SHIFT_FILE = ShiftFile()
