"""Shards and queries of dp-sad for tests, on a base of 4 x 4 x 4 latents that is told a class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from undertone.methods.classed import with_classes
from undertone.methods.protocol import UnitRecords
from undertone.methods.registry import method_for
from undertone.methods.sad.method import DPSAD
from undertone.methods.sad.query import Query

CLASSES = ("one", "b")
D = 64


def made(**options: Any) -> DPSAD:
    """The method with four outputs, and its classes."""
    small = {"outputs": 4, "query_steps": 3, "teacher_width": 16, "discriminator_width": 8}
    method = with_classes(method_for("dp-sad", {**small, **options}), CLASSES if options.get("per_class", True) else [])
    assert isinstance(method, DPSAD)
    return method


def shard(
    number: int, images: int = 5, shape: tuple[int, ...] = (4, 4, 4), places: list[int] | None = None
) -> UnitRecords:
    """Shard `number`, the same in every call."""
    drawn = np.random.Generator(np.random.Philox(key=500 + number))
    classes = np.array([image % 2 for image in range(images)] if places is None else places)
    latents = drawn.standard_normal((len(classes), *shape), dtype=np.float32)
    names = tuple(CLASSES[place] for place in classes)
    return UnitRecords(latents, names, np.random.Generator(np.random.Philox(key=number)), classes=classes)


def query_of(seed: int = 0, labels: list[int] | None = None) -> NDArray[np.float32]:
    """A query as it is sent, of no student."""
    drawn = np.random.Generator(np.random.Philox(key=900 + seed))
    inputs, outputs = drawn.standard_normal((2, 4, D), dtype=np.float32)
    return Query(inputs, outputs, np.array([0, 1, -1, 1] if labels is None else labels), 0.7 + seed).vector()
