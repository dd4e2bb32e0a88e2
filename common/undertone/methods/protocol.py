"""What a method supplies: f, a step and a release. It never clips, samples, adds noise or accounts.

Nor does it know of studies and plans: it gets its own options, a caption and a base. No torch here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import Json
from undertone.core.config import Section
from undertone.errors import MechanismViolation, ModelError
from undertone.methods.classes import ClassShown, Shares
from undertone.methods.release_format import ReleaseFormat, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase
from undertone.privacy.unit_randomness import KEY_BYTES, row_generator

Progress = Callable[[int], None]
Shape = tuple[int, ...]
Draw = Callable[[Shape], NDArray[np.float32]]
Said = Sequence[tuple[str, str]]
"""Lines for a person: name and value."""
# The parts of a pipeline that draws latents to a text.
TEXT_TO_IMAGE = frozenset({"unet", "text_encoder", "tokenizer", "scheduler", "vae"})


@dataclass(frozen=True)
class UnitRecords:
    """One unit's m >= 1 records, ready for training.

    latents: [m, c, h, w] float32, or None where a method trains on pixels. captions: m. generator: the unit's own
    randomness (PRIVACY 3): no other unit's row may draw from it. pixels: [m, h, w, 3] uint8, or None.
    classes: [m] int64, places in the study's public list of classes, or None.

    Raises:
        MechanismViolation: neither latents nor pixels, or not m of each.
    """

    latents: NDArray[np.float32] | None
    captions: tuple[str, ...]
    generator: np.random.Generator
    pixels: NDArray[np.uint8] | None = None
    classes: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.latents is None and self.pixels is None:
            raise MechanismViolation("a unit's records have neither latents nor pixels")
        counts = {len(held) for held in (self.latents, self.captions, self.pixels, self.classes) if held is not None}
        if len(counts) != 1 or 0 in counts:
            raise MechanismViolation(f"a unit's latents, captions, pixels and classes are not as many: {counts}")

    @property
    def inputs(self) -> NDArray[np.float32]:
        """The latents, for a method that cannot do without.

        Raises:
            MechanismViolation: there are none.
        """
        if self.latents is None:
            raise MechanismViolation("this method trains on latents, and a unit came without")
        return self.latents


def blank_unit(latents: Shape | None, pixels: Shape | None = None, *, classes: bool = False) -> UnitRecords:
    """What stands in a slot that no unit took: one blank record, with a blank caption.

    Args:
        latents: the shape of a latent [c, h, w]; None: without latents.
        pixels: the shape of an image [h, w, 3]; None: without pixels.
        classes: whether it has a class, the first.
    """
    return UnitRecords(
        None if latents is None else np.zeros((1, *latents), dtype=np.float32),
        ("",),
        row_generator(bytes(KEY_BYTES)),
        None if pixels is None else np.zeros((1, *pixels), dtype=np.uint8),
        np.zeros(1, dtype=np.int64) if classes else None,
    )


def blank_like(unit: UnitRecords) -> UnitRecords:
    """A blank unit that holds what `unit` holds, in the same shapes."""
    shapes = (None if held is None else held.shape[1:] for held in (unit.latents, unit.pixels))
    return blank_unit(*shapes, classes=unit.classes is not None)


@dataclass(frozen=True)
class Choice:
    """A value of a key of [method] and why; not chosen where the study names the key `unless`, which it goes with."""

    value: Json
    why: str
    unless: str = ""


@dataclass(frozen=True)
class Automatic:
    """What "auto" is for a method, whatever the subject (docs/methods.md): plain numbers, in the plan before any data.

    rounds: T. clip_share: C over the median row of public drawings. options: keys of [method]. measured: one more key,
    which a `SteppingMethod` finds from C and public drawings; "" for none.
    """

    rounds: int = 1
    clip_share: float = 0.5
    options: Mapping[str, Choice] = field(default_factory=dict)
    measured: str = ""


class Method(Protocol):
    """One way of adapting a model. Instances hold the study's validated options and nothing else.

    name: as in [method] of a study. options_type: its keys there. one_shot: it opens one sum. needs: the parts of a
    pipeline that it reads or trains, as `PinnedBase.parts` names them ("unet"). formats: the kinds of release that it
    may write. automatic: what "auto" is.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[Section]]
    one_shot: ClassVar[bool]
    # The median row of so few public drawings lies within 20 % of that of 32 (docs/benchmarks.md).
    few_drawings: ClassVar[int]
    needs: ClassVar[frozenset[str]]
    formats: ClassVar[tuple[ReleaseFormat, ...]]
    automatic: ClassVar[Automatic]
    options: Any

    def __init__(self, options: Any) -> None:  # noqa: ANN401 - each method's own options_type
        """Keep the validated options."""

    @property
    def alignment(self) -> float:
        """The length of the mean row over C that a plan may count on as signal."""

    @property
    def release_format(self) -> ReleaseFormat:
        """How what it releases under its options lies on disk, is loaded and described; one of `formats`."""

    @property
    def token(self) -> str:
        """The word that stands where a caption says {token}; "" for a method that learns none."""

    def lighter(self) -> Sequence[tuple[str, "Method"]]:
        """The same method with less of a unit in memory at a time, the nearest first; none where it has no such keys.

        Each comes with the keys of the study that say so, as advice: "method.draws = 2".
        """

    def check(self, base: PinnedBase, caption: str) -> None:
        """Refuse what cannot work: a word that the base lacks, a caption without the token.

        Raises:
            ModelError, StudyError: with what would work.
        """

    def layout(self, base: PinnedBase) -> Layout:
        """Which tensors the study adapts, and which of its release are `fixed`."""

    def dimension(self, base: PinnedBase) -> int:
        """How many values w and a row have, d: as many as those tensors, or fewer that they follow from."""

    def initial_state(self, base: PinnedBase) -> NDArray[np.float32]:
        """What the coordinator starts from, public: w [d], and behind it whatever `step` must remember.

        The array keeps its length; sites get its first d values alone, of a `StagedMethod` its first `sent`.
        """

    @property
    def passes(self) -> int:
        """How often one unit's row goes forward and backward through the base."""

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Lengths of the unclipped rows of the first `count` public drawings at the start, [count]; deterministic."""

    def reach(self, clip_norm: float, length: float) -> float | None:
        """How far rows of `length`, clipped to C, move what is released, over how far they move it whole at rescale 1.

        None: how far a step goes does not follow from C.
        """

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        """Which of a unit's `records` enter its row, in order; drawn, if at all, from the unit's own randomness.

        No others are read: a patient with thousands of images takes no more memory than one with a few.
        """

    def rows(
        self, base: Base, state: NDArray[np.float32], units: Sequence[UnitRecords], progress: Progress
    ) -> NDArray[np.float32]:
        """x_u = f(w, records of u) for each unit, [n, d]; `state` is w [d]; row j depends on unit j alone."""

    def sums(self, base: PinnedBase) -> bool:
        """Whether rows are too long to be kept one by one, so that the method is a `SummingMethod` (PRIVACY 14).

        A public fact: it follows from the options and the base alone.
        """

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """The array after a round, from that before it and the mean row V / (s p sum N_i), [d]; post-processing only.

        Instances keep nothing between rounds: a run that was killed goes on from this array, bit-identical.
        """

    def released(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vector [d] that leaves the study: w, or an average of it over rounds."""

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """What the release holds of w [d], written by `release_format`."""

    def fixed(self, name: str) -> Draw | None:
        """How a tensor that a release holds beside w is made from its shape; None: it is of w, or of no release.

        It is public and the same in every study: `verify` makes it again and accepts no other value.
        """

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """The prompts for samples before and after adaptation, of one class where a study has classes.

        Columns of the caption stay empty, but for the class column.
        """


