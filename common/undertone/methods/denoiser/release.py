"""`denoiser.safetensors`: a whole UNet, the rows of its classes by their names, and how images are drawn with it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from undertone.core.text import shown
from undertone.errors import ModelError, UnfitWeights
from undertone.methods.denoiser.initial_weights import TABLE
from undertone.methods.denoiser.options import Figures
from undertone.methods.release_format import Description, Respelled, Shapes, Weights
from undertone.models.class_names import labels_for
from undertone.models.interface import Base
from undertone.models.layout import Layout

FILE = "denoiser.safetensors"
UNET, CLASS, NULL, FIGURES = "unet.", "class.", "null", "drawing"
Tensor = tuple[str, tuple[int, ...]]
_PROGRAM = """{load}
# (parametrisation.json says what stands around it). Drawn as the study says, from the release and its base:
from pathlib import Path
from undertone.methods.weights import attach, read_weights
from undertone.models.base import load_base
from undertone.models.pinned import pin
base = load_base(pin(BASE))  # the folder of the base model
attach(base, read_weights(Path(".")))
image = base.sample([{prompt}], [1], steps=25, guidance=1.0)[0]"""


class DenoiserFile:
    """The tensors of a UNet (`unet.`), one row for each class (`class.`), `null`, and the figures of `drawing`."""

    files = (FILE,)

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """What w holds; the method adds the figures."""
        return {FILE: layout.unflatten(w)}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """Classes in the order of their names, `null`, the UNet's tensors likewise; then the figures."""
        return Layout(tuple(sorted(shapes[FILE].items(), key=_place)))

    def attach(self, base: Base, weights: Weights) -> None:
        """Put all of them in place of the base's, name its classes, and draw as the figures say.

        Raises:
            UnfitWeights: the base has another UNet or fewer classes, or a figure is none of a study.
        """
        from undertone.methods.denoiser.drawing import DenoisingDrawer, put_in  # torch

        held = weights[FILE]
        figures, classes = _read(base, held)
        drawer = DenoisingDrawer(base, figures)
        put_in(base, {name.removeprefix(UNET): one for name, one in held.items() if name.startswith(UNET)})
        if classes:
            base.name_classes(classes)
            rows = {base.labels[name]: held[CLASS + name] for name in classes}
            put_in(base, {}, rows | {len(base.pinned.classes): held[NULL]})
        base.drawer = drawer

    def fuse(self, base: Base) -> None:
        """The UNet is the release's already; its classes' names and how it draws are written beside it."""
        from undertone.methods.denoiser.drawing import beside  # torch

        base.pipeline.beside.update(beside(base))
        names = {row: name for name, row in base.labels.items()}
        base.pipeline.classes = tuple(names.get(row, name) for row, name in enumerate(base.pinned.classes))

    def respelled(self, program: str, weights: Weights) -> Respelled | None:
        """None: no other program has a file of this kind."""
        del program, weights
        return None

    def describe(self) -> Description:
        """A model of its own."""
        return Description(
            "a whole denoiser",
            "all of a small model's own numbers: it draws images like the sites', of each class by its name",
            f"# {FILE} is a whole UNet: undertone export . --out FOLDER writes one for UNet2DModel.from_pretrained",
            "UNet2DModel",
            _PROGRAM,
        )


def _place(tensor: Tensor) -> tuple[int, str]:
    name = tensor[0]
    kind = next((number for number, first in enumerate((CLASS, NULL, UNET)) if name.startswith(first)), 3)
    return kind, name


def _read(base: Base, held: Mapping[str, NDArray[np.float32]]) -> tuple[Figures, list[str]]:
    """The figures and the classes of a release, once all of it fits the base."""
    if FIGURES not in held:
        raise UnfitWeights(f"{FILE} lacks {FIGURES}, which says how images are drawn")
    figures = Figures.from_tensor(held[FIGURES])
    classes = sorted(name.removeprefix(CLASS) for name in held if name.startswith(CLASS))
    try:
        labels_for(classes, base.pinned.classes)
    except ModelError as error:
        raise UnfitWeights(f"{FILE} does not fit this base: {error}") from None
    wanted = {f"{UNET}{name}": shape for name, shape in base.pinned.shapes("unet").items() if name != TABLE}
    row = base.pinned.shapes("unet").get(TABLE, (0,))[1:]
    if base.pinned.kind == "class":
        wanted |= {f"{CLASS}{name}": row for name in classes} | {NULL: row}
    found = {name: one.shape for name, one in held.items() if name != FIGURES}
    if found != wanted or (base.pinned.kind == "class" and not classes):
        other = sorted(set(found.items()) ^ set(wanted.items()))
        first = shown(other[0][0], 80) if other else "no class"
        raise UnfitWeights(f"{FILE} holds {first}, which does not fit this base; use the plan's base")
    return figures, classes


DENOISER_FILE = DenoiserFile()
