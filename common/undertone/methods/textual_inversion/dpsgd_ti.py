"""`dpsgd-ti`: DP-SGD on one shared token embedding, the baseline of DPAgg-TI (arXiv 2411.14639).

w is the embedding [vectors, width] itself; it starts at a common word's. The release is the same
`learned_embeds.safetensors` as that of `dpagg-ti`, for `load_textual_inversion`.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.config import Section
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.gradient.options import STEPS, GradientOptions
from undertone.methods.protocol import Automatic
from undertone.methods.release_format import ReleaseFormat
from undertone.methods.textual_inversion.release import WORD_FILE
from undertone.methods.textual_inversion.token import (
    TokenOptions,
    check_word,
    first_word,
    word_layout,
    word_prompts,
)
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch


class DPSGDTIOptions(GradientOptions, TokenOptions):
    """[method] keys of dpsgd-ti."""


class DPSGDTI(GradientMethod):
    """The method `dpsgd-ti`; see the module's description."""

    name: ClassVar[str] = "dpsgd-ti"
    options_type: ClassVar[type[Section]] = DPSGDTIOptions
    release_format: ClassVar[ReleaseFormat] = WORD_FILE
    automatic: ClassVar[Automatic] = Automatic(rounds=12, options=STEPS, measured="learning_rate")
    way: ClassVar[float] = 1.5
    options: DPSGDTIOptions

    @property
    def token(self) -> str:
        """The word to learn."""
        return self.options.token

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption names the token once; the initial word is one token of the base, the new one is none.

        Raises:
            StudyError, ModelError: see above.
        """
        super().check(base, caption)
        check_word(self.options, base, caption)

    def layout(self, base: PinnedBase) -> Layout:
        """One tensor [vectors, width] named by the token."""
        return word_layout(self.options, base)

    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        return first_word(self.options, base)

    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        from undertone.methods.textual_inversion.trained import TrainedToken  # torch

        return TrainedToken(base, self.options.token, w.reshape(self.options.vectors, -1))

    def step_scale(self, base: PinnedBase) -> float | None:
        """The length of the initial word's embedding: near it drawings say nothing of how far words lie apart."""
        return float(np.linalg.norm(first_word(self.options, base)))

    def sample_prompts(self, caption: str) -> tuple[str, str]:
        """The caption with the initial word, and with the token; its columns stay empty."""
        return word_prompts(self.options, caption)
