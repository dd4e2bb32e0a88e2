"""What a method may offer to whoever plans: what is affordable, what K costs, how long a step is, a warm start.

No torch here.
"""

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from undertone.methods.protocol import Method, Said
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase


@runtime_checkable
class AffordableMethod(Method, Protocol):
    """A method that "auto" may give what takes long to make on a large base."""

    def affordable(
        self, base: PinnedBase, chosen: Collection[str], quick: Callable[[Method, int], bool]
    ) -> tuple[Method, Said]:
        """This method, without what would take long or not fit; and what was left out.

        Args:
            base: the base's files.
            chosen: keys that "auto" chose; what the study asks for stays.
            quick: whether so many rows of a method are a matter of a minute or so on this base.
        """


@runtime_checkable
class AveragingMethod(Method, Protocol):
    """A method whose row is a mean over K draws, taken before the clip: K costs compute and no privacy."""

    def averaging(self) -> Sequence[tuple[str, "Method"]]:
        """The same method with half and with double K, as far as its keys go; each with the key that says so."""


@runtime_checkable
class EncodingMethod(Method, Protocol):
    """A method whose rows follow from latents alone: a unit goes through the encoder once, then through no network.

    Latents are kept beside the attempts, so later rounds encode only what no round has drawn yet.
    """

    encodes_alone: ClassVar[Literal[True]]


@runtime_checkable
class SteppingMethod(Method, Protocol):
    """A method whose steps have a length to choose: its key `automatic.measured`, which may be "auto"."""

    def step_scale(self, base: PinnedBase) -> float | None:
        """The public length that steps are measured by, where the base's files say it; None: drawings do."""

    def public_distance(self, base: Base, caption: str, count: int) -> float:
        """That length by the first `count` public drawings: how far from the start the lowest loss of one lies.

        Raises:
            StudyError: drawings do not say.
        """

    def automatic_rate(self, scale: float, clip_norm: float, rounds: int, dimension: int) -> tuple[float, str]:
        """What "auto" is, from that length, C, T and d alone; and why, in a line."""


@runtime_checkable
class WarmStarted(Method, Protocol):
    """A method whose w can be trained in the ordinary way, on images that are public or were released already."""

    def warm_start(
        self, base: Base, latents: NDArray[np.float32], classes: NDArray[np.int64] | None, steps: int, seed: int
    ) -> NDArray[np.float32]:
        """`w` [d] after `steps` on latents [n, c, h, w] of classes [n], places in the list; by a public seed alone."""
