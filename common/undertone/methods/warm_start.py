"""Methods that can start from a release: trained on what it draws before the first round. No torch here."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from undertone.errors import MechanismViolation
from undertone.methods.protocol import Method
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase


@runtime_checkable
class WarmStarted(Method, Protocol):
    """A method that can be trained at the coordinator, on images drawn from a release, before its first round."""

    def warm_start(
        self,
        base: Base,
        latents: NDArray[np.float32],
        classes: NDArray[np.int64] | None,
        steps: int,
        seed: int,
    ) -> NDArray[np.float32]:
        """The public w [d] to begin with, trained from `initial_state` on public latents; the same for the same seed.

        Args:
            base: loaded, as it is without any release.
            latents: [n, c, h, w] of the images.
            classes: [n] places in the study's list of classes, or None where it has none.
            steps: how many steps of training.
            seed: public, of every draw.
        """


@runtime_checkable
class RestartableMethod(Method, Protocol):
    """A method whose memory behind w is another where w begins elsewhere, such as an average of w."""

    def state_at(self, base: PinnedBase, w: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `initial_state`, from w [d]."""


def state_at(method: Method, base: PinnedBase, w: NDArray[np.float32]) -> NDArray[np.float32]:
    """The public state before the first round that begins with w [d]; of most methods nothing behind it depends on w.

    Raises:
        MechanismViolation: w has not d values, or one that is not finite.
    """
    if w.shape != (method.dimension(base),) or not bool(np.isfinite(w).all()):
        raise MechanismViolation(f"a start of {w.shape} values, all finite or not, is no start of {method.name}")
    if isinstance(method, RestartableMethod):
        return method.state_at(base, w)
    state = method.initial_state(base).copy()
    state[: w.size] = w
    return state
