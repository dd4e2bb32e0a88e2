"""A of each LoRA layer as every party draws it: public, and the same bits on every machine and in every version.

Where A is frozen, a release is held against this draw for as long as it lies around, and numpy's normal values may
change from version to version. So the draw is made of integers: twelve uniform values of 16 bits, less their mean, have
variance 1 and are close to normal (Irwin-Hall).
"""

import hashlib
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

_SEED = 20261126
_UNIFORMS = 12
_LEVELS = 1 << 16


@lru_cache(maxsize=1024)  # every batch of rows asks for all of them
def public_a(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A [r, in] or [r, in, h, w], of deviation 1/r as peft's "gaussian"; it follows from its name and shape alone."""
    stream = hashlib.shake_256(f"undertone {_SEED} {name}".encode()).digest(2 * _UNIFORMS * prod(shape))
    uniform = np.frombuffer(stream, dtype="<u2").reshape(-1, _UNIFORMS)
    centred = uniform.sum(axis=1, dtype=np.int64) - _UNIFORMS * (_LEVELS - 1) // 2
    drawn: NDArray[np.float32] = (centred / (_LEVELS * shape[0])).astype(np.float32).reshape(shape)
    drawn.flags.writeable = False
    return drawn
