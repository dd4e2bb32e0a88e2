"""DPAgg-TI (Peetathawatchai et al., arXiv 2411.14639): one textual inversion per unit, then one noisy mean.

    x_u = v_u - v0        v_u learned on u's images alone, v0 the public embedding of a common word
    v   = v0 + rescale * V / (s p sum N_i)

Centring on v0 costs nothing and lowers the noise relative to the signal; the paper normalises whole
embeddings. The release is one `learned_embeds.safetensors` for `load_textual_inversion`.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.captions import fill_caption
from undertone.core.config import Section
from undertone.core.progress import reporter
from undertone.methods.protocol import TEXT_TO_IMAGE, Automatic, Choice, Draw, Method, Progress, UnitRecords
from undertone.methods.release_format import ReleaseFormat, Weights
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

_PUBLIC_SEED = 20261122
_FIRST_STEP = 1.6
MIN_TIME = Choice(0.3, "at less noise an image shows by itself what it is, and words cannot help")


class DPAggTIOptions(TokenOptions):
    """[method] keys of dpagg-ti."""

    # Good on embedded:tiny, where a token's embedding has length 1; for Stable Diffusion 1.x start at 500 and 0.005.
    steps: int = Field(default=30, ge=1, le=100_000)
    learning_rate: float = Field(default=0.2, gt=0, le=10)
    # At low noise the image itself shows what it is; at high noise only the words can say. Inverting at
    # t in [min_time T, T) alone is what made neutral prompts find the subject (docs/benchmarks.md).
    min_time: float = Field(default=0.3, ge=0, lt=1)
    rescale: float = Field(default=1.0, gt=0, le=100)


class DPAggTI:
    """The method `dpagg-ti`; see the module's description."""

    name: ClassVar[str] = "dpagg-ti"
    options_type: ClassVar[type[Section]] = DPAggTIOptions
    one_shot: ClassVar[bool] = True
    # |mean row| / C on the embedded model lay between 0.3 (chest X-rays) and 0.9 (digits), C the
    # median length of public inversions: the lower end is what a plan may count on as signal.
    alignment: ClassVar[float] = 0.3
    few_drawings: ClassVar[int] = 4
    needs: ClassVar[frozenset[str]] = TEXT_TO_IMAGE
    release_format: ClassVar[ReleaseFormat] = WORD_FILE
    automatic: ClassVar[Automatic] = Automatic(
        clip_share=0.25, options={"min_time": MIN_TIME}, measured="learning_rate"
    )

    def __init__(self, options: DPAggTIOptions) -> None:
        self.options = options

    @property
    def token(self) -> str:
        """The word to learn."""
        return self.options.token

    def lighter(self) -> Sequence[tuple[str, Method]]:
        """None: one image of a unit is in memory at a time."""
        return []

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption names the token once; the initial word is one token of the base, the new one is none.

        Raises:
            StudyError, ModelError: see above.
        """
        check_word(self.options, base, caption)

    def layout(self, base: PinnedBase) -> Layout:
        """One tensor [vectors, width] named by the token."""
        return word_layout(self.options, base)

    def dimension(self, base: PinnedBase) -> int:
        """Those of the word."""
        return self.layout(base).size

    def initial_state(self, base: PinnedBase) -> NDArray[np.float32]:
        """v0: the initial word's embedding, repeated for each vector, [vectors * width]."""
        return first_word(self.options, base)

    @property
    def passes(self) -> int:
        """One a step."""
        return self.options.steps

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Lengths of public drawings' inversions; columns of the caption stay empty."""
        from undertone.methods.public import public_units  # torch: only where rows are made

        units = public_units(base, _PUBLIC_SEED, count, fill_caption(caption, self.options.token, {}))
        with reporter().task("rows of public drawings", count * self.options.steps) as progress:
            rows = self.rows(base, self.initial_state(base.pinned), units, progress)
        return np.asarray(np.linalg.norm(rows.astype(np.float64), axis=1))

    def reach(self, clip_norm: float, length: float) -> float | None:
        """The release is v0 + rescale * mean, so a short C shortens it; `rescale` lengthens it again."""
        return self.options.rescale * min(1.0, clip_norm / length)

    def step_scale(self, base: PinnedBase) -> float | None:
        """The size of a value of the initial word's embedding: Adam's steps are `learning_rate` long in each."""
        word = first_word(self.options, base).astype(np.float64)
        return float(np.sqrt(np.mean(word * word)))

    def public_distance(self, base: Base, caption: str, count: int) -> float:
        """As `step_scale`: drawings are not asked."""
        del caption, count
        return self.step_scale(base.pinned) or 0.0

    def automatic_rate(self, scale: float, clip_norm: float, rounds: int, dimension: int) -> tuple[float, str]:
        """A first step of 1.6 times a value's size."""
        del clip_norm, rounds, dimension
        return float(f"{_FIRST_STEP * scale:.2g}"), f"{_FIRST_STEP} times a value of the initial word's embedding"

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        """One image a step, in turn: at most as many as there are steps."""
        del generator
        return range(min(records, self.options.steps))

    def rows(
        self,
        base: Base,
        state: NDArray[np.float32],
        units: Sequence[UnitRecords],
        progress: Progress,
    ) -> NDArray[np.float32]:
        """v_u - v0 for each unit, [n, vectors * width]."""
        from undertone.methods.textual_inversion.inversion import Inversion, invert  # torch: only where rows are made

        options = self.options
        settings = Inversion(options.token, options.vectors, options.steps, options.learning_rate, options.min_time)
        return invert(base, state.reshape(options.vectors, -1), units, settings, progress)

    def sums(self, base: PinnedBase) -> bool:
        """No: a token's row is short."""
        del base
        return False

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """v0 + rescale * mean; `rescale` is public post-processing."""
        return np.asarray(state + self.options.rescale * mean, dtype=np.float32)

    def released(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The state itself."""
        return state

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """The word, [vectors * width]."""
        return self.release_format.write(self.layout(base), w)

    def fixed(self, name: str) -> Draw | None:
        """None: a release is the word alone."""
        del name
        return None

    def sample_prompts(self, caption: str) -> tuple[str, str]:
        """The caption with the initial word, and with the token; its columns stay empty."""
        return word_prompts(self.options, caption)
