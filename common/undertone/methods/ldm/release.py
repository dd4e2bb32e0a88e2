"""`delta.safetensors`: what to add to tensors of the base; `undertone export` makes a whole pipeline of both."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from undertone.core.text import shown
from undertone.errors import UnfitWeights
from undertone.methods.release_format import Description, Respelled, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout

DELTA = "delta.safetensors"


class DifferenceFile:
    """Differences to the base's tensors, named `unet.` or `text_encoder.` and their names in those parts."""

    files = (DELTA,)

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """The layout's tensors, as they are."""
        return {DELTA: layout.unflatten(w)}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """The UNet's tensors, then the text encoder's, each in the order of their names."""
        return Layout(
            tuple(sorted(shapes[DELTA].items(), key=lambda tensor: (not tensor[0].startswith("unet."), tensor[0])))
        )

    def attach(self, base: Base, weights: Weights) -> None:
        """Add each difference to the tensor that it names.

        Raises:
            UnfitWeights: the base has no such tensor, or one of another shape.
        """
        from undertone.methods.ldm.blocks import add_differences, named_parameters  # torch

        named = named_parameters(base)
        for name, array in weights[DELTA].items():
            if name not in named or named[name].shape != array.shape:
                raise UnfitWeights(
                    f"{DELTA} holds {shown(name, 80)}, which does not fit this base; use the plan's base"
                )
        add_differences(base, weights[DELTA])

    def fuse(self, base: Base) -> None:
        """Nothing: the differences are in the base's tensors already."""

    def respelled(self, program: str, weights: Weights) -> Respelled | None:
        """None: whole weights have no names of another kind."""
        del program, weights
        return None

    def describe(self) -> Description:
        """Differences that no loader of diffusers adds."""
        how = "is added to the base's weights: undertone export . --out FOLDER makes a pipeline of it"
        meaning = "a change to some of the model's own numbers: with it, the model draws images like the sites'"
        return Description("moved weights", meaning, f"# {DELTA} {how}")


DIFFERENCE_FILE = DifferenceFile()
