"""`dpdm`: a whole small diffusion model by DP-SGD (DPDM, Dockhorn et al. 2023, arXiv 2210.09929).

    x_u = grad over theta of  mean over u's records and K draws of  lambda(sigma) |D(x + sigma n; sigma, y) - x|^2

Every parameter of the UNet of a base that is told a class or nothing is trained, in its latents or its pixels. Which
noise levels, lambda and what stands around the network are the parametrisation (`training/parametrisations.py`).
Of K draws each has a noise level, noise, and label dropout of its own; their mean is taken before the clip.
w are the weights themselves: [a row for each class, by name | the null label's row | the UNet's other tensors].
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.config import Section
from undertone.errors import ModelError
from undertone.methods.classed import NamesClasses, check_told, told_classes
from undertone.methods.classes import ClassShown
from undertone.methods.dpdm.initial_weights import TABLE, base_weights, drawn_weights
from undertone.methods.dpdm.options import SIZE, DPDMOptions, Figures
from undertone.methods.dpdm.release import CLASS, DENOISER_FILE, FIGURES, NULL, UNET
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.protocol import Automatic, Choice, Draw, UnitRecords
from undertone.methods.release_format import ReleaseFormat, Weights
from undertone.models.class_names import labels_for
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.dpdm.denoising import TrainedDenoiser  # torch
    from undertone.methods.gradient.trained import Trained
    from undertone.methods.gradient.unit_gradients import RowLoss

_AUTO: dict[str, Choice] = {
    "draws": Choice(4, "DPDM gained most by the first few"),
    "optimiser": Choice("adam", "as in DPDM"),
    "learning_rate": Choice(0.002, "for tens of rounds; DPDM's 3e-4 is for thousands", unless="optimiser"),
    "ema": Choice(0.9, "the average of the last ten rounds or so", unless="optimiser"),
}


class DPDM(NamesClasses, GradientMethod):
    """The method `dpdm`; see the module's description."""

    name: ClassVar[str] = "dpdm"
    options_type: ClassVar[type[Section]] = DPDMOptions
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (DENOISER_FILE,)
    needs: ClassVar[frozenset[str]] = frozenset({"unet", "scheduler"})
    automatic: ClassVar[Automatic] = Automatic(rounds=60, options=_AUTO)
    options: DPDMOptions

    # --- classes ----------------------------------------------------------------------------------

    @property
    def drawn_classes(self) -> int:
        """All of the study: public drawings' gradients are in each class's row."""
        return max(1, len(self.classes))

    def _told(self, unit: UnitRecords) -> UnitRecords:
        return told_classes(unit, self.classes) if self.classes else unit

    # --- what w is --------------------------------------------------------------------------------

    def check(self, base: PinnedBase, caption: str) -> None:
        """The base is told what the study's captions are.

        Raises:
            ModelError: it is told text, or has too few classes.
            StudyError: a caption is more than a class's name, or there are classes and the base is told none.
        """
        super().check(base, caption)
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

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """All tensors of w, and the figures by which images are drawn."""
        ((file, tensors),) = super().weights(base, w).items()
        return {file: {**tensors, FIGURES: Figures.of(self.options).as_tensor()}}

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """Before adaptation nothing is said, because the base need not know the classes; afterwards the class."""
        return "", super().sample_prompts(caption, of)[1] if self.per_class else ""

    def warm_start(
        self,
        base: Base,
        latents: NDArray[np.float32],
        classes: NDArray[np.int64] | None,
        steps: int,
        seed: int,
    ) -> NDArray[np.float32]:
        """`w` after ordinary training on public images from the study's start; see `methods/warm_start.py`."""
        from undertone.methods.dpdm.warm import warmed  # torch

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

    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        return self._trained_at(base, w)

    def _trained_at(self, base: Base, w: NDArray[np.float32]) -> "TrainedDenoiser":
        from undertone.methods.dpdm.denoising import TrainedDenoiser  # torch

        named, labels = self.layout(base.pinned).unflatten(w), self._labels(base.pinned)
        rows = {labels[of]: named[name] for name, of in self._rows_of()}
        tensors = {name.removeprefix(UNET): one for name, one in named.items() if name.startswith(UNET)}
        return TrainedDenoiser(base, tensors, rows, labels)

    def _loss(self, base: Base) -> "RowLoss":
        from undertone.methods.dpdm.denoising import row_loss  # torch

        return row_loss(base, Figures.of(self.options), self.options.min_time)

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
