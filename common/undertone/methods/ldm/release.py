"""What to add to tensors of the base; `undertone export` makes a whole pipeline of both.

`delta.safetensors` on a base of words or of nothing; `class_delta.safetensors` on one that is told a class, with a row
for each class of the study, by its name.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from undertone.core.text import shown
from undertone.errors import ModelError, UnfitWeights
from undertone.methods.ldm.names import CLASS, NULL
from undertone.methods.release_format import Description, Respelled, Shapes, Weights
from undertone.models.class_names import labels_for
from undertone.models.interface import Base
from undertone.models.layout import Layout

DELTA, CLASS_DELTA = "delta.safetensors", "class_delta.safetensors"
_KINDS = ("unet.", "text_encoder.", CLASS, NULL)
_MEANING = "a change to some of the model's own numbers: with it, the model draws images like the sites'"
_HOW = "is added to the base's weights: undertone export . --out FOLDER makes"
_BY_CLASS = """# {file} {how} stock parts of it. In FOLDER:
import json
from pathlib import Path
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from diffusers.image_processor import VaeImageProcessor
unet, steps = UNet2DModel.from_pretrained("unet"), DDIMScheduler.from_pretrained("scheduler")
label = torch.tensor([json.loads(Path("classes.json").read_text(encoding="utf-8")).index({{prompt}})])
steps.set_timesteps(25)
x = torch.randn(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
with torch.no_grad():
    for t in steps.timesteps:
        x = steps.step(unet(x, t, class_labels=label).sample, t, x).prev_sample
    if Path("vae").is_dir():  # else pixels are denoised
        vae = AutoencoderKL.from_pretrained("vae")
        x = vae.decode(x / vae.config.scaling_factor).sample
image = VaeImageProcessor().postprocess(x)[0]"""


class DifferenceFile:
    """Differences to the base's tensors, named `unet.` or `text_encoder.` and their names in those parts."""

    files: tuple[str, ...] = (DELTA,)
    _classes: ClassVar[bool] = False

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """The layout's tensors, as they are."""
        return {self.files[0]: layout.unflatten(w)}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """The UNet's tensors, then the text encoder's, then classes and `null`, each in the order of their names."""
        return Layout(tuple(sorted(shapes[self.files[0]].items(), key=lambda tensor: _place(tensor[0]))))

    def attach(self, base: Base, weights: Weights) -> None:
        """Add each difference to the tensor that it names, and name a class base's rows.

        Raises:
            UnfitWeights: the base has no such tensor, or one of another shape, or too few classes.
        """
        from undertone.methods.ldm.blocks import add_differences, named_parameters  # torch

        held = weights[self.files[0]]
        classes = [name.removeprefix(CLASS) for name in held if self._classes and name.startswith(CLASS)]
        self._check_classes(base, classes)
        named = named_parameters(base, classes)
        for name, array in held.items():
            if name not in named or named[name].shape != array.shape:
                raise UnfitWeights(
                    f"{self.files[0]} holds {shown(name, 80)}, which does not fit this base; use the plan's base"
                )
        add_differences(base, held, classes)
        if classes:
            base.name_classes(classes)

    def _check_classes(self, base: Base, classes: Sequence[str]) -> None:
        if (base.pinned.kind == "class") != self._classes or bool(classes) != self._classes:
            raise UnfitWeights(f"{self.files[0]} is not of a base that is told what this one is; use the plan's base")
        try:
            labels_for(classes, base.pinned.classes)
        except ModelError as error:
            raise UnfitWeights(f"{self.files[0]} does not fit this base: {error}") from None

    def fuse(self, base: Base) -> None:
        """Nothing: the differences are in the base's tensors already."""

    def respelled(self, program: str, weights: Weights) -> Respelled | None:
        """None: whole weights have no names of another kind."""
        del program, weights
        return None

    def describe(self) -> Description:
        """Differences that no loader of diffusers adds."""
        return Description("moved weights", _MEANING, f"# {self.files[0]} {_HOW} a pipeline of it")


class ClassDifferenceFile(DifferenceFile):
    """The same of a base that is told a class: `class.` and the name of each, and `null` where it is trained."""

    files = (CLASS_DELTA,)
    _classes: ClassVar[bool] = True

    def fuse(self, base: Base) -> None:
        """The study's classes stand in classes.json where their rows are; a row that none took keeps its name."""
        names = list(base.pinned.classes)
        for name, row in base.labels.items():
            names[row] = name
        base.pipeline.classes = tuple(names)

    def describe(self) -> Description:
        """Stock parts that draw a class, once they are exported."""
        file = self.files[0]
        load = f"# {file} {_HOW} stock parts of it"
        return Description("moved weights by class", _MEANING, load, program=_BY_CLASS.format(file=file, how=_HOW))


def _place(name: str) -> tuple[int, str]:
    return next((number for number, first in enumerate(_KINDS) if name.startswith(first)), len(_KINDS)), name


DIFFERENCE_FILE = DifferenceFile()
CLASS_DIFFERENCE_FILE = ClassDifferenceFile()
