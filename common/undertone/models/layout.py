"""Layout: the named tensors that a study adapts, and their order in the flat vector [d]."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import Json, digest_of, sha256_hex
from undertone.errors import MechanismViolation


@dataclass(frozen=True)
class Layout:
    """Names and shapes, in order; nodes and coordinator compare its digest.

    tensors: what the vector holds. fixed: what a release holds beside it, public and the same after every round.
    """

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    fixed: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def size(self) -> int:
        """d, the number of scalars."""
        return sum(prod(shape) for _, shape in self.tensors)

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and order, and over what is fixed where something is."""
        tensors, fixed = _spelled(self.tensors), _spelled(self.fixed)
        return digest_of({"tensors": tensors, "fixed": fixed} if fixed else tensors)

    def flatten(self, named: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Tensors by name -> one vector [d].

        Raises:
            MechanismViolation: a tensor is missing, left over, or of another shape.
        """
        if set(named) != {name for name, _ in self.tensors}:
            raise MechanismViolation(f"tensors {sorted(named)} are not those of the layout {self.tensors}")
        for name, shape in self.tensors:
            if named[name].shape != shape:
                raise MechanismViolation(f"tensor {name} has shape {named[name].shape}, the layout says {shape}")
        return np.concatenate([named[name].reshape(-1) for name, _ in self.tensors]).astype(np.float32)

    def unflatten(self, vector: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """One vector [d] -> tensors by name.

        Raises:
            MechanismViolation: the vector has another length.
        """
        if vector.shape != (self.size,):
            raise MechanismViolation(f"a vector of shape {vector.shape} does not fit a layout of {self.size} values")
        named, start = {}, 0
        for name, shape in self.tensors:
            named[name] = vector[start : start + prod(shape)].reshape(shape)
            start += prod(shape)
        return named


def _spelled(tensors: tuple[tuple[str, tuple[int, ...]], ...]) -> list[Json]:
    return [[name, list(shape)] for name, shape in tensors]


def state_sha256(state: NDArray[np.float32]) -> str:
    """SHA-256 of a public state w [d], as hexadecimal."""
    return sha256_hex(state.astype("<f4").tobytes())
