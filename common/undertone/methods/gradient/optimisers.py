"""Server optimisers: SGD with momentum, Adam, AdamW, with warm-up and an average of the public state; DoG.

All of it is post-processing of noised sums, so all of it is public and costs nothing. What an optimiser
remembers lies behind the public w in the one array that is kept after each round, so that a run which was
killed goes on as if it had not been:

    kept = [w (d) | first moment m (d) | second moment v (d, not for sgd) | average of w (d, with ema) | t (1)]

Sites get w alone. float32 throughout: what is on disk is bit-identical to what the next round starts from.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.config import Section
from undertone.methods.gradient.dog import DistanceOverGradients

_EPSILON = 1e-8

Vector = NDArray[np.float32]


class OptimiserOptions(Section):
    """[method] keys of the server optimiser. Symbols: eta = learning_rate, beta_1 = momentum, beta_2, lambda.

    With "dog" `learning_rate` is the length of the first step, r_epsilon, and it has no momentum (`dog.py`).
    """

    optimiser: Literal["sgd", "adam", "adamw", "dog"] = "adam"
    learning_rate: float = Field(default=0.01, gt=0, le=1e4)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    beta_2: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    warm_up: int = Field(default=0, ge=0, le=1_000_000)
    ema: float = Field(default=0.0, ge=0, lt=1)

    def model_post_init(self, _context: object, /) -> None:
        """Keys that go together.

        Raises:
            ValueError: turned into a `StudyError` by `parse_options`.
        """
        if self.weight_decay and self.optimiser != "adamw":
            raise ValueError(f'method.weight_decay goes with optimiser = "adamw"; with "{self.optimiser}" leave it out')
        if self.optimiser == "adamw" and not self.weight_decay:
            raise ValueError('method.optimiser = "adamw" needs method.weight_decay above 0; or say "adam"')
        if self.optimiser == "dog" and (self.warm_up or self.ema):
            raise ValueError(
                'method.warm_up and method.ema do not go with optimiser = "dog", which begins with short steps and '
                "averages by itself; leave them out"
            )


class ServerOptimiser:
    """Takes the kept array of one round to that of the next."""

    # Behind the vectors: the round's number.
    scalars: ClassVar[int] = 1

    def __init__(self, options: OptimiserOptions) -> None:
        self.options = options
        self._vectors = 1 + (1 if options.optimiser == "sgd" else 2) + (1 if options.ema else 0)

    @property
    def vectors(self) -> int:
        """How many vectors as long as w a kept array holds, w among them; the round's number stands behind them."""
        return self._vectors

    def start(self, w: Vector) -> Vector:
        """The kept array before the first round, from w [d]."""
        kept = np.zeros((self._vectors, w.size), dtype=np.float32)
        kept[0] = w
        if self.options.ema:
            kept[-1] = w
        return _joined(kept, 0.0)

    def released(self, kept: Vector) -> Vector:
        """What leaves a study: the average of w where there is one, else w; [d]."""
        released: Vector = self._split(kept)[-1 if self.options.ema else 0]
        return released

    def advance(self, kept: Vector, gradient: NDArray[np.float64]) -> Vector:
        """One step against a noised mean gradient [d]."""
        vectors, t = self._split(kept).copy(), float(kept[-1]) + 1
        w, g = vectors[0], gradient.astype(np.float32)
        eta = np.float32(self.options.learning_rate * min(1.0, t / max(self.options.warm_up, 1)))
        w -= eta * self._direction(vectors, g, t) + eta * np.float32(self.options.weight_decay) * w
        if self.options.ema:
            # Short memory at first (as diffusers' EMAModel), else the average would stay at the start for long.
            beta = np.float32(min(self.options.ema, (1 + t) / (10 + t)))
            vectors[-1] = beta * vectors[-1] + (1 - beta) * w
        return _joined(vectors, t)

    def _direction(self, vectors: Vector, g: Vector, t: float) -> Vector:
        """SGD: m. Adam (Kingma and Ba 2015, algorithm 1): m / (1 - beta_1^t) over the root of v / (1 - beta_2^t)."""
        beta_1, beta_2 = self.options.momentum, self.options.beta_2
        m = vectors[1]
        if self.options.optimiser == "sgd":
            m[:] = np.float32(beta_1) * m + g
            momentum: Vector = m
            return momentum
        v = vectors[2]
        m[:] = np.float32(beta_1) * m + np.float32(1 - beta_1) * g
        v[:] = np.float32(beta_2) * v + np.float32(1 - beta_2) * np.square(g)
        m_hat, v_hat = m / np.float32(1 - beta_1**t), v / np.float32(1 - beta_2**t)
        direction: Vector = m_hat / (np.sqrt(v_hat) + np.float32(_EPSILON))
        return direction

    def _split(self, kept: Vector) -> Vector:
        """The vectors [k, d] of a kept array; the last cell is t."""
        return kept[:-1].reshape(self._vectors, -1)


AnyOptimiser = ServerOptimiser | DistanceOverGradients


def server_optimiser(options: OptimiserOptions) -> AnyOptimiser:
    """The one that the options name."""
    return DistanceOverGradients(options.learning_rate) if options.optimiser == "dog" else ServerOptimiser(options)


def _joined(vectors: Vector, t: float) -> Vector:
    return np.append(vectors.reshape(-1), np.float32(t)).astype(np.float32, copy=False)
