"""A small network by hand: layers, their gradients, Adam. Thousands of them take their steps one after the other.

Its answer follows from a few products of fixed shapes, so it is the same to the bit whatever else a machine does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_SLOPE = np.float32(0.2)  # of a leaky ReLU below zero
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Perceptron:
    """Layers of `widths` with leaky ReLUs between them; its parameters are one vector, [weights | biases] by layer."""

    widths: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many parameters it has."""
        return sum((first + 1) * second for first, second in zip(self.widths, self.widths[1:], strict=False))

    def start(self, generator: np.random.Generator) -> Array:
        """Uniform within 1 / sqrt(fan in); zero in the last layer, so that the first answer is zero everywhere."""
        parts: list[Array] = []
        for first, second in zip(self.widths, self.widths[1:], strict=False):
            drawn = 2 * generator.random((first + 1) * second, dtype=np.float32) - 1
            parts.append(drawn * np.float32(1 / sqrt(first)))
        parts[-1][:] = 0
        return np.concatenate(parts)

    def forward(self, parameters: Array, x: Array) -> list[Array]:
        """What each layer was given, [n, width], and at the end the answer."""
        seen = [x]
        layers = self._layers(parameters)
        for number, (weights, biases) in enumerate(layers):
            x = x @ weights + biases
            if number < len(layers) - 1:
                x = np.maximum(x, _SLOPE * x)
            seen.append(x)
        return seen

    def backward(self, parameters: Array, seen: Sequence[Array], upstream: Array) -> tuple[Array, Array]:
        """Gradients in the parameters, [size], and in x, [n, width], of the sum of upstream times the answer."""
        found = np.empty_like(parameters)
        layers, places = self._layers(parameters), self._layers(found)
        for number in range(len(layers) - 1, -1, -1):
            weights, _ = layers[number]
            np.matmul(seen[number].T, upstream, out=places[number][0])
            upstream.sum(axis=0, out=places[number][1])
            upstream = upstream @ weights.T
            if number:
                upstream = upstream * np.where(seen[number] > 0, np.float32(1), _SLOPE)
        return found, upstream

    def _layers(self, parameters: Array) -> list[tuple[Array, Array]]:
        """Views of the weights [first, second] and biases [second] of each layer."""
        found, start = [], 0
        for first, second in zip(self.widths, self.widths[1:], strict=False):
            middle, end = start + first * second, start + (first + 1) * second
            found.append((parameters[start:middle].reshape(first, second), parameters[middle:end]))
            start = end
        return found


def fresh(parameters: Array) -> Array:
    """What training keeps, [parameters | first moment | second moment | t], before the first step."""
    return np.concatenate([parameters, np.zeros(2 * parameters.size + 1, dtype=np.float32)])


def kept_size(network: Perceptron) -> int:
    """How many values that has."""
    return 3 * network.size + 1


def parameters_of(kept: Array) -> Array:
    """The parameters in it."""
    found: Array = kept[: kept.size // 3]
    return found


def adam(kept: Array, gradient: Array, rate: float) -> None:
    """One step of Adam (Kingma and Ba 2015, algorithm 1), in place."""
    vectors, (one, two) = kept[:-1].reshape(3, -1), _BETAS
    kept[-1] += 1
    t = float(kept[-1])
    vectors[1] += np.float32(1 - one) * (gradient - vectors[1])
    vectors[2] += np.float32(1 - two) * (np.square(gradient) - vectors[2])
    root = np.sqrt(vectors[2] / np.float32(1 - two**t)) + np.float32(_EPSILON)
    vectors[0] -= np.float32(rate / (1 - one**t)) * vectors[1] / root