@runtime_checkable
class SummingMethod(Method, Protocol):
    """A method that can sum clipped rows as it makes them, none of which is ever held whole."""

    def clipped_sum(
        self,
        base: Base,
        state: NDArray[np.float32],
        batch: Sequence[UnitRecords | None],
        *,
        scale: int,
        clip_units: int,
    ) -> NDArray[np.int64]:
        """Sum trunc(s min(1, C / |x_u|) x_u) over the units of the batch, [d], s C = `clip_units`; None: padding.

        Each unit's integers are of length s C at most, checked in integers, and follow from that unit alone; every
        shape follows from the length of the batch. A unit whose row is not finite adds nothing.
        """


@runtime_checkable
class PreparedMethod(Method, Protocol):
    """A method whose rows may need more than the base: what everybody makes alike of public drawings.

    Never sent. Who plans makes it and puts into the options what tells it from another; every node and the coordinator
    make it again, and refuse to go on with another (PRIVACY 25).
    """

    def settled(self, base: PinnedBase, caption: str) -> tuple["Method", Said]:
        """This method with the options that only the base can tell, and what a person who plans should read of it.

        Raises:
            StudyError: the options ask for what the base does not have.
        """

    def prepare(self, base: PinnedBase, loaded: Base | None = None) -> None:
        """Make, or find on this machine, what rows and release need; on `loaded`, else on a base loaded for it.

        Called at a node before any coin falls or record is read, and at the coordinator before any site is asked.

        Raises:
            DirectionsDiffer: it is not what the plan was made with.
        """


def settled(method: Method, base: PinnedBase, caption: str) -> tuple[Method, Said]:
    """As `PreparedMethod.settled`; another method as it is, with nothing said."""
    return method.settled(base, caption) if isinstance(method, PreparedMethod) else (method, ())


