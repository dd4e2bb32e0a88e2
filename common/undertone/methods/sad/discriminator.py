"""A shard's discriminator: whether an output is its teacher's or the student's.

    E(x, y, sigma) -> two logits; label [1, 0] for the teacher, [0, 1] for the student       (cross-entropy)
    L_adv = log(1 - E_1),  E_1 its probability of "teacher" at the student's output

Outputs of both stand side by side in one batch. In each round it takes `discriminator_steps` steps on that round's
outputs before the student's gradient is taken. All shards begin with the same public weights, whose last layer is zero:
they tell nothing apart, and what the first gradient says comes from the first round's steps alone. What it remembers is
its shard's alone.
"""

import numpy as np
from numpy.typing import NDArray

from undertone.methods.sad.options import SADOptions
from undertone.methods.sad.perceptron import Perceptron, adam, fresh, parameters_of
from undertone.methods.sad.query import Query
from undertone.methods.sad.teachers import inputs_of

Array = NDArray[np.float32]
_SEED = 20_261_131


class Discriminator:
    """The one of a shard, from what it remembers; None: before its first round."""

    def __init__(self, options: SADOptions, values: int, classes: int, memory: Array | None) -> None:
        self._options, self._classes = options, classes
        self._network = network_of(options, values, classes)
        generator = np.random.Generator(np.random.Philox(key=_SEED))
        self._kept = fresh(self._network.start(generator)) if memory is None else memory.copy()

    @property
    def memory(self) -> Array:
        """[parameters | Adam's moments | steps so far]."""
        return self._kept

    def learn(self, query: Query, answers: Array, has: NDArray[np.bool_]) -> None:
        """Steps of Adam on pairs of outputs, [B, D] each; those without a teacher count for nothing."""
        told = np.concatenate([self._told(query, answers), self._told(query, query.outputs)])
        truth = np.repeat(np.eye(2, dtype=np.float32), len(has), axis=0)
        weight = np.tile(has, 2).astype(np.float32)[:, None] / np.float32(max(2 * has.sum(), 1))
        for _ in range(self._options.discriminator_steps):
            seen = self._network.forward(parameters_of(self._kept), told)
            error = weight * (softmax(seen[-1]) - truth)
            gradient, _ = self._network.backward(parameters_of(self._kept), seen, error)
            adam(self._kept, gradient, self._options.discriminator_rate)

    def gradients(self, query: Query) -> Array:
        """D L_adv / d x at each of the student's outputs, [B, D]."""
        seen = self._network.forward(parameters_of(self._kept), self._told(query, query.outputs))
        first = softmax(seen[-1])[:, :1]
        _, found = self._network.backward(parameters_of(self._kept), seen, np.concatenate([-first, first], axis=1))
        return found[:, : query.outputs.shape[1]]

    def _told(self, query: Query, outputs: Array) -> Array:
        """An output as it is, and beside it what a teacher is told of noise and label."""
        sigma = np.full(len(outputs), query.sigma, dtype=np.float32)
        beside = inputs_of(np.zeros_like(outputs), sigma, query.labels, self._classes)
        beside[:, : outputs.shape[1]] = outputs
        return beside


def network_of(options: SADOptions, values: int, classes: int) -> Perceptron:
    """E, with one layer between."""
    return Perceptron((values + classes + 2, options.discriminator_width, 2))


def softmax(logits: Array) -> Array:
    """Probabilities, [n, 2]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = powers / powers.sum(axis=1, keepdims=True)
    return found
