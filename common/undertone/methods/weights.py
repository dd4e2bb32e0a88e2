"""A release's weights: read with bounds, held against what a plan says of its method, put into a base. No torch.

A safetensors file names its tensors, their types and shapes before their values. All that is looked at first: a release
holds float32 alone, its names and shapes are those of the plan's layout, and every value is finite. So neither a loader
nor a pipeline ever sees weights that no study of ours could have released.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from undertone.core.text import shown
from undertone.errors import ModelError, StudyError, UnfitWeights
from undertone.methods.protocol import Method
from undertone.methods.registry import format_of, method_for, release_formats
from undertone.methods.release_format import ReleaseFormat, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout

_FLOAT32 = "F32"
_MOST_TENSORS = 20_000
_LENGTH_BYTES = 8  # a file begins with the length of its header
_HEADER_BYTES = 16 << 20  # 20,000 names of 200 characters, their shapes and places


class Planned(Protocol):
    """What a plan says of its method; `undertone.study.planned_parts.PlannedMethod` says so."""

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def options(self) -> Mapping[str, Any]:
        """All of them."""

    @property
    def layout_digest(self) -> str:
        """Of the release's tensors."""


def format_in(release: Path) -> ReleaseFormat:
    """The kind of a release folder, by the files it holds.

    Raises:
        ModelError: there are no weights.
        UnfitWeights: there are those of several kinds, or not all of one.
    """
    known = [name for one in release_formats() for name in one.files]
    found = [name for name in known if (release / name).is_file()]
    if not found:
        raise ModelError(f"{release} holds no weights ({', '.join(known)})")
    kind = format_of(found)
    if kind is None:
        raise UnfitWeights(f"{release} holds {' and '.join(found)}; a release has one of them")
    return kind


def read_weights(release: Path) -> Weights:
    """The weights of a release folder; float32, every value finite.

    Raises:
        ModelError: there are none, or they are damaged.
        UnfitWeights: they are of another type, or hold a value that is not finite.
    """
    found = {}
    for file in format_in(release).files:
        with _opened(release / file) as stream:
            shapes = _shapes(file, stream)
            found[file] = {name: _finite(file, name, stream.get_tensor(name)) for name in shapes}  # type: ignore[no-untyped-call]
    return found


def check_weights(release: Path, planned: Planned) -> None:
    """The weights of a release are what its plan releases: files, names, shapes, float32, finite, public where fixed.

    A file is read one tensor at a time; the base is not needed.

    Args:
        release: the folder.
        planned: the method of its plan.

    Raises:
        UnfitWeights: what is not so.
        ModelError: there are none, or they are damaged.
    """
    try:
        method = method_for(planned.name, planned.options)
    except StudyError as error:
        raise UnfitWeights(f"plan.json names no method of this version: {error}") from None
    kind = format_in(release)
    shapes = {}
    for file in kind.files:
        with _opened(release / file) as stream:
            shapes[file] = _shapes(file, stream)
    if set(kind.files) != set(method.release_format.files) or not _fits(released_layout(method, shapes), planned):
        held = [(name, shape) for tensors in shapes.values() for name, shape in tensors.items()]
        first = ", ".join(f"{shown(name, 80)} {list(shape)}" for name, shape in held[:3])
        raise UnfitWeights(
            f"{' and '.join(kind.files)} is not what {planned.name} releases under this plan (layout "
            f"{planned.layout_digest[:8]}); it holds {len(held)} tensors: {first}"
        )
    for file in kind.files:
        with _opened(release / file) as stream:
            for name, shape in shapes[file].items():
                tensor = _finite(file, name, stream.get_tensor(name))  # type: ignore[no-untyped-call]
                draw = method.fixed(name)
                if draw is not None and not np.array_equal(tensor, draw(shape)):
                    raise UnfitWeights(
                        f"{file}: {shown(name, 80)} is not the public draw that this plan keeps as it is"
                    )


def released_layout(method: Method, shapes: Mapping[str, Shapes]) -> Layout | None:
    """The layout whose release these files are, from names and shapes alone; None: it is none's."""
    whole = method.release_format.layout(shapes)
    if whole is None:
        return None
    fixed = {name for name, _ in whole.tensors if method.fixed(name) is not None}
    learned = tuple(tensor for tensor in whole.tensors if tensor[0] not in fixed)
    return Layout(learned, fixed=tuple(tensor for tensor in whole.tensors if tensor[0] in fixed))


def attach(base: Base, weights: Weights) -> None:
    """Put weights into a loaded base, once they fit it; nothing is changed where they do not.

    Raises:
        ModelError: they are of a kind that no method of this version releases.
        UnfitWeights: a value is not finite, or a name, a type or a shape does not fit the base.
    """
    kind = format_of(weights)
    if kind is None:
        known = ", ".join(name for one in release_formats() for name in one.files)
        raise ModelError(f"weights {sorted(weights)} are not of a kind this version of Undertone knows ({known})")
    for file, tensors in weights.items():
        for name, array in tensors.items():
            if array.dtype != np.float32 or not bool(np.isfinite(array).all()):
                raise UnfitWeights(f"{file}: {shown(name, 80)} is not float32, or holds a value that is not finite")
    kind.attach(base, weights)


def _fits(layout: Layout | None, planned: Planned) -> bool:
    return layout is not None and layout.digest == planned.layout_digest


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """A file of safetensors, open to be read.

    Raises:
        ModelError: it is damaged.
        UnfitWeights: its header is longer than any release's. How long the file is follows from its header.
    """
    try:
        with path.open("rb") as raw:
            length = raw.read(_LENGTH_BYTES)
        header = int.from_bytes(length, "little")
        if len(length) == _LENGTH_BYTES and header > _HEADER_BYTES:
            raise UnfitWeights(
                f"{path.name} begins with {header} bytes of names; a release has at most {_HEADER_BYTES}"
            )
        with safe_open(path, framework="numpy") as stream:
            yield stream
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {shown(str(error))}") from None


def _shapes(kind: str, stream: safe_open) -> Shapes:
    """Names and shapes, all of them float32."""
    names: list[str] = list(stream.keys())  # type: ignore[no-untyped-call]
    if not 1 <= len(names) <= _MOST_TENSORS:
        raise UnfitWeights(f"{kind} holds {len(names)} tensors")
    slices = {name: stream.get_slice(name) for name in names}  # type: ignore[no-untyped-call]
    for name, one in slices.items():
        if one.get_dtype() != _FLOAT32:
            raise UnfitWeights(f"{kind}: {shown(name, 80)} is of type {one.get_dtype()}; a release holds float32 (F32)")
    return {name: tuple(one.get_shape()) for name, one in slices.items()}


def _finite(kind: str, name: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    if not bool(np.isfinite(tensor).all()):
        raise UnfitWeights(f"{kind}: {shown(name, 80)} holds a value that is not finite")
    return tensor