def _as_it_is(_state: NDArray[np.float32]) -> None:
    """Nothing but w is sent, and any w will do."""


@dataclass(frozen=True)
class MethodStage:
    """What a method is asked for in consecutive rounds of one kind; public, from options and base alone (PRIVACY 25).

    Attributes:
        name: as plan and statement say it; of the last stage it is not said.
        method: the one whose rows and step these rounds take.
        row: values of one row.
        rounds: how many; None: all that are left, of the last stage, which may also say how many those must be.
        share: the part of the study's epsilon that its rounds may cost by themselves; None: what is left, of the last.
        clip_norm: C; None: what `privacy.clip_norm` says.
        check: raises `PlanChanged` for what a coordinator sends and no step of the stage before can have made.
        shares: where its rows hold shares of classes, these (PRIVACY 23).
    """

    name: str
    method: Method
    row: int
    rounds: int | None = None
    share: float | None = None
    clip_norm: float | Literal["auto"] | None = None
    check: Callable[[NDArray[np.float32]], None] = _as_it_is
    shares: Shares | None = None


@runtime_checkable
class StagedMethod(Method, Protocol):
    """A method whose rounds differ. What one stage decides lies in the state that sites are sent, behind w."""

    def stages(self, base: PinnedBase) -> Sequence[MethodStage]:
        """What its rounds are, at least two kinds, in their order."""

    def sent(self, base: PinnedBase) -> int:
        """How many values of the state sites are sent: w, and behind it what earlier stages decided."""


@runtime_checkable
class ShardedMethod(Method, Protocol):
    """A method whose rows are of shards of a site's units, in place of units (PRIVACY 15).

    Sites are sent a query and never w. In its shard stand those of a unit's records that `entering` names, drawn once
    for all rounds. Its `rows` and `step` raise `MechanismViolation`: nothing may call them.
    """

    @property
    def shards(self) -> int:
        """How many each site has, S; public."""

    def sent(self, base: PinnedBase) -> int:
        """How many values a query has."""

    def row(self, base: PinnedBase) -> int:
        """How many values a row has."""

    def query(self, base: Base, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """What sites are sent in place of w, [sent]; follows from the public state alone (its round is in there)."""

    def check_query(self, base: PinnedBase, query: NDArray[np.float32], round_: int) -> None:
        """Raise `PlanChanged` for a query [sent] that is none of this round, from 1; before anything is made of it."""

    def step_on(
        self, base: Base, state: NDArray[np.float32], query: NDArray[np.float32], mean: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """As `step`, through the student at the round's query [sent]; `mean` [row]: V / (s N), N the shards in V."""

    def prepared(self, base: Base, shard: UnitRecords) -> NDArray[np.float32]:
        """What a shard's rows need of its records in all rounds (its latents, their classes, a trained teacher), flat.

        A function of the shard, its generator and public things alone; made once, kept at the node, never sent. Steps
        and batches are public numbers, whatever the shard holds. An empty shard is never asked for.
        """

    def memory(self, base: PinnedBase) -> int:
        """How many values a shard keeps from round to round; 0: none."""

    def shard_row(
        self,
        base: Base,
        query: NDArray[np.float32],
        prepared: NDArray[np.float32],
        memory: NDArray[np.float32] | None,
        generator: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A shard's row [row], and its memory [memory] after a round that is charged; None: before the first."""


@runtime_checkable
class NoiseAware(Method, Protocol):
    """A method whose step needs the size of the noise, which is public: it subtracts what noise adds to squares."""

    def step_from(self, state: NDArray[np.float32], mean: NDArray[np.float64], deviation: float) -> NDArray[np.float32]:
        """As `step`; `deviation` is that of the noise in each value of the mean row."""


def stages_of(method: Method, base: PinnedBase) -> Sequence[MethodStage]:
    """The stages of any method; most have one, of rows as long as w."""
    if isinstance(method, StagedMethod):
        return method.stages(base)
    if isinstance(method, ShardedMethod):
        return [MethodStage("", method, method.row(base))]
    return [MethodStage("", method, method.dimension(base))]


def sent_by(method: Method, base: PinnedBase) -> int:
    """How many values of the state sites are sent, of most methods w; of a query in place of them."""
    return method.sent(base) if isinstance(method, StagedMethod | ShardedMethod) else method.dimension(base)


def check_needs(method: Method, base: PinnedBase) -> None:
    """The base has the parts that the method needs.

    Raises:
        ModelError: it lacks one.
    """
    lacking = sorted(method.needs - base.parts)
    if lacking:
        raise ModelError(f"{method.name} needs a base with {' and '.join(lacking)}, which {base.reference} lacks")
