"""DPAgg-TI (Peetathawatchai et al., arXiv 2411.14639): one textual inversion per unit, then one noisy mean.

    x_u = v_u - v0        v_u learned on u's images alone, v0 the public embedding of a common word
    v   = v0 + rescale * V / (s p sum N_i)

Centring on v0 costs nothing and lowers the noise relative to the signal; the paper normalises whole
embeddings. The release is one `learned_embeds.safetensors` for `load_textual_inversion`.

With `per_class` a unit learns a word v_c for each class c of which it has images, and its one row is

    x_u = [a w ; w_c (v_c - v0) for each class c]      w_c the share of its images in class c
    v_c = v0 + rescale * V_c / (V_w,c / a)             V_c, V_w: the parts of the one noisy sum

clipped once, as a whole. A class's noisy sum is divided by its noisy share, of the same clipped rows, so that neither C
nor how many units there are falls into a word; below F = 4 sigma / (s a) the word is shrunk towards v0 (PRIVACY 23).
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.captions import fill_caption
from undertone.core.config import Section
from undertone.core.progress import reporter
from undertone.errors import MechanismViolation, StudyError
from undertone.methods.classes import FLOOR, ClassShown, Shares, divisors
from undertone.methods.protocol import (
    TEXT_TO_IMAGE,
    Automatic,
    Choice,
    Draw,
    Method,
    MethodStage,
    Progress,
    Said,
    UnitRecords,
)
from undertone.methods.release_format import Weights
from undertone.methods.textual_inversion.token import LearnsWords, TokenOptions, Words
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
    # a: how long a row's shares of classes are. Long ones have little noise and leave the words less of C.
    share_scale: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"


class DPAggTI(LearnsWords):
    """The method `dpagg-ti`; see the module's description."""

    name: ClassVar[str] = "dpagg-ti"
    options_type: ClassVar[type[Section]] = DPAggTIOptions
    one_shot: ClassVar[bool] = True
    few_drawings: ClassVar[int] = 4
    needs: ClassVar[frozenset[str]] = TEXT_TO_IMAGE
    automatic: ClassVar[Automatic] = Automatic(
        clip_share=0.25, options={"min_time": MIN_TIME}, measured="learning_rate"
    )

    def __init__(self, options: DPAggTIOptions) -> None:
        self.options = options
        self.words = Words(options)

    @property
    def alignment(self) -> float:
        """Length of the mean row over C that a plan may count on; classes point apart.

        On the embedded model, C the median length of public inversions, it lay between 0.3 (chest X-rays) and 0.9
        (digits): the lower end.
        """
        return 0.3 / sqrt(len(self.words.tokens))

    def of_classes(self, classes: Sequence[str]) -> "DPAggTI":
        """With a word for each."""
        return DPAggTI(self.options.model_copy(update={"class_names": list(classes)}))

    def scaled(self, base: PinnedBase, median: Callable[[Method], float]) -> tuple[Method, Said]:
        """With a = r d^(-1/4), r the median length of a word's public row, d its values.

        A word's error is that of its sum, sigma sqrt(d), and that of its share, r sigma / a, and sigma grows with the
        row's length sqrt(a^2 + r^2): so chosen, both together are least.

        Raises:
            StudyError: rows of public drawings have no length on this base.
        """
        if self.options.share_scale != "auto":
            return self, ()
        alone = self.options.model_copy(update={"per_class": False, "class_names": []})
        r, d = median(DPAggTI(alone)), self.options.vectors * base.embedding_width
        if not 0 < r < np.inf:
            raise StudyError('method.share_scale = "auto": rows of public drawings have no length here; give a number')
        a = float(f"{r * d**-0.25:.2g}")
        why = f"{a:g}: a row's shares of classes beside a word of length {r:.3g} in {d} values"
        return DPAggTI(self.options.model_copy(update={"share_scale": a})), [("auto: share_scale", why)]

    def stages(self, base: PinnedBase) -> Sequence[MethodStage]:
        """One, whose rows hold shares of classes before the words."""
        if not self.per_class:
            return [MethodStage("", self, self.dimension(base))]
        row = len(self.words.tokens) + self.dimension(base)
        return [MethodStage("", self, row, shares=Shares(self._share_scale))]

    def sent(self, base: PinnedBase) -> int:
        """The words alone."""
        return self.dimension(base)

    @property
    def _share_scale(self) -> float:
        """The number a.

        Raises:
            MechanismViolation: it is not settled: a plan says a number.
        """
        if isinstance(self.options.share_scale, str):
            raise MechanismViolation("method.share_scale is a number in every plan, and is none here")
        return self.options.share_scale

    def lighter(self) -> Sequence[tuple[str, Method]]:
        """None: one image of a unit is in memory at a time."""
        return []

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption names the token once; the initial word is one token of the base, the new one is none.

        Raises:
            StudyError, ModelError: see above.
        """
        self.words.check(base, caption)

    def layout(self, base: PinnedBase) -> Layout:
        """One tensor [vectors, width] for each word, named by its token."""
        return self.words.layout(base)

    def dimension(self, base: PinnedBase) -> int:
        """Those of the words."""
        return self.layout(base).size

    def initial_state(self, base: PinnedBase) -> NDArray[np.float32]:
        """v0: the initial word's embedding, repeated for each vector of each word, [words * vectors * width]."""
        return self.words.start(base)

    @property
    def passes(self) -> int:
        """One a step."""
        return self.options.steps

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Lengths of public drawings' inversions; columns of the caption stay empty."""
        from undertone.methods.public import public_units  # torch: only where rows are made

        units = public_units(base, _PUBLIC_SEED, count, fill_caption(caption, self.token, {}))
        with reporter().task("rows of public drawings", count * self.options.steps) as progress:
            rows = self.rows(base, self.initial_state(base.pinned), units, progress)
        return np.asarray(np.linalg.norm(rows.astype(np.float64), axis=1))

    def reach(self, clip_norm: float, length: float) -> float | None:
        """The release is v0 + rescale * mean, so a short C shortens it; `rescale` lengthens it again.

        By class a short C shortens sums and shares alike, and falls out.
        """
        return self.options.rescale * (1.0 if self.per_class else min(1.0, clip_norm / length))

    def step_scale(self, base: PinnedBase) -> float | None:
        """The size of a value of the initial word's embedding: Adam's steps are `learning_rate` long in each."""
        word = base.embedding_of(self.options.initial_word).astype(np.float64)
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
        """v_u - v0 for each unit, [n, vectors * width]; by class [a w ; w_c (v_c - v0)], shares before words."""
        from undertone.methods.textual_inversion.inversion import Inversion, invert  # torch: only where rows are made

        options, tokens = self.options, self.words.tokens
        settings = Inversion(tokens, options.vectors, options.steps, options.learning_rate, options.min_time)
        named = [self.words.by_class(unit) for unit in units]
        learned = invert(base, state.reshape(len(tokens) * options.vectors, -1), named, settings, progress)
        return self._by_class(learned, self.words.shares(units)) if self.per_class else learned

    def _by_class(self, learned: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float32]:
        """Rows of shares w [n, K] and words less v0 [n, K * d]; both are linear in what a unit has of a class."""
        weighted = learned * np.repeat(shares, learned.shape[1] // shares.shape[1], axis=1)
        rows: NDArray[np.float32] = np.hstack([self._share_scale * shares, weighted]).astype(np.float32)
        return rows

    def sums(self, base: PinnedBase) -> bool:
        """No: a token's row is short."""
        del base
        return False

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """v0 + rescale * mean; `rescale` is public post-processing."""
        return self._moved(state, mean, 0.0)

    def step_from(self, state: NDArray[np.float32], mean: NDArray[np.float64], deviation: float) -> NDArray[np.float32]:
        """As `step`; by class each word's noisy sum is divided by its noisy share, which `deviation` says the noise of.

        Both are parts of the one noised mean row, so nothing else of the sites enters: no count, no frequency.
        """
        return self._moved(state, mean, deviation)

    def _moved(self, state: NDArray[np.float32], mean: NDArray[np.float64], deviation: float) -> NDArray[np.float32]:
        if self.per_class:
            count, a = len(self.words.tokens), self._share_scale
            divided = divisors(mean[:count] / a, FLOOR * deviation / a)
            mean = (mean[count:].reshape(count, -1) * divided[:, None]).reshape(-1)
        return np.asarray(state + self.options.rescale * mean, dtype=np.float32)

    def released(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The state itself."""
        return state

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """The words, each [vectors * width]."""
        return self.release_format.write(self.layout(base), w)

    def fixed(self, name: str) -> Draw | None:
        """None: a release is words alone."""
        del name
        return None

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """The caption with the initial word, and with the token; its columns but that of the class stay empty."""
        return self.words.prompts(caption, of)
