"""`dpsgd-ti`: DP-SGD on shared token embeddings, the baseline of DPAgg-TI (arXiv 2411.14639).

w is the embedding [vectors, width] itself; it starts at a common word's. The release is the same
`learned_embeds.safetensors` as that of `dpagg-ti`, for `load_textual_inversion`.

With `per_class` w holds a word for each class, and the rounds are of two stages (PRIVACY 23, 25):

    class shares   one round: x_u = w, the shares of u's images in the classes, |w| <= 1 = C
    rounds         x_u = gradient in all words; the mean gradient in word c is divided by the noisy share of class c

so the counts are charged once, and a rare class's word goes as far as a frequent one's. Below F the division is
shrunk. What the first round found stands behind w and the optimiser's memory, and no site needs it.

    state = [w (d) | the optimiser's memory | 1 / shares (K)]
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import sqrt
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.config import Section
from undertone.errors import MechanismViolation, StudyError
from undertone.methods.classes import FLOOR, ClassShown, Shares, divisors
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.gradient.options import STEPS, GradientOptions
from undertone.methods.protocol import Automatic, Method, MethodStage, Progress, Said, UnitRecords
from undertone.methods.textual_inversion.token import LearnsWords, TokenOptions, Words
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch

CLASS_SHARES = "class shares"
# Shares of a unit sum to 1, so none of its rows is longer, and nothing is cut.
_SHARES_CLIP = 1.0
State = NDArray[np.float32]


class DPSGDTIOptions(GradientOptions, TokenOptions):
    """[method] keys of dpsgd-ti. share_epsilon: the part of epsilon that the round of class shares may cost alone."""

    share_epsilon: float = Field(default=0.2, gt=0, lt=1)


class DPSGDTI(LearnsWords, GradientMethod):
    """The method `dpsgd-ti`; see the module's description."""

    name: ClassVar[str] = "dpsgd-ti"
    options_type: ClassVar[type[Section]] = DPSGDTIOptions
    automatic: ClassVar[Automatic] = Automatic(rounds=12, options=STEPS, measured="learning_rate")
    way: ClassVar[float] = 1.5
    options: DPSGDTIOptions

    def __init__(self, options: DPSGDTIOptions) -> None:
        super().__init__(options)
        self.words = Words(options)

    @property
    def alignment(self) -> float:
        """As of any gradient method; but the mean over units has a part for each class, and these point apart."""
        return 1.0 / sqrt(len(self.words.tokens))

    def of_classes(self, classes: Sequence[str]) -> "DPSGDTI":
        """With a word for each.

        Raises:
            StudyError: rows are to be taken in public directions, which drawings of no class cannot give.
        """
        if self.options.directions:
            raise StudyError("method.per_class = true goes without method.directions: drawings have no classes")
        return DPSGDTI(self.options.model_copy(update={"class_names": list(classes)}))

    def scaled(self, base: PinnedBase, median: Callable[[Method], float]) -> tuple[Method, Said]:
        """Nothing is to be measured: rows of shares have a bound of their own."""
        del base, median
        return self, ()

    def stages(self, base: PinnedBase) -> Sequence[MethodStage]:
        """The rounds; by class the round of shares before them."""
        last = MethodStage("", self, self.dimension(base))
        if not self.per_class:
            return [last]
        first = MethodStage(
            CLASS_SHARES,
            CountingClasses(self.options),
            len(self.words.tokens),
            rounds=1,
            share=self.options.share_epsilon,
            clip_norm=_SHARES_CLIP,
            shares=Shares(1.0),
        )
        return [first, last]

    def sent(self, base: PinnedBase) -> int:
        """The words alone: rows need no shares."""
        return self.dimension(base)

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption names the token once; the initial word is one token of the base, the new ones are none.

        Raises:
            StudyError, ModelError: see above.
        """
        super().check(base, caption)
        self.words.check(base, caption)

    def layout(self, base: PinnedBase) -> Layout:
        """One tensor [vectors, width] for each word, named by its token."""
        return self.words.layout(base)

    def state_at(self, base: PinnedBase, w: State) -> State:
        """By class nothing is divided before shares are known."""
        return np.append(super().state_at(base, w), np.ones(self._divisors, dtype=np.float32))

    def released(self, state: State) -> State:
        """As any gradient method's, of what stands before the shares."""
        return super().released(self._split(state)[0])

    def rows(self, base: Base, state: State, units: Sequence[UnitRecords], progress: Progress) -> State:
        """Each unit's mean gradient in all words, [n, d]: zero in the words of classes that it has no image of."""
        return super().rows(base, state, [self.words.by_class(unit) for unit in units], progress)

    def clipped_sum(
        self, base: Base, state: State, batch: Sequence[UnitRecords | None], *, scale: int, clip_units: int
    ) -> NDArray[np.int64]:
        """Their clipped integer sum, [d]."""
        named = [unit and self.words.by_class(unit) for unit in batch]
        return super().clipped_sum(base, state, named, scale=scale, clip_units=clip_units)

    def step(self, state: State, mean: NDArray[np.float64]) -> State:
        """One step of the server optimiser; by class against each word's mean gradient over its own class."""
        kept, divided = self._split(state)
        if len(divided):
            mean = (mean.reshape(len(divided), -1) * divided[:, None]).reshape(-1)
        return np.append(self._optimiser.advance(kept, mean), divided)

    def step_scale(self, base: PinnedBase) -> float | None:
        """The length of the initial word's embedding: near it drawings say nothing of how far words lie apart."""
        word = np.tile(base.embedding_of(self.options.initial_word), self.options.vectors)
        return float(np.linalg.norm(word))

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """The caption with the initial word, and with the token; its columns but that of the class stay empty."""
        return self.words.prompts(caption, of)

    def _start(self, base: PinnedBase) -> State:
        return self.words.start(base)

    def _trained(self, base: Base, w: State) -> AbstractContextManager["Trained"]:
        from undertone.methods.textual_inversion.trained import TrainedToken  # torch

        vectors = len(self.words.tokens) * self.options.vectors
        return TrainedToken(base, self.words.tokens, w.reshape(vectors, -1))

    @property
    def _divisors(self) -> int:
        """How many stand at the end of the state: one for each class."""
        return len(self.words.tokens) if self.per_class else 0

    def _split(self, state: State) -> tuple[State, State]:
        """What the optimiser keeps, and 1 / shares."""
        size = len(state) - self._divisors
        return state[:size], state[size:]


class CountingClasses(DPSGDTI):
    """The stage `class shares`: a unit's row says how its images fall into the classes, and nothing else."""

    def rows(self, base: Base, state: State, units: Sequence[UnitRecords], progress: Progress) -> State:
        """Each unit's shares, [n, K]."""
        del base, state
        progress(len(units))
        return self.words.shares(units).astype(np.float32)

    def sums(self, base: PinnedBase) -> bool:
        """No: a row is K numbers."""
        del base
        return False

    def step(self, state: State, mean: NDArray[np.float64]) -> State:
        """Nothing is divided by a share without knowing its noise.

        Raises:
            MechanismViolation: always.
        """
        raise MechanismViolation("gradients are divided by shares no smaller than their noise allows: see step_from")

    def step_from(self, state: State, mean: NDArray[np.float64], deviation: float) -> State:
        """The state with 1 / shares, shrunk below the floor; w and the optimiser's memory stay."""
        divided = divisors(mean, FLOOR * deviation)
        return np.append(self._split(state)[0], divided.astype(np.float32))
