"""`dpsgd-ti`: DP-SGD on one shared token embedding, the baseline of DPAgg-TI (arXiv 2411.14639).

w is the embedding [vectors, width] itself; it starts at a common word's. The release is the same
`learned_embeds.safetensors` as that of `dpagg-ti`, for `load_textual_inversion`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from undertone.captions import fill_caption
from undertone.config import Section
from undertone.layout import Layout
from undertone.methods.gradient import GradientMethod, GradientOptions
from undertone.methods.protocol import Shapes
from undertone.methods.token import TokenOptions, check_caption, check_token, token_layout, token_weights
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.unit_gradients import Trained
    from undertone.models.base import LoadedBase


class DPSGDTIOptions(GradientOptions, TokenOptions):
    """[method] keys of dpsgd-ti."""


class DPSGDTI(GradientMethod):
    """The method `dpsgd-ti`; see the module's description."""

    name: ClassVar[str] = "dpsgd-ti"
    options_type: ClassVar[type[Section]] = DPSGDTIOptions
    has_token: ClassVar[bool] = True
    options: DPSGDTIOptions

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption names the token once; the initial word is one token of the base, the new one is none.

        Raises:
            StudyError, ModelError: see above.
        """
        super().check(base, caption)
        check_caption(caption)
        check_token(self.options, base)
        base.embedding_of(self.options.initial_word)

    def layout(self, base: PinnedBase) -> Layout:
        """One tensor [vectors, width] named by the token."""
        return Layout(((self.options.token, (self.options.vectors, base.embedding_width)),))

    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        return np.tile(base.embedding_of(self.options.initial_word), self.options.vectors)

    def _trained(self, base: "LoadedBase", w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        from undertone.methods.trained import TrainedToken  # torch

        return TrainedToken(base, self.options.token, w.reshape(self.options.vectors, -1))

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Mapping[str, Mapping[str, NDArray[np.float32]]]:
        """`learned_embeds.safetensors` with the token's [vectors, width] tensor ([width] for one vector)."""
        del base
        return token_weights(self.options, w)

    def released_layout(self, file: str, shapes: Shapes) -> Layout | None:
        """One tensor [vectors, width], or [width] for one vector, named by the token."""
        return token_layout(self.options, file, shapes)

    def sample_prompts(self, caption: str) -> tuple[str, str]:
        """The caption with the initial word, and with the token; its columns stay empty."""
        return fill_caption(caption, self.options.initial_word, {}), fill_caption(caption, self.options.token, {})
