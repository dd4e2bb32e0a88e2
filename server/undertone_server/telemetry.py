"""TensorBoard events: public or charged values only."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.summary import Writer

from undertone.privacy.accounting import Event, epsilon_spent
from undertone.study.plan import Plan


class Telemetry:
    """Writes RUN/events. Epsilon spent so far is an odometer: the claim is the plan's, whole."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._plan = plan
        self._writer = Writer(str(folder))

    def round_done(self, round_: int, charged: Sequence[Event], state: NDArray[np.float32]) -> None:
        """One round: what has been spent on all that was charged, and the length of w."""
        spent = epsilon_spent(charged, self._plan.privacy.delta)
        # Within the plan's attempts nothing above the claim was spent: what the wider steps add is no spending.
        self._writer.add_scalar("privacy/epsilon_spent_so_far", min(spent, self._plan.privacy.epsilon), round_)
        self._writer.add_scalar("privacy/epsilon_claim", self._plan.privacy.epsilon, round_)
        self._writer.add_scalar("update/state_length", float(np.linalg.norm(state)), round_)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
