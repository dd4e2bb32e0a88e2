"""What sites are sent in place of w: a student's inputs and outputs, whose labels they are, and one noise level.

    query = [x_sigma (B, D) | D_w(x_sigma; sigma, y) (B, D) | y (B) | sigma (1)]

A label is a place in the study's list of classes, or -1, which says nothing.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from undertone.errors import PlanChanged

Array = NDArray[np.float32]
NONE = -1


@dataclass(frozen=True)
class Query:
    """inputs, outputs: [B, D]. labels: int64 [B]. sigma: the noise in the inputs."""

    inputs: Array
    outputs: Array
    labels: NDArray[np.int64]
    sigma: float

    @classmethod
    def of(cls, sent: Array, outputs: int, values: int) -> Self:
        """The reverse of `vector`, for B = `outputs` and D = `values`.

        Raises:
            PlanChanged: a number of values that no query has, or one that is not finite.
        """
        if sent.shape != (length(outputs, values),) or not bool(np.isfinite(sent).all()):
            raise PlanChanged("the coordinator sent a query that is none: values are missing or not finite")
        both = sent[: 2 * outputs * values].reshape(2, outputs, values)
        labels = np.rint(sent[-1 - outputs : -1]).astype(np.int64)
        return cls(both[0], both[1], labels, float(sent[-1]))

    def vector(self) -> Array:
        """What is sent, [2 B D + B + 1]."""
        parts = (self.inputs.reshape(-1), self.outputs.reshape(-1), self.labels, [self.sigma])
        return np.concatenate(parts).astype(np.float32)


def length(outputs: int, values: int) -> int:
    """How many values a query has."""
    return 2 * outputs * values + outputs + 1
