"""DP-SGD (Abadi et al. 2016) over rounds: one method, and what it trains is all that differs.

    x_u = grad over theta of  mean over u's records and K draws of (epsilon, t) of  L(w + theta)    at theta = 0
    w  <- optimiser(w, V / (s p sum N_i))

The mean over K draws is taken *before* the clip, so K costs compute and no privacy (DPDM, Dockhorn et al. 2023).
All records of a unit enter its one row, up to `records`; the batch has the same shape whoever is in it: a unit
with fewer records fills its places with the same ones again, each record with the same weight in all.

With k public directions P (`directions.py`) a row is P^T x_u, what is adapted is c [k] in w = w_0 + P c, and noise
enters k values. Projecting belongs to the row: the mechanism clips what it gets, so the clip comes after it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.captions import TOKEN, caption_fields, fill_caption
from undertone.core.config import Section
from undertone.core.progress import reporter
from undertone.errors import MechanismViolation, StudyError
from undertone.methods.classes import ClassShown
from undertone.methods.gradient.optimisers import server_optimiser
from undertone.methods.gradient.options import DIRECTIONS, MOST_DRAWS, STEPS, GradientOptions
from undertone.methods.gradient.public_directions import PublicDirections, drawings_that_fit
from undertone.methods.gradient.step_length import cauchy_distance, rate_of_way
from undertone.methods.protocol import TEXT_TO_IMAGE, Automatic, Draw, Method, Progress, Said, UnitRecords, blank_unit
from undertone.methods.release_format import ReleaseFormat, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch

PUBLIC_AT_ONCE = 8
PUBLIC_SEED = 20261126
_MIB = 1 << 20


class GradientMethod(ABC):
    """What the gradient methods share. A subclass names the parameters; see `layout`, `_start`, `_trained`."""

    name: ClassVar[str]
    options_type: ClassVar[type[Section]]
    one_shot: ClassVar[bool] = False
    few_drawings: ClassVar[int] = 16
    needs: ClassVar[frozenset[str]] = TEXT_TO_IMAGE
    formats: ClassVar[tuple[ReleaseFormat, ...]]
    automatic: ClassVar[Automatic] = Automatic(
        rounds=12, options=STEPS | {"directions": DIRECTIONS}, measured="learning_rate"
    )
    # The way that "auto" goes in T rounds, should every mean row be of length C, over `step_scale`.
    way: ClassVar[float] = 3.0

    options: GradientOptions

    def __init__(self, options: GradientOptions) -> None:
        self.options = options
        self._optimiser = server_optimiser(options)

    # --- what a subclass says ---------------------------------------------------------------------

    @abstractmethod
    def layout(self, base: PinnedBase) -> Layout:
        """The tensors that w [D] holds, and those of the release that are fixed.

        Raises:
            StudyError: an option names none of the base's parts; the message names them.
        """

    @abstractmethod
    def _start(self, base: PinnedBase) -> NDArray[np.float32]:
        """`w_0` before the first round, [D]."""

    @abstractmethod
    def _trained(self, base: Base, w: NDArray[np.float32]) -> AbstractContextManager["Trained"]:
        """The loaded base with w [D] in it, ready for gradients; as it was before when the context ends."""

    def _released(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """The release's tensors of w [D]."""
        return self.release_format.write(self.layout(base), w)

    def _told(self, unit: UnitRecords) -> UnitRecords:
        """The unit with the captions that its rows are made with: its own, unless a subclass says otherwise."""
        return unit

    # --- what they share --------------------------------------------------------------------------

    @property
    def drawn_classes(self) -> int:
        """Over how many classes public drawings are spread: one, unless a subclass's rows are told classes."""
        return 1

    @property
    def alignment(self) -> float:
        """Rows of length C that all point one way would have a mean of length C; a plan's figure is relative to it."""
        return 1.0

    @property
    def release_format(self) -> ReleaseFormat:
        """The first of `formats`, unless a subclass writes another under some options."""
        return self.formats[0]

    @property
    def token(self) -> str:
        """None, unless a subclass learns a word."""
        return ""

    def lighter(self) -> Sequence[tuple[str, "GradientMethod"]]:
        """Draws and records halved, the larger of both first."""
        return [(advice, type(self)(less)) for advice, less in self._lighter_options()]

    def _lighter_options(self) -> list[tuple[str, Any]]:
        """The options of `lighter`, of the subclass's own type."""
        found, sizes = list[tuple[str, Any]](), {"draws": self.options.draws, "records": self.options.records}
        while any(size > 1 for size in sizes.values()):
            largest = max(sizes, key=lambda key: sizes[key])
            sizes[largest] //= 2
            advice = " and ".join(f"method.{key} = {size}" for key, size in sizes.items())
            found.append((advice, self.options.model_copy(update=sizes)))
        return found

    def averaging(self) -> Sequence[tuple[str, "GradientMethod"]]:
        """Draws halved and doubled."""
        return [(key, type(self)(other)) for key, other in self._averaging_options()]

    def _averaging_options(self) -> list[tuple[str, Any]]:
        """The options of `averaging`, of the subclass's own type."""
        half, double = self.options.draws // 2, self.options.draws * 2
        return [
            (f"draws = {draws}", self.options.model_copy(update={"draws": draws}))
            for draws in (half, double)
            if 1 <= draws <= MOST_DRAWS
        ]

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption fits the method.

        Raises:
            StudyError, ModelError: with what would work.
        """
        if not self.token and TOKEN in caption_fields(caption):
            raise StudyError(
                f'data.caption = "{caption}": {self.name} learns no word, so write one in place of {{token}}'
            )

    def dimension(self, base: PinnedBase) -> int:
        """K with public directions, else D."""
        return self.options.directions or self.layout(base).size

    def settled(self, base: PinnedBase, caption: str) -> tuple[Method, Said]:
        """With public directions: the caption that their drawings have, and what tells them from others.

        Raises:
            StudyError: too many or too large, or the study says another fingerprint.
        """
        if not self.options.directions:
            return self, ()
        named = self.options.model_copy(update={"direction_caption": self.options.direction_caption or caption})
        options, said = type(self)(named)._directions(base).settled()
        return type(self)(options), said

    def affordable(
        self, base: PinnedBase, chosen: Collection[str], quick: Callable[[Method, int], bool]
    ) -> tuple[Method, Said]:
        """Directions that "auto" chose are made of as many drawings as fit, or of none where that takes long."""
        k, drawings, d = self.options.directions, self.options.direction_drawings, self.layout(base).size
        if not k or "directions" not in chosen:
            return self, ()
        fitting = min(drawings, drawings_that_fit(k, d)) if k <= d else 0
        if fitting and quick(self, fitting):
            return type(self)(self.options.model_copy(update={"direction_drawings": fitting})), ()
        without = type(self)(self.options.model_copy(update={"directions": 0}))
        reason = f"on this base they are made only where a study asks: method.directions = {k}"
        return without, [("auto: directions", f"0: {reason}")]

    def prepare(self, base: PinnedBase, loaded: Base | None = None) -> None:
        """Public directions, where rows need them.

        Raises:
            DirectionsDiffer: they are not the plan's, or the plan does not say which are.
        """
        if self.options.directions:
            directions = self._directions(base)
            directions.check_planned()
            directions.found(loaded)

    def _directions(self, base: PinnedBase) -> PublicDirections:
        def gradients(loaded: Base, units: list[UnitRecords], options: GradientOptions) -> NDArray[np.float32]:
            from undertone.methods.gradient.unit_gradients import unit_gradients  # torch: only where rows are made

            with self._trained(loaded, self._start(base)) as trained:
                return unit_gradients(loaded, trained, [self._told(unit) for unit in units], options)

        layout, classes = self.layout(base), self.drawn_classes
        return PublicDirections(self.name, self.options, base, layout, self.token, gradients, classes)

    def initial_state(self, base: PinnedBase) -> NDArray[np.float32]:
        """`w` (with public directions: c, which is zero) and the optimiser's memory before the first round."""
        k = self.options.directions
        return self.state_at(base, np.zeros(k, dtype=np.float32) if k else self._start(base))

    def state_at(self, base: PinnedBase, w: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same from this w: the optimiser's average begins there too."""
        del base
        return self._optimiser.start(w)

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """One step of the server optimiser against the noised mean gradient."""
        return self._optimiser.advance(state, mean)

    def released(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The average of w over rounds with `ema` or DoG, else the last w; [d]."""
        return self._optimiser.released(state)

    @property
    def passes(self) -> int:
        """One for each place in the batch."""
        return self.options.draws * self.options.records

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Lengths of public drawings' gradients at the start; the caption's columns stay empty."""
        from undertone.methods.gradient.unit_gradients import gradient_norms
        from undertone.methods.public import public_units  # torch: only where rows are made

        prompt, classes = fill_caption(caption, self.token, {}), self.drawn_classes
        units = [self._told(unit) for unit in public_units(base, PUBLIC_SEED, count, prompt, classes=classes)]
        start = self.initial_state(base.pinned)[: self.dimension(base.pinned)]
        at_once = 1 if self._too_long(base.pinned) else PUBLIC_AT_ONCE
        lengths: list[float] = []
        with reporter().task("rows of public drawings", count) as progress:
            for first in range(0, count, at_once):
                part = units[first : first + at_once]
                if self.options.directions:
                    rows = self.rows(base, start, part, lambda _steps: None).astype(np.float64)
                    lengths += np.nan_to_num(np.linalg.norm(rows, axis=1), nan=np.inf).tolist()
                else:
                    with self._trained(base, start) as trained:
                        lengths += gradient_norms(base, trained, part, self.options).tolist()
                progress(len(part))
        return np.array(lengths)

    def reach(self, clip_norm: float, length: float) -> float | None:
        """None: Adam and DoG divide by the gradients' size, and the steps of SGD are as long as its rate says."""
        del clip_norm, length
        return None

    def step_scale(self, base: PinnedBase) -> float | None:
        """None: w starts at the base, and drawings say how far from it is far."""
        del base
        return None

    def public_distance(self, base: Base, caption: str, count: int) -> float:
        """The median length of drawings' gradients over the median curvature along them."""
        from undertone.methods.public import public_units  # drawings: slow to import

        start = self.initial_state(base.pinned)[: self.dimension(base.pinned)]
        prompt = fill_caption(caption, self.token, {})

        def gradient(w: NDArray[np.float32], index: int) -> NDArray[np.float64]:
            (unit,) = public_units(base, PUBLIC_SEED, 1, prompt, index, self.drawn_classes)
            row: NDArray[np.float64] = self.rows(base, w, [unit], lambda _steps: None)[0].astype(np.float64)
            return row

        return cauchy_distance(gradient, start, count, self.name)

    def automatic_rate(self, scale: float, clip_norm: float, rounds: int, dimension: int) -> tuple[float, str]:
        """T steps of at most way * scale in all, so that C and the subject fall out."""
        return rate_of_way(self.options, self.way * scale, clip_norm, rounds, dimension)

    def sums(self, base: PinnedBase) -> bool:
        """Rows longer than `largest_row_mib` are summed as they are made; in public directions they are short."""
        return not self.options.directions and self._too_long(base)

    def _too_long(self, base: PinnedBase) -> bool:
        """Whether one unit's gradient is more than `largest_row_mib`."""
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
        """The clipped integer sum of the units' mean gradients at w, [D]; `state` begins with w.

        Raises:
            MechanismViolation: with public directions, where no row is long and each is projected before it is cut.
        """
        from undertone.methods.gradient.unit_gradients import summed_gradients  # torch: only where rows are made

        if self.options.directions:
            raise MechanismViolation("rows in public directions are kept one by one, and not summed as they are made")

        told = [None if unit is None else self._told(unit) for unit in batch]
        with self._trained(base, state) as trained:
            return summed_gradients(base, trained, told, self.options, scale=scale, clip_units=clip_units)

    def rows(
        self, base: Base, state: NDArray[np.float32], units: Sequence[UnitRecords], progress: Progress
    ) -> NDArray[np.float32]:
        """Each unit's mean gradient at w, [n, D], or P^T of it at w_0 + P c, [n, k]; `state` begins with w or c."""
        from undertone.methods.gradient.unit_gradients import unit_gradients  # torch: only where rows are made

        if not units:
            return np.zeros((0, state.size), dtype=np.float32)
        units = [self._told(unit) for unit in units]
        if self.options.directions:
            found = self._projected(base, state, units)
        else:
            with self._trained(base, state) as trained:
                found = unit_gradients(base, trained, units, self.options)
        progress(len(units))
        return found

    def _projected(self, base: Base, c: NDArray[np.float32], units: Sequence[UnitRecords]) -> NDArray[np.float32]:
        """P^T g_u for each unit at w_0 + P c, [n, k]; as many gradients at a time as `largest_row_mib` holds.

        Every batch has one shape, filled up with blank units: a row must not follow from its place (PRIVACY 3).
        """
        from undertone.methods.gradient.unit_gradients import unit_gradients  # torch: only where rows are made

        directions = self._directions(base.pinned).found(base)
        w = directions.moved(self._start(base.pinned), c)
        most = max(1, self.options.largest_row_mib * _MIB // (4 * w.size))
        at_once, found = min(most, len(units)), []
        with self._trained(base, w) as trained:
            for first in range(0, len(units), at_once):
                part = list(units[first : first + at_once])
                filled = [*part, *(blank_unit(base.latent_shape) for _ in range(at_once - len(part)))]
                gradients = unit_gradients(base, trained, filled, self.options)
                found.append(directions.project(gradients[: len(part)]))
        return np.concatenate(found)

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """The release's tensors: of w [D], or of w_0 + P c where `w` is c [k]."""
        if self.options.directions:
            w = self._directions(base).found().moved(self._start(base), w)
        return self._released(base, w)

    def fixed(self, name: str) -> Draw | None:
        """None: a release holds w alone, unless a subclass says otherwise."""
        del name
        return None

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """The caption, its columns but that of the class empty, before and after."""
        prompt = fill_caption(caption, self.token, {} if of is None else of.columns)
        return prompt, prompt
