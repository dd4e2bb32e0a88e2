"""What sites are sent in place of w: a student's inputs and outputs, whose labels they are, and one noise level.

    query = [x_sigma (B, D) | D_w(x_sigma; sigma, y) (B, D) | y (B) | sigma (1) | round (1)]

A label is a place in the study's list of classes, or -1, which says nothing. Labels and noise level follow from the
study's seed and the round's number, so a site draws them too and refuses others. The number counts from 0.
"""

from dataclasses import dataclass
from math import exp
from typing import Self

import numpy as np
from numpy.typing import NDArray

from undertone.core.bounds import ATTEMPTS
from undertone.errors import PlanChanged
from undertone.methods.sad.options import SADOptions

Array = NDArray[np.float32]
NONE = -1
_SAME = 1e-5  # of two noise levels: float32, and last bits of another processor


@dataclass(frozen=True)
class Drawn:
    """What is public of a round before the student has answered: of each output a label and a seed."""

    sigma: float
    labels: NDArray[np.int64]
    seeds: NDArray[np.int64]
    round: int


def drawn(options: SADOptions, levels: tuple[float, float], classes: int, outputs: int, round_: int) -> Drawn:
    """One noise level within `levels`, and for each output a label and a seed, by study's seed and round.

    Labels go round: all of K outputs in a row have different classes, in an order that is drawn.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([options.query_seed, round_], dtype=np.uint64)))
    normal, dropped = generator.standard_normal(), generator.random(outputs) < options.caption_dropout
    sigma = exp(options.query_log_sigma_mean + options.query_log_sigma_deviation * normal)
    labels = np.concatenate([generator.permutation(max(classes, 1)) for _ in range(outputs)])[:outputs]
    seeds = generator.integers(1 << 62, size=outputs)
    lowest, highest = levels
    return Drawn(min(max(sigma, lowest), highest), np.where(dropped | (classes == 0), NONE, labels), seeds, round_)


@dataclass(frozen=True)
class Query:
    """inputs, outputs: [B, D]. labels: int64 [B]. sigma: the noise in the inputs. round: from 0."""

    inputs: Array
    outputs: Array
    labels: NDArray[np.int64]
    sigma: float
    round: int = 0

    @classmethod
    def of(cls, sent: Array, outputs: int, values: int) -> Self:
        """The reverse of `vector`, for B = `outputs` and D = `values`.

        Raises:
            PlanChanged: a number of values that no query has, one that is not finite, a label or round between two.
        """
        if sent.shape != (length(outputs, values),) or not bool(np.isfinite(sent).all()):
            raise PlanChanged("the coordinator sent a query that is none: values are missing or not finite")
        both = sent[: 2 * outputs * values].reshape(2, outputs, values)
        whole = np.append(sent[-2 - outputs : -2], sent[-1])
        if (whole != np.rint(whole)).any() or not (np.abs(whole) <= ATTEMPTS).all() or whole[-1] < 0:
            raise PlanChanged("the coordinator sent a query whose labels or round are none of any study")
        return cls(both[0], both[1], whole[:-1].astype(np.int64), float(sent[-2]), int(whole[-1]))

    def is_of(self, of: Drawn) -> bool:
        """Whether round, labels and noise level are those that were drawn."""
        same = self.round == of.round and np.array_equal(self.labels, of.labels)
        return same and abs(self.sigma - of.sigma) <= _SAME * of.sigma

    def vector(self) -> Array:
        """What is sent, [2 B D + B + 2]."""
        parts = (self.inputs.reshape(-1), self.outputs.reshape(-1), self.labels, [self.sigma, self.round])
        return np.concatenate(parts).astype(np.float32)


def length(outputs: int, values: int) -> int:
    """How many values a query has."""
    return 2 * outputs * values + outputs + 2
