"""What methods share that train every parameter of the UNet of a base that is told a class or nothing. No torch here.

w are the weights themselves: [a row for each class, by name | the null label's row | the UNet's other tensors].
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.captions import fill_caption
from undertone.errors import ModelError
from undertone.methods.classed import NamesClasses, check_told
from undertone.methods.classes import ClassShown
from undertone.methods.denoiser.initial_weights import TABLE, base_weights, drawn_weights
from undertone.methods.denoiser.options import SIZE, DenoiserOptions, Figures
from undertone.methods.denoiser.release import CLASS, DENOISER_FILE, FIGURES, NULL, UNET
from undertone.methods.protocol import Draw
from undertone.methods.release_format import ReleaseFormat, Weights
from undertone.models.class_names import labels_for
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.denoiser.denoising import TrainedDenoiser  # torch
    from undertone.methods.gradient.unit_gradients import RowLoss


class WholeDenoiser(NamesClasses):
    """A whole UNet as w: its layout, its start, its release; a subclass says how noised means move it."""

    name: ClassVar[str]
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (DENOISER_FILE,)
    needs: ClassVar[frozenset[str]] = frozenset({"unet", "scheduler"})
    options: DenoiserOptions

    # --- what w is --------------------------------------------------------------------------------

    def check_denoiser(self, base: PinnedBase, caption: str) -> None:
        """The base is told what the study's captions are.

        Raises:
            ModelError: it is told text, or has too few classes.
            StudyError: a caption is more than a class's name, or there are classes and the base is told none.
        """
        self._check_kind(base)
        check_told(self, base, caption)

    def layout(self, base: PinnedBase) -> Layout:
        """A row for each class and the null label, named by them; every other tensor of the UNet; the figures.

        Raises:
            ModelError: the base is told text.
        """
        self._check_kind(base)
        shapes = base.shapes("unet")
        rows = [(name, shapes[TABLE][1:]) for name, _ in self._rows_of()]
        others = [(f"{UNET}{name}", shape) for name, shape in sorted(shapes.items()) if name != TABLE]
        return Layout((*rows, *others), fixed=((FIGURES, (SIZE,)),))

    def fixed(self, name: str) -> Draw | None:
        """How images are drawn follows from the options, and `verify` accepts nothing else."""
        if name != FIGURES:
            return None
        figures = Figures.of(self.options).as_tensor()
        return lambda shape: figures if shape == figures.shape else np.zeros(shape, dtype=np.float32)

    def _released(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """All tensors of w, and the figures by which images are drawn."""
        ((file, tensors),) = DENOISER_FILE.write(self.layout(base), w).items()
        return {file: {**tensors, FIGURES: Figures.of(self.options).as_tensor()}}

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """Before adaptation nothing is said, because the base need not know the classes; afterwards the class."""
        return "", fill_caption(caption, "", {} if of is None else of.columns) if self.per_class else ""

    def warm_start(
        self,
        base: Base,
        latents: NDArray[np.float32],
        classes: NDArray[np.int64] | None,
        steps: int,
        seed: int,
    ) -> NDArray[np.float32]:
        """`w` after ordinary training on public images from the study's start; see `methods/warm_start.py`."""
        from undertone.methods.denoiser.warm import warmed  # torch

        loss = self._loss(base)
        names = [""] * len(latents) if classes is None else [self.classes[place] for place in classes]
        with self._trained_at(base, self._start(base.pinned)) as trained:
            return warmed(trained, loss, base, latents, names, self.options.caption_dropout, steps=steps, seed=seed)

    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        shapes = base.shapes("unet")
        scratch = self.options.initial_weights == "scratch"
        held = drawn_weights(shapes, self.options.initial_seed) if scratch else base_weights(base)
        named = {f"{UNET}{name}": one for name, one in held.items() if name != TABLE}
        labels = self._labels(base)
        named |= {name: held[TABLE][labels[of]] for name, of in self._rows_of()}
        return Layout(self.layout(base).tensors).flatten(named)

    def _trained_at(self, base: Base, w: NDArray[np.float32]) -> "TrainedDenoiser":
        from undertone.methods.denoiser.denoising import TrainedDenoiser  # torch

        named, labels = self.layout(base.pinned).unflatten(w), self._labels(base.pinned)
        rows = {labels[of]: named[name] for name, of in self._rows_of()}
        tensors = {name.removeprefix(UNET): one for name, one in named.items() if name.startswith(UNET)}
        return TrainedDenoiser(base, tensors, rows, labels)

    def _loss(self, base: Base) -> "RowLoss":
        from undertone.methods.denoiser.denoising import row_loss  # torch

        return row_loss(base, Figures.of(self.options), 0.0)

    def _check_kind(self, base: PinnedBase) -> None:
        if base.kind == "text":
            raise ModelError(
                f"{base.reference} is told text; {self.name} trains whole small models that are told a class or "
                'nothing, such as undertone pretrain makes with unet.kind = "class" or "none"'
            )

    def _rows_of(self) -> list[tuple[str, str]]:
        """The names of w's rows of the class embedding, in their order, each with its class; "" for none."""
        if not self.per_class:
            return []
        return [*((f"{CLASS}{name}", name) for name in sorted(self.classes)), (NULL, "")]

    def _labels(self, base: PinnedBase) -> dict[str, int]:
        """A class's name -> its row of the class embedding, and "" -> that of the null label."""
        return {**labels_for(self.classes, base.classes), "": len(base.classes)} if self.per_class else {}
