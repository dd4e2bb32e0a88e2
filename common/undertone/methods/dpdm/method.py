"""`dpdm`: a whole small diffusion model by DP-SGD (DPDM, Dockhorn et al. 2023, arXiv 2210.09929).

    x_u = grad over theta of  mean over u's records and K draws of  lambda(sigma) |D(x + sigma n; sigma, y) - x|^2

Every parameter of the UNet of a base that is told a class or nothing is trained, in its latents or its pixels. Which
noise levels, lambda and what stands around the network are the parametrisation (`training/parametrisations.py`).
Of K draws each has a noise level, noise, and label dropout of its own; their mean is taken before the clip.
w are the weights themselves (`methods/denoiser/whole_denoiser.py`).
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.config import Section
from undertone.methods.classed import told_classes
from undertone.methods.denoiser.options import Figures
from undertone.methods.denoiser.whole_denoiser import WholeDenoiser
from undertone.methods.dpdm.options import DPDMOptions
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.protocol import Automatic, Choice, UnitRecords
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch
    from undertone.methods.gradient.unit_gradients import RowLoss

_AUTO: dict[str, Choice] = {
    "draws": Choice(2, "four gained nothing on drawn digits, at twice the time"),
    "optimiser": Choice("adam", "as in DPDM"),
    "learning_rate": Choice(0.002, "for tens of rounds; DPDM's 3e-4 is for thousands", unless="optimiser"),
    "ema": Choice(0.95, "the average of the last twenty rounds or so", unless="optimiser"),
}


class DPDM(WholeDenoiser, GradientMethod):
    """The method `dpdm`; see the module's description."""

    name: ClassVar[str] = "dpdm"
    options_type: ClassVar[type[Section]] = DPDMOptions
    automatic: ClassVar[Automatic] = Automatic(rounds=100, options=_AUTO)
    options: DPDMOptions

    @property
    def drawn_classes(self) -> int:
        """All of the study: public drawings' gradients are in each class's row."""
        return max(1, len(self.classes))

    def check(self, base: PinnedBase, caption: str) -> None:
        """The base is told what the study's captions are.

        Raises:
            ModelError: it is told text, or has too few classes.
            StudyError: a caption is more than a class's name, or there are classes and the base is told none.
        """
        GradientMethod.check(self, base, caption)
        self.check_denoiser(base, caption)

    def _told(self, unit: UnitRecords) -> UnitRecords:
        return told_classes(unit, self.classes) if self.classes else unit

    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        return self._trained_at(base, w)

    def _loss(self, base: Base) -> "RowLoss":
        from undertone.methods.denoiser.denoising import row_loss  # torch

        return row_loss(base, Figures.of(self.options), self.options.min_time)
