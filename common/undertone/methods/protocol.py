"""What a method supplies: f, a step and a release. It never clips, samples, adds noise or accounts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from undertone.layout import Layout
from undertone.models.pinned import PinnedBase
from undertone.privacy.rows import KEY_BYTES, row_generator
from undertone.study import Section

if TYPE_CHECKING:
    from undertone.models.base import LoadedBase

Progress = Callable[[int], None]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class UnitRecords:
    """One unit's records, ready for training: `latents` [m, c, h, w] float32, `captions` m, m >= 1.

    `generator` is the unit's own randomness (PRIVACY 3): no other unit's row may draw from it.
    """

    latents: NDArray[np.float32]
    captions: tuple[str, ...]
    generator: np.random.Generator


def blank_unit(shape: tuple[int, ...]) -> UnitRecords:
    """What stands in a slot that no unit took: a blank latent of that shape [c, h, w], a blank caption."""
    return UnitRecords(np.zeros((1, *shape), dtype=np.float32), ("",), row_generator(bytes(KEY_BYTES)))


class Method(Protocol):
    """One way of adapting a model. Instances hold the study's validated options and nothing else."""

    name: ClassVar[str]
    options_type: ClassVar[type[Section]]
    one_shot: ClassVar[bool]
    alignment: ClassVar[float]
    options: Any

    def __init__(self, options: Any) -> None:  # noqa: ANN401 - each method's own options_type
        """Keep the validated options."""

    def check(self, base: PinnedBase, caption: str) -> None:
        """Refuse what cannot work: a base without the parts, a caption without the token.

        Raises:
            ModelError, StudyError: with what would work.
        """

    def layout(self, base: PinnedBase) -> Layout:
        """Which tensors the study adapts."""

    def initial_state(self, base: PinnedBase) -> NDArray[np.float32]:
        """What the coordinator starts from, public: w [d], and behind it whatever `step` must remember.

        The array keeps its length; sites get its first d values alone.
        """

    def public_clip_norm(self, base: PinnedBase, caption: str) -> float:
        """C for `clip_norm = "auto"`, from public data alone; deterministic.

        Raises:
            StudyError: this method cannot set it.
        """

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        """Which of a unit's `records` enter its row, in order; drawn, if at all, from the unit's own randomness.

        No others are read: a patient with thousands of images takes no more memory than one with a few.
        """

    def rows(
        self, base: "LoadedBase", state: NDArray[np.float32], units: Sequence[UnitRecords], progress: Progress
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

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Mapping[str, Mapping[str, NDArray[np.float32]]]:
        """File name -> tensors by name, in the formats diffusers loads."""

    def released_layout(self, file: str, shapes: Shapes) -> Layout | None:
        """The layout whose release this is, from names and shapes in a file alone; None: of none of this method's."""

    def sample_prompts(self, caption: str) -> tuple[str, str]:
        """The prompts for samples before and after adaptation."""


@runtime_checkable
class SummingMethod(Method, Protocol):
    """A method that can sum clipped rows as it makes them, none of which is ever held whole."""

    def clipped_sum(
        self,
        base: "LoadedBase",
        state: NDArray[np.float32],
        slots: Sequence[UnitRecords | None],
        *,
        scale: int,
        clip_units: int,
    ) -> NDArray[np.int64]:
        """Sum trunc(s min(1, C / |x_u|) x_u) over the units in the slots, [d], s C = `clip_units`; None: an empty slot.

        Each unit's integers are of length s C at most, checked in integers, and follow from that unit alone; every
        shape follows from the number of slots. A unit whose row is not finite adds nothing.
        """
