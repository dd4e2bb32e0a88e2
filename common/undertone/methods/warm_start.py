"""The public state that begins with a w which was trained on what a release draws (PRIVACY 25). No torch here."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from undertone.errors import MechanismViolation
from undertone.methods.protocol import Method
from undertone.models.pinned import PinnedBase


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
