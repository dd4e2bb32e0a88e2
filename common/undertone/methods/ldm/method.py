"""`dp-ldm`: DP-SGD on whole transformer blocks and the conditioning embedder (DP-LDM, arXiv 2305.15759).

Trained is every parameter of the named blocks: norms, projections, self- and cross-attention, feed-forward; and, with
`embedder`, of the text encoder. That is what the authors' code trains, not q, k and v alone.
w is the *difference* to the base, so it starts at zero and AdamW decays towards the base. The release is that
difference, `delta.safetensors`; `undertone export` makes a whole pipeline of it.
"""

import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.bounds import ITEMS, NAME
from undertone.core.config import Section
from undertone.errors import StudyError
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.gradient.options import GradientOptions
from undertone.methods.ldm.release import DIFFERENCE_FILE
from undertone.methods.release_format import ReleaseFormat, Shapes
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch

ALL = "all"
_BLOCK = re.compile(r"(.+\.attentions\.\d+)\..+")


class DPLDMOptions(GradientOptions):
    """[method] keys of dp-ldm. `blocks`: "all", or names such as "up_blocks", "up_blocks.1", "mid_block"."""

    blocks: list[Annotated[str, Field(max_length=NAME)]] = Field(default=[ALL], min_length=1, max_length=ITEMS)
    embedder: bool = True


class DPLDM(GradientMethod):
    """The method `dp-ldm`; see the module's description."""

    name: ClassVar[str] = "dp-ldm"
    options_type: ClassVar[type[Section]] = DPLDMOptions
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (DIFFERENCE_FILE,)
    options: DPLDMOptions

    def layout(self, base: PinnedBase) -> Layout:
        """The trained tensors, named `unet.` and `text_encoder.` and their names in those parts.

        Raises:
            StudyError: a block is not there; the message names those that are.
        """
        return block_layout(base.shapes("unet"), base.shapes("text_encoder"), self.options)

    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        return np.zeros(self.layout(base).size, dtype=np.float32)

    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        from undertone.methods.ldm.blocks import TrainedBlocks  # torch

        return TrainedBlocks(base, self.layout(base.pinned), w)


def block_layout(unet: Shapes, text_encoder: Shapes, options: DPLDMOptions) -> Layout:
    """Every tensor of the chosen blocks and, with `embedder`, of the text encoder, in the order of their names.

    Raises:
        StudyError: see `DPLDM.layout`.
    """
    found = {name: match.group(1) for name in unet if (match := _BLOCK.fullmatch(name))}
    known = sorted(set(found.values()))
    chosen = {block for wanted in options.blocks for block in _named(wanted, known)}
    tensors = [(f"unet.{name}", unet[name]) for name, block in sorted(found.items()) if block in chosen]
    if options.embedder:
        # Old files keep the numbers 0, 1, 2, ... of the positions beside the weights.
        weights = {name: shape for name, shape in text_encoder.items() if not name.endswith("position_ids")}
        tensors += [(f"text_encoder.{name}", shape) for name, shape in sorted(weights.items())]
    return Layout(tuple(tensors))


def _named(wanted: str, known: list[str]) -> list[str]:
    """The blocks called `wanted`, or lying within it."""
    named = [block for block in known if wanted == ALL or f"{block}.".startswith(f"{wanted}.")]
    if not named:
        raise StudyError(f'method.blocks: the UNet has no transformer block "{wanted}"; it has {", ".join(known)}')
    return named
