"""What the tensors of released prototypes are called, and which classes they are of."""

from collections.abc import Sequence

from undertone.core.classes import LONGEST, MOST
from undertone.methods.release_format import Shapes
from undertone.models.layout import Layout

PARTS = ("centres", "weights", "factor")


def named(classes: Sequence[str], centres: int, components: int, latent: tuple[int, ...]) -> Layout:
    """The tensors of each class in the order of their names, `centres.NAME`; without classes plain `centres`.

    centres: [J, c, h, w]. weights: [J], shares of all images. factor: [k, c, h, w]: g @ factor with Gaussian g [k] is
    what lies around a centre.
    """
    shapes = ((centres, *latent), (centres,), (components, *latent))
    names = sorted(classes) or [""]
    return Layout(
        tuple((spelled(part, name), shape) for name in names for part, shape in zip(PARTS, shapes, strict=True))
    )


def spelled(part: str, name: str) -> str:
    """What a tensor of a class is called; "" is the class of a file without classes."""
    return f"{part}.{name}" if name else part


def classes_in(shapes: Shapes) -> list[str] | None:
    """The names of the classes of a file in their order, [""] where it has none; None: it is no such file."""
    names = sorted({name.partition(".")[2] for name in shapes})
    if (
        set(shapes) != {spelled(part, name) for name in names for part in PARTS}
        or not 1 <= len(names) <= MOST
        or any(len(name) > LONGEST for name in names)
    ):
        return None
    return names if names == [""] or "" not in names else None
