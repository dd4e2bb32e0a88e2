"""DP-SGD (Abadi et al. 2016) over rounds: one method, and what it trains is all that differs.

    x_u = grad over theta of  mean over u's records and K draws of (epsilon, t) of  L(w + theta)    at theta = 0
    w  <- optimiser(w, V / (s p sum N_i))

The mean over K draws is taken *before* the clip, so K costs compute and no privacy (DPDM, Dockhorn et al. 2023).
All records of a unit enter its one row, up to `records`; the batch has the same shape whoever is in it: a unit
with fewer records fills its places with the same ones again, each record with the same weight in all.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.captions import TOKEN, caption_fields, fill_caption
from undertone.core.config import Section
from undertone.core.progress import reporter
from undertone.errors import StudyError
from undertone.methods.gradient.optimisers import ServerOptimiser
from undertone.methods.gradient.options import GradientOptions
from undertone.methods.protocol import TEXT_TO_IMAGE, Draw, Progress, UnitRecords
from undertone.methods.release_format import ReleaseFormat, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch

_PUBLIC_AT_ONCE = 8
_PUBLIC_SEED = 20261126
_MIB = 1 << 20


class GradientMethod(ABC):
    """What the gradient methods share. A subclass names the parameters; see `layout`, `_start`, `_trained`."""

    name: ClassVar[str]
    options_type: ClassVar[type[Section]]
    one_shot: ClassVar[bool] = False
    # Rows of length C that all point one way would have a mean of length C; a plan's figure is relative to that.
    alignment: ClassVar[float] = 1.0
    few_drawings: ClassVar[int] = 16
    needs: ClassVar[frozenset[str]] = TEXT_TO_IMAGE
    release_format: ClassVar[ReleaseFormat]

    options: GradientOptions

    def __init__(self, options: GradientOptions) -> None:
        self.options = options
        self._optimiser = ServerOptimiser(options)

    # --- what a subclass says ---------------------------------------------------------------------

    @abstractmethod
    def layout(self, base: PinnedBase) -> Layout:
        """The tensors that w holds.

        Raises:
            StudyError: an option names none of the base's parts; the message names them.
        """

    @abstractmethod
    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        """`w` before the first round, [d]."""

    @abstractmethod
    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        """The loaded base with w in it, ready for gradients; as it was before when the context ends."""

    # --- what they share --------------------------------------------------------------------------

    @property
    def token(self) -> str:
        """None, unless a subclass learns a word."""
        return ""

    def lighter(self) -> Sequence[tuple[str, "GradientMethod"]]:
        """Draws and records halved, the larger of both first."""
        found, sizes = [], {"draws": self.options.draws, "records": self.options.records}
        while any(size > 1 for size in sizes.values()):
            largest = max(sizes, key=lambda key: sizes[key])
            sizes[largest] //= 2
            advice = " and ".join(f"method.{key} = {size}" for key, size in sizes.items())
            found.append((advice, type(self)(self.options.model_copy(update=sizes))))
        return found

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption fits the method.

        Raises:
            StudyError, ModelError: with what would work.
        """
        if not self.token and TOKEN in caption_fields(caption):
            raise StudyError(
                f'data.caption = "{caption}": {self.name} learns no word, so write one in place of {{token}}'
            )

    def initial_state(self, base: PinnedBase) -> NDArray[np.float32]:
        """`w` and the optimiser's memory before the first round; w comes first."""
        return self._optimiser.start(self._start(base))

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """One step of the server optimiser against the noised mean gradient."""
        return self._optimiser.advance(state, mean)

    def released(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The average of w over rounds with `ema`, else the last w; [d]."""
        return self._optimiser.released(state)

    @property
    def passes(self) -> int:
        """One for each place in the batch."""
        return self.options.draws * self.options.records

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Lengths of public drawings' gradients at the start; the caption's columns stay empty."""
        from undertone.methods.gradient.unit_gradients import gradient_norms
        from undertone.methods.public import public_units  # torch: only where rows are made

        start = self._start(base.pinned)
        units = public_units(base, _PUBLIC_SEED, count, fill_caption(caption, self.token, {}))
        at_once = 1 if self.sums(base.pinned) else _PUBLIC_AT_ONCE
        lengths: list[float] = []
        with reporter().task("rows of public drawings", count) as progress:
            for first in range(0, count, at_once):
                part = units[first : first + at_once]
                with self._trained(base, start) as trained:
                    lengths += gradient_norms(base, trained, part, self.options).tolist()
                progress(len(part))
        return np.array(lengths)

    def reach(self, clip_norm: float, length: float) -> float | None:
        """None: Adam divides by the gradients' size, and the steps of SGD are as long as its learning rate says."""
        del clip_norm, length
        return None

    def sums(self, base: PinnedBase) -> bool:
        """Rows longer than `largest_row_mib` are summed as they are made."""
        return 4 * self.layout(base).size > self.options.largest_row_mib * _MIB

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        """A random choice of `records` of them, where there are more."""
        chosen: list[int] = generator.permutation(records)[: self.options.records].tolist()
        return chosen

    def clipped_sum(
        self,
        base: Base,
        state: NDArray[np.float32],
        batch: Sequence[UnitRecords | None],
        *,
        scale: int,
        clip_units: int,
    ) -> NDArray[np.int64]:
        """The clipped integer sum of the units' mean gradients at w, [d]; `state` begins with w."""
        from undertone.methods.gradient.unit_gradients import summed_gradients  # torch: only where rows are made

        with self._trained(base, state) as trained:
            return summed_gradients(base, trained, batch, self.options, scale=scale, clip_units=clip_units)

    def rows(
        self, base: Base, state: NDArray[np.float32], units: Sequence[UnitRecords], progress: Progress
    ) -> NDArray[np.float32]:
        """Each unit's mean gradient at w, [n, d]; `state` begins with w."""
        from undertone.methods.gradient.unit_gradients import unit_gradients  # torch: only where rows are made

        if not units:
            return np.zeros((0, state.size), dtype=np.float32)
        with self._trained(base, state) as trained:
            found = unit_gradients(base, trained, units, self.options)
        progress(len(units))
        return found

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """All of w, in the layout's tensors."""
        return self.release_format.write(self.layout(base), w)

    def fixed(self, name: str) -> Draw | None:
        """None: a release holds w alone, unless a subclass says otherwise."""
        del name
        return None

    def sample_prompts(self, caption: str) -> tuple[str, str]:
        """The caption, its columns empty, before and after."""
        prompt = fill_caption(caption, self.token, {})
        return prompt, prompt
