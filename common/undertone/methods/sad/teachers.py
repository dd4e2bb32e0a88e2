"""What a shard answers at noisy inputs: the best denoiser of its own records, exactly, or a small one that it trained.

    exact    D(x; sigma, y) = sum_i softmax_i(-|x - x_i|^2 / (2 sigma^2)) x_i      over the shard's records of class y
    trained  D(x; sigma, y) = c_skip x + c_out F(c_in x, ln(sigma) / 4, y)         F a perceptron; EDM's coefficients

The first minimises E |D(x_i + sigma n; sigma, y) - x_i|^2 over all functions, for records of class y, each as likely
(Karras et al. 2022, appendix B.3). Of a class that a shard lacks there is no teacher. Label -1: all records.
"""

from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from undertone.methods.sad.options import SADOptions
from undertone.methods.sad.perceptron import Perceptron, adam, fresh, parameters_of
from undertone.methods.sad.query import NONE, Query

Array = NDArray[np.float32]
_WEIGHTS_SEED = 20_261_130  # public: all shards begin alike


class Teacher(Protocol):
    """The denoiser of one shard."""

    def answers(self, query: Query) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Its outputs at the query's inputs, [B, D], and of which labels it has records, [B]; others say nothing."""


class ExactTeacher:
    """The minimiser. latents: [n, D]. places: the class of each, [n]."""

    def __init__(self, latents: Array, places: NDArray[np.int64]) -> None:
        self._latents, self._places = latents, places

    @classmethod
    def of(cls, prepared: Array, values: int) -> Self:
        """The reverse of `vector`."""
        held = prepared.reshape(-1, values + 1)
        return cls(held[:, :values], held[:, values].astype(np.int64))

    def vector(self) -> Array:
        """What a node keeps, [n (D + 1)]."""
        return np.column_stack([self._latents, self._places]).astype(np.float32).reshape(-1)

    def answers(self, query: Query) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See `Teacher`. In float64; the largest exponent is taken off, so that no noise level is too small."""
        found, has = np.zeros(query.inputs.shape), np.zeros(len(query.labels), dtype=np.bool_)
        latents = self._latents.astype(np.float64)
        for row, (x, label) in enumerate(zip(query.inputs.astype(np.float64), query.labels, strict=True)):
            of_class = latents if label == NONE else latents[self._places == label]
            if len(of_class):
                squares = np.square(of_class - x).sum(axis=1)
                weights = np.exp((squares.min() - squares) / (2 * query.sigma**2))
                found[row], has[row] = weights @ of_class / weights.sum(), True
        return found, has


class TrainedTeacher:
    """A perceptron. parameters: of `network_of`. has: whether the shard has records of each class, and any, [K + 1]."""

    def __init__(self, options: SADOptions, values: int, parameters: Array, has: NDArray[np.bool_]) -> None:
        self._network = network_of(options, values, len(has) - 1)
        self._parameters, self._has = parameters, has

    @classmethod
    def of(cls, prepared: Array, options: SADOptions, values: int, classes: int) -> Self:
        """The reverse of `vector`."""
        return cls(options, values, prepared[: -classes - 1], prepared[-classes - 1 :] > 0)

    @classmethod
    def trained(
        cls,
        options: SADOptions,
        latents: Array,
        places: NDArray[np.int64],
        classes: int,
        generator: np.random.Generator,
    ) -> Self:
        """After `teacher_steps` steps of Adam on batches of `teacher_batch` draws, whatever the shard holds.

        Args:
            options: sizes, and how noise levels of queries are distributed: it learns those that it will be asked.
            latents: [n, D], n >= 1.
            places: the class of each, [n].
            classes: K.
            generator: the shard's own.
        """
        values = latents.shape[1]
        network = network_of(options, values, classes)
        kept = fresh(network.start(np.random.Generator(np.random.Philox(key=_WEIGHTS_SEED))))
        size = options.teacher_batch
        with np.errstate(invalid="ignore", over="ignore"):
            for _ in range(options.teacher_steps):
                chosen = generator.integers(len(latents), size=size)
                untold = generator.random(size) < options.caption_dropout
                normal = generator.standard_normal(size, dtype=np.float32)
                noise = generator.standard_normal((size, values), dtype=np.float32)
                sigma = np.exp(options.query_log_sigma_mean + options.query_log_sigma_deviation * normal)
                x = latents[chosen] + sigma[:, None] * noise
                skip, out, _ = coefficients(sigma)
                target = (latents[chosen] - skip * x) / out
                told = inputs_of(x, sigma, np.where(untold, NONE, places[chosen]), classes)
                seen = network.forward(parameters_of(kept), told)
                error = (seen[-1] - target) * np.float32(2 / target.size)
                adam(kept, network.backward(parameters_of(kept), seen, error)[0], options.teacher_rate)
        # A base that is told nothing has no class, and records no place (NONE).
        has = np.append(np.isin(np.arange(classes), places), True)
        return cls(options, values, parameters_of(kept).copy(), has)

    def vector(self) -> Array:
        """What a node keeps: parameters, and a flag for each class and the null label."""
        return np.concatenate([self._parameters, self._has.astype(np.float32)])

    def answers(self, query: Query) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See `Teacher`."""
        sigma, classes = np.full(len(query.labels), query.sigma, dtype=np.float32), len(self._has) - 1
        told = inputs_of(query.inputs, sigma, query.labels, classes)
        skip, out, _ = coefficients(sigma)
        found = (skip * query.inputs + out * self._network.forward(self._parameters, told)[-1]).astype(np.float64)
        return found, self._has[query.labels]  # -1, the null label, is the last


def network_of(options: SADOptions, values: int, classes: int) -> Perceptron:
    """F: two layers of `teacher_width` between what it is told and D values."""
    return Perceptron((values + classes + 2, options.teacher_width, options.teacher_width, values))


def coefficients(sigma: Array) -> tuple[Array, Array, Array]:
    """c_skip, c_out, c_in of EDM for latents of variance 1, each [n, 1]."""
    beside = sigma[:, None].astype(np.float64)
    whole = 1 + np.square(beside)
    skip, out, into = (one.astype(np.float32) for one in (1 / whole, beside / np.sqrt(whole), 1 / np.sqrt(whole)))
    return skip, out, into


def inputs_of(x: Array, sigma: Array, labels: NDArray[np.int64], classes: int) -> Array:
    """What F is told: c_in x, ln(sigma) / 4, and a place for each class and for no class, [n, D + 1 + K + 1]."""
    told = np.zeros((len(x), classes + 1), dtype=np.float32)
    told[np.arange(len(x)), labels] = 1  # -1: the last
    return np.concatenate([coefficients(sigma)[2] * x, np.log(sigma)[:, None] / 4, told], axis=1, dtype=np.float32)
