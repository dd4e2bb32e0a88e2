"""`dp-ldm`: DP-SGD on whole attention blocks and the conditioning embedder (DP-LDM, arXiv 2305.15759).

Trained is every parameter of the named blocks: norms, projections, self- and cross-attention, feed-forward; and, with
`embedder`, of what tells the UNet what to draw: the text encoder, or of a base that is told a class the class
embedding, of which w holds the rows of the study's classes. That is what the authors' code trains, not q, k and v
alone. w is the *difference* to the base, so it starts at zero and AdamW decays towards the base. The release is that
difference, `delta.safetensors`; `undertone export` makes a whole pipeline of it.
"""

import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.bounds import ITEMS, NAME
from undertone.core.classes import MOST
from undertone.core.config import Section
from undertone.errors import StudyError
from undertone.methods.classed import NamesClasses, check_told, told_classes
from undertone.methods.classes import ClassShown
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.gradient.options import GradientOptions
from undertone.methods.ldm.names import CLASS, NULL, TABLE
from undertone.methods.ldm.release import CLASS_DIFFERENCE_FILE, DIFFERENCE_FILE
from undertone.methods.protocol import Draw, UnitRecords
from undertone.methods.release_format import ReleaseFormat, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch

ALL = "all"
_BLOCK = re.compile(r"(.+\.attentions\.\d+)\..+")


class DPLDMOptions(GradientOptions):
    """[method] keys of dp-ldm.

    blocks: "all", or names such as "up_blocks", "up_blocks.1", "mid_block"; embedder: what tells the UNet what to draw
    is trained too. per_class: the base is told a class; class_names: the study's, which `plan` fills in.
    """

    blocks: list[Annotated[str, Field(max_length=NAME)]] = Field(default=[ALL], min_length=1, max_length=ITEMS)
    embedder: bool = True
    per_class: bool = False
    class_names: list[Annotated[str, Field(max_length=NAME)]] = Field(default_factory=list, max_length=MOST)


class DPLDM(NamesClasses, GradientMethod):
    """The method `dp-ldm`; see the module's description."""

    name: ClassVar[str] = "dp-ldm"
    options_type: ClassVar[type[Section]] = DPLDMOptions
    needs: ClassVar[frozenset[str]] = frozenset({"unet", "scheduler"})
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (DIFFERENCE_FILE, CLASS_DIFFERENCE_FILE)
    options: DPLDMOptions

    @property
    def release_format(self) -> ReleaseFormat:
        """Differences; of a base that is told a class with a row for each class of the study, named by it."""
        return CLASS_DIFFERENCE_FILE if self.per_class else DIFFERENCE_FILE

    # --- classes ------------------------------------------------------------------------------------

    @property
    def drawn_classes(self) -> int:
        """All of the study: each row of the class embedding is as far from zero in public drawings' gradients."""
        return max(1, len(self.classes))

    def _told(self, unit: UnitRecords) -> UnitRecords:
        return told_classes(unit, self.classes) if self.per_class else unit

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """The caption before and after; where the base is told a class, nothing before: it may not know the class."""
        before, after = super().sample_prompts(caption, of)
        return "" if self.per_class else before, after

    # --- what is trained ----------------------------------------------------------------------------

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption fits the method, and what the base is told.

        Raises:
            StudyError, ModelError: with what would work.
        """
        super().check(base, caption)
        check_told(self, base, caption)

    def layout(self, base: PinnedBase) -> Layout:
        """The trained tensors: `unet.` or `text_encoder.` and their names in those parts, `class.` and a class's name.

        Raises:
            StudyError: a block is not there; the message names those that are.
        """
        encoder = base.shapes("text_encoder") if "text_encoder" in base.parts else {}
        blocks = block_layout(base.shapes("unet"), encoder, self.options)
        if not self.per_class:
            return blocks
        row = base.shapes("unet")[TABLE][1:]
        rows = tuple((f"{CLASS}{name}", row) for name in sorted(self.classes))
        if not self.options.embedder:
            return Layout(blocks.tensors, fixed=rows)
        return Layout((*blocks.tensors, *rows, *([(NULL, row)] if self._trains_null else [])))

    @property
    def _trains_null(self) -> bool:
        """The null label's row has a gradient where captions are left out, and else none."""
        return self.options.caption_dropout > 0

    def fixed(self, name: str) -> Draw | None:
        """Without `embedder` the rows of classes stay as the base has them: no difference, under the class's name."""
        if not self.per_class or self.options.embedder or not name.startswith(CLASS):
            return None
        return lambda shape: np.zeros(shape, dtype=np.float32)

    def _released(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        layout = self.layout(base)
        ((file, tensors),) = self.release_format.write(layout, w).items()
        return {file: {**tensors, **{name: np.zeros(shape, dtype=np.float32) for name, shape in layout.fixed}}}

    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        return np.zeros(self.layout(base).size, dtype=np.float32)

    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        from undertone.methods.ldm.blocks import TrainedBlocks  # torch

        return TrainedBlocks(base, self.layout(base.pinned), w, self.classes)


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
        raise StudyError(
            f'method.blocks: the UNet has no attention block "{wanted}"; it has {", ".join(known) or "none"}'
        )
    return named
