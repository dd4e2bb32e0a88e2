"""`dp-prototypes`: noisy k-means of each class's latents, and a covariance: statistics, and no gradient (PRIVACY 16).

Latents are whitened by public drawings (`public_latents.py`): z [k]. Two stages:

    centres   rounds 1 .. T-1 of Lloyd's k-means, each class by itself, from centres of drawings
              x_u = mean over records of [a 1(class, nearest centre) ; z - mu there, cut to length R]
              mu <- mu + noisy residuals / noisy count
    rounds    one round, of weights and covariances
              x_u = mean over records of [a 1(class, nearest centre) ; (z - mu)(z - mu)^T / R of the class]

Counts and sums are one vector, clipped once. It is of length sqrt(a^2 + R^2) at most by itself, which is C: no drawing
is needed to set it, and no row is shortened. Denominators are the noisy counts of the same sum, with a floor. What is
released draws by itself: prototypes in the base's latents, for its decoder alone.

    state = w = for each class [centres (J, k) | weights (J) | factor (k, k)]       sites get all of it
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from undertone.core.captions import TOKEN, caption_columns, caption_fields, fill_caption
from undertone.core.config import Section
from undertone.core.progress import reporter
from undertone.errors import DirectionsDiffer, MechanismViolation, PlanChanged, StudyError
from undertone.methods.classed import NamesClasses
from undertone.methods.classes import ClassShown, Shares
from undertone.methods.gradient.directions import same_directions
from undertone.methods.protocol import Automatic, Draw, Method, MethodStage, Progress, Said, UnitRecords
from undertone.methods.prototypes import kept_latents
from undertone.methods.prototypes.kept_latents import Wanted, latent_shape
from undertone.methods.prototypes.mixture import Floats, Prototypes, Sizes, moved, start, weighed
from undertone.methods.prototypes.names import named
from undertone.methods.prototypes.options import PrototypeOptions
from undertone.methods.prototypes.public_latents import PublicLatents
from undertone.methods.prototypes.release import PROTOTYPE_FILE
from undertone.methods.prototypes.rows import bound, centre_row, moment_row
from undertone.methods.release_format import ReleaseFormat, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase
from undertone.privacy.quantise import RING_BITS, Grid, clip_and_quantise

CENTRES = "centres"
State = NDArray[np.float32]
# Of the drawings whose rows are measured: others than those that the public latents come from.
_SEED = 20_330_101


class DPPrototypes(NamesClasses):
    """The method `dp-prototypes` as a study names it, and its last stage; see the module's description."""

    name: ClassVar[str] = "dp-prototypes"
    options_type: ClassVar[type[Section]] = PrototypeOptions
    one_shot: ClassVar[bool] = False
    few_drawings: ClassVar[int] = 8
    needs: ClassVar[frozenset[str]] = frozenset({"unet", "vae"})
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (PROTOTYPE_FILE,)
    automatic: ClassVar[Automatic] = Automatic(rounds=3)
    encodes_alone: ClassVar[Literal[True]] = True
    options: PrototypeOptions

    def __init__(self, options: PrototypeOptions) -> None:
        self.options = options

    # --- what is public ---------------------------------------------------------------------------

    @property
    def sizes(self) -> Sizes:
        """K, J and k."""
        return Sizes(max(1, len(self.classes)), self.options.centres, self.options.components)

    @property
    def radius(self) -> float:
        """The length to which residuals are cut.

        Raises:
            MechanismViolation: it is still "auto", as in no plan.
        """
        if self.options.radius == "auto":
            raise MechanismViolation("method.radius is a number in every plan")
        return self.options.radius

    @property
    def alignment(self) -> float:
        """Rows of K classes lie in K places of the mean row."""
        return float(self.sizes.classes**-0.5)

    @property
    def counted_by(self) -> str:
        """A row says to which centre a unit's images are nearest."""
        return "centre of each class" if self.per_class else "centre"

    @property
    def release_format(self) -> ReleaseFormat:
        """The one there is."""
        return PROTOTYPE_FILE

    @property
    def token(self) -> str:
        """It learns no word."""
        return ""

    def lighter(self) -> Sequence[tuple[str, Method]]:
        """None: a row takes next to no memory."""
        return []

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption has no word to learn, and the base's latents have as many values as there are components.

        Raises:
            StudyError: with what would work.
        """
        options, size = self.options, int(np.prod(latent_shape(base)))
        if TOKEN in caption_fields(caption):
            raise StudyError(
                f'data.caption = "{caption}": {self.name} learns no word, so write one in place of {{token}}'
            )
        if options.components > size:
            raise StudyError(f"method.components = {options.components}: latents of this base have {size} values")
        if options.public_drawings <= max(options.components, options.centres):
            raise StudyError(
                f"method.public_drawings = {options.public_drawings}: so few drawings give neither "
                f"{options.components} components nor {options.centres} centres"
            )

    def settled(self, base: PinnedBase, caption: str) -> tuple[Method, Said]:
        """With the fingerprint of the public latents.

        Raises:
            StudyError: drawings do not span so many components, or the study says another fingerprint.
        """
        del caption
        options, found = self.options, kept_latents.found(self._wanted, base, "")
        if options.public_check and not same_directions(options.public_check, found.fingerprint()):
            raise StudyError("method.public_check is not that of this base and these options; leave it out")
        kinds = " and ".join(options.kinds) if options.kinds else "all kinds"
        line = (
            f"{options.components} of {found.mean.size} values, from {options.public_drawings} drawings of {kinds}; "
            f"they keep {found.kept:.0%} of other drawings' variance"
        )
        update: dict[str, Any] = {"public_check": found.fingerprint()}
        said = [("public components", line)]
        if options.radius == "auto":
            radius = float(f"{found.spread:.2g}")
            update["radius"] = radius
            said.append(("auto: radius", f"{radius:g}: as far as drawings lie from their centres, by root mean square"))
        return type(self)(options.model_copy(update=update)), said

    def prepare(self, base: PinnedBase, loaded: Base | None = None) -> None:
        """The public latents.

        Raises:
            DirectionsDiffer: they are not the plan's, or the plan does not say which are.
        """
        if not self.options.public_check:
            raise DirectionsDiffer(
                f"a plan with {self.name} says by public_check which public latents it was made with, and this one "
                "does not; plan anew"
            )
        self._public(base, loaded)

    def layout(self, base: PinnedBase) -> Layout:
        """Centres, weights and factor of each class in the order of their names, in latents."""
        return named(self.classes, self.options.centres, self.options.components, latent_shape(base))

    def dimension(self, base: PinnedBase) -> int:
        """Of w, which holds the same in k components."""
        del base
        return self.sizes.values

    def initial_state(self, base: PinnedBase) -> State:
        """The centres and the covariance of drawings, alike for each class."""
        found = self._public(base)
        centres, covariance = (one.astype(np.float64) for one in (found.centres, found.covariance))
        return start(centres, covariance, self.sizes.classes).vector()

    # --- stages -----------------------------------------------------------------------------------

    def stages(self, base: PinnedBase) -> Sequence[MethodStage]:
        """The rounds that move centres, and the round of weights and covariances."""
        del base
        options, longest = self.options, bound(self.radius, self.options.count_weight)
        return [
            MethodStage(
                CENTRES,
                Centres(options),
                self.sizes.centre_row,
                rounds=options.lloyd_rounds,
                share=options.lloyd_share,
                clip_norm=longest,
                check=self._check_sent,
            ),
            MethodStage(
                "",
                self,
                self.sizes.moment_row,
                rounds=1,
                clip_norm=longest,
                check=self._check_sent,
                # The count of a class is the sum of those of its J centres, and so is the noise in it.
                shares=Shares(float(options.count_weight / options.centres**0.5)),
            ),
        ]

    def sent(self, base: PinnedBase) -> int:
        """All of w: rows follow from the centres."""
        return self.dimension(base)

    # --- rows and steps ---------------------------------------------------------------------------

    @property
    def passes(self) -> int:
        """One, of the autoencoder: rows come from latents alone."""
        return 1

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Lengths of rows of drawings at the start."""
        del caption
        state = self.initial_state(base.pinned)
        with reporter().task("rows of public drawings", count) as progress:
            latents = kept_latents.drawn(base, _SEED, count, self.options.kinds, progress)
        z = self._public(base.pinned, base).whitened(latents)
        rows = self._rows([one[None] for one in z], [np.zeros(1, dtype=np.int64)] * count, state)
        return np.asarray(np.linalg.norm(rows.astype(np.float64), axis=1))

    def reach(self, clip_norm: float, length: float) -> float | None:
        """None: sums are divided by counts of the same sum, and C falls out."""
        del clip_norm, length
        return None

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        """A random choice of `records` of them, where there are more."""
        chosen: list[int] = generator.permutation(records)[: self.options.records].tolist()
        return chosen

    def rows(self, base: Base, state: State, units: Sequence[UnitRecords], progress: Progress) -> State:
        """Each unit's row, [n, row]; `state` is w.

        Raises:
            MechanismViolation: prototypes for each class, and records without one of the plan's list.
        """
        found = self._public(base.pinned, base)
        z = [found.whitened(unit.inputs) for unit in units]
        rows = self._rows(z, [self._places(unit) for unit in units], state)
        progress(len(units))
        return rows

    def sums(self, base: PinnedBase) -> bool:
        """Yes: a row is some thousand values that take no time, and keeping each would be most of the work."""
        del base
        return True

    def clipped_sum(
        self,
        base: Base,
        state: State,
        batch: Sequence[UnitRecords | None],
        *,
        scale: int,
        clip_units: int,
    ) -> NDArray[np.int64]:
        """The integer sum of the units' rows, each clipped once as a whole and checked in integers, [row]."""
        rows = self.rows(base, state, [unit for unit in batch if unit is not None], _unheard)
        return np.asarray(clip_and_quantise(rows, Grid(scale, clip_units, 1, RING_BITS)).sum(axis=0))

    def step(self, state: State, mean: Floats) -> State:
        """As `step_from` where there is no noise."""
        return self._stepped(state, mean, 0.0)

    def step_from(self, state: State, mean: Floats, deviation: float) -> State:
        """The state after a round; `deviation` is that of the noise in each value of the mean row."""
        return self._stepped(state, mean, deviation)

    def _stepped(self, state: State, mean: Floats, deviation: float) -> State:
        """Weights and covariances, from the noised mean row of the last round."""
        return weighed(self.prototypes(state), mean, deviation, self.options.count_weight, self.radius).vector()

    def prototypes(self, state: State) -> Prototypes:
        """What the state w holds."""
        return Prototypes.of(state, self.sizes)

    def _rows(self, z: Sequence[Floats], places: Sequence[NDArray[np.int64]], state: State) -> State:
        """Rows of whitened units at w, [n, row]."""
        at = self.prototypes(state)
        rows = np.empty((len(z), self._row_length), dtype=np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            for number, (one, of_classes) in enumerate(zip(z, places, strict=True)):
                rows[number] = self._row(one, of_classes, at)
        return rows

    @property
    def _row_length(self) -> int:
        return self.sizes.moment_row

    def _row(self, z: Floats, places: NDArray[np.int64], at: Prototypes) -> Floats:
        return moment_row(z, places, at, self.radius, self.options.count_weight)

    # --- the release ------------------------------------------------------------------------------

    def released(self, state: State) -> State:
        """The state itself."""
        return state

    def weights(self, base: PinnedBase, w: State) -> Weights:
        """Centres and factors of w [d] in latents, weights as they are; linear in w."""
        found, held = self._public(base), self.prototypes(w)
        back, layout = found.back.astype(np.float64), self.layout(base)
        centres = found.mean + held.centres @ back
        parts = zip(centres, held.weights, held.factors @ back, strict=True)
        flat = [part.reshape(-1) for of_class in parts for part in of_class]
        return PROTOTYPE_FILE.write(layout, np.concatenate(flat).astype(np.float32))

    def fixed(self, name: str) -> Draw | None:
        """None: a release holds what was learned alone."""
        del name
        return None

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """Before the caption, after the class's name, which is all that a release of prototypes reads.

        A caption that is the class's name and nothing else says a base nothing that does not know the class: there the
        prompt before is empty.
        """
        bare = of is not None and caption.strip() == f"{{{of.column}}}" and caption_columns(caption) == [of.column]
        before = "" if bare else fill_caption(caption, "", {} if of is None else of.columns)
        return before, of.name if of is not None and self.per_class else ""

    # --- within -----------------------------------------------------------------------------------

    @property
    def _wanted(self) -> Wanted:
        options = self.options
        return Wanted(options.components, options.centres, options.public_drawings, tuple(options.kinds))

    def _public(self, base: PinnedBase, loaded: Base | None = None) -> PublicLatents:
        return kept_latents.found(self._wanted, base, self.options.public_check, loaded)

    def _places(self, unit: UnitRecords) -> NDArray[np.int64]:
        """Of each record's class among the names in their order; the order in which they were typed is nothing."""
        if not self.classes:
            return np.zeros(len(unit.captions), dtype=np.int64)
        if unit.classes is None or unit.classes.max() >= len(self.classes):
            raise MechanismViolation("prototypes for each class need records that have a class of the plan's list")
        order = sorted(self.classes)
        return np.array([order.index(self.classes[place]) for place in unit.classes], dtype=np.int64)

    def _check_sent(self, sent: State) -> None:
        """No step leaves centres that are farther out, or values that are not finite.

        Raises:
            PlanChanged: what a coordinator sent is so.
        """
        if sent.shape != (self.sizes.values,) or not np.isfinite(sent).all():
            raise PlanChanged("the coordinator sent prototypes that are none: values are missing or not finite")
        longest = np.linalg.norm(self.prototypes(sent).centres, axis=2).max()
        if longest > 1.0001 * self.sizes.farthest:
            raise PlanChanged(f"the coordinator sent a centre of length {longest:.3g}, farther out than any step goes")


def _unheard(_units: int) -> None:
    """Nobody watches."""


class Centres(DPPrototypes):
    """The stage `centres`: noisy Lloyd rounds."""

    @property
    def _row_length(self) -> int:
        return self.sizes.centre_row

    def _row(self, z: Floats, places: NDArray[np.int64], at: Prototypes) -> Floats:
        return centre_row(z, places, at, self.radius, self.options.count_weight)

    def _stepped(self, state: State, mean: Floats, deviation: float) -> State:
        """The centres, moved by noisy residuals over noisy counts."""
        return moved(self.prototypes(state), mean, deviation, self.options.count_weight).vector()
