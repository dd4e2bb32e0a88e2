"""Where w begins: the base's own weights, or weights drawn by a public seed. No torch here."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from undertone.core.canonical import sha256_hex
from undertone.errors import ModelError
from undertone.methods.release_format import Shapes
from undertone.models.pinned import PinnedBase

TABLE = "class_embedding.weight"
_CLASS_DEVIATION = 0.1  # as `undertone pretrain` begins


def base_weights(base: PinnedBase) -> dict[str, NDArray[np.float32]]:
    """Every tensor of the UNet, by its name there.

    Raises:
        ModelError: the weights cannot be read.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for file in base.weights_of("unet").files:
        try:
            with safe_open(base.folder / "unet" / file, framework="np") as tensors:
                found |= {name: tensors.get_tensor(name).astype(np.float32) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, TypeError) as error:
            raise ModelError(f"{file} of {base.reference} cannot be read: {error}") from None
    if found.keys() != base.shapes("unet").keys():
        raise ModelError(
            f"the UNet of {base.reference} has names of before 2023; load it with diffusers and save it again"
        )
    return found


def drawn_weights(shapes: Shapes, seed: int) -> dict[str, NDArray[np.float32]]:
    """PyTorch's start values for these tensors, each from the seed and its own name.

    Weights of linear and convolution layers and their biases are uniform within 1 / sqrt(fan in), norms are one and
    zero, rows of the class embedding normal.
    """
    return {name: _drawn(name, shape, shapes, seed) for name, shape in shapes.items()}


def _drawn(name: str, shape: tuple[int, ...], shapes: Shapes, seed: int) -> NDArray[np.float32]:
    generator = np.random.Generator(np.random.Philox(key=int(sha256_hex(f"dpdm/{seed}/{name}".encode())[:32], 16)))
    if name == TABLE:
        return _CLASS_DEVIATION * generator.standard_normal(shape, dtype=np.float32)
    weight = shapes.get(f"{name.rpartition('.')[0]}.weight", shape)
    if len(weight) == 1:  # a norm
        return np.full(shape, float(name.endswith(".weight")), dtype=np.float32)
    bound = 1 / sqrt(np.prod(weight[1:]))
    return ((2 * generator.random(shape, dtype=np.float32) - 1) * np.float32(bound)).astype(np.float32)
