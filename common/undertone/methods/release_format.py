"""How a kind of release lies on disk, goes into a loaded base, and is described: one object for each kind. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, NDArray[np.float32]]
Weights = Mapping[str, Tensors]
"""File name -> tensors by name."""


@dataclass(frozen=True)
class Description:
    """What a reader is told of a kind of release.

    kind: what it is, in a few words. meaning: the same for somebody who knows no model, after "What is learned is".
    load: Python that puts it into `pipeline`, run in the release's folder; its author is the method's, so it stands on
    the card as it is. pipeline: the class of diffusers that loads the base. program: where no pipeline draws, Python
    that makes `image` by itself, a template with {prompt}; "" elsewhere.
    """

    kind: str
    meaning: str
    load: str
    pipeline: str = "StableDiffusionPipeline"
    program: str = ""


_UNTOLD = """from diffusers import {pipeline}
pipeline = {pipeline}.from_pretrained(BASE)  # the folder or hub id of the base model
{load}
image = pipeline(num_inference_steps=25).images[0]"""


def described_on(found: Description, base: PinnedBase) -> Description:
    """What is said of a release on this base: one that is told nothing has a stock pipeline that takes no prompt."""
    if base.kind != "none" or found.program:
        return found
    return replace(found, pipeline=base.pipeline, program=_UNTOLD)


@dataclass(frozen=True)
class Respelled:
    """A release's tensors under the names that another program's file has, and what that file says of itself."""

    tensors: Tensors
    metadata: Mapping[str, str]


class ReleaseFormat(Protocol):
    """One kind of release, told from the others by the names of its files. Instances hold nothing."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its files, all of safetensors; no other format has one of them."""

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """The tensors of each file, from w [d] in the order of `layout`."""

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """The layout whose release this is, from file name -> names and shapes alone; None: it is none's.

        The reverse of `write`: what a plan says is adapted is held against it.
        """

    def attach(self, base: Base, weights: Weights) -> None:
        """Put float32 tensors, all finite, into the pipeline, once they fit it; else nothing is changed.

        Called through `undertone.methods.weights.attach`, which has looked at types and values.

        Raises:
            UnfitWeights: a name or a shape does not fit the base.
        """

    def fuse(self, base: Base) -> None:
        """Make what was attached part of the base's own tensors and words, so that the pipeline can be saved."""

    def respelled(self, program: str, weights: Weights) -> Respelled | None:
        """What a file of another program's kind holds, such as "kohya"; None: a release of this kind makes none."""

    def describe(self) -> Description:
        """What the card and the commands say of it."""
