"""A release's weights as they lie on disk: read with bounds, and held against the plan. No torch.

A safetensors file names its tensors, their types and shapes before their values. All that is looked at first: a release
holds float32 alone, its names and shapes are those of the plan's layout, and every value is finite. So neither a loader
nor a pipeline ever sees weights that no study of ours could have released.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from undertone.errors import ModelError, StudyError, UnfitWeights
from undertone.methods.protocol import Shapes
from undertone.methods.registry import method_for
from undertone.models.files import KINDS
from undertone.plan import Plan
from undertone.shown import shown
from undertone.study import MethodTable

Weights = Mapping[str, Mapping[str, NDArray[np.float32]]]
_FLOAT32 = "F32"
_MOST_TENSORS = 20_000
_HEADER_BYTES = 16 << 20  # 20,000 names of 200 characters, their shapes and places


def kind_of(release: Path) -> str:
    """The name of the file that holds a release's weights.

    Raises:
        ModelError: there is none.
        UnfitWeights: there are several.
    """
    found = [kind for kind in KINDS if (release / kind).is_file()]
    if not found:
        raise ModelError(f"{release} holds no weights ({', '.join(KINDS)})")
    if len(found) > 1:
        raise UnfitWeights(f"{release} holds {' and '.join(found)}; a release has one of them")
    return found[0]


def read_weights(release: Path) -> Weights:
    """The weights of a release folder; float32, every value finite.

    Raises:
        ModelError: there are none, or they are damaged.
        UnfitWeights: they are of another type, or hold a value that is not finite.
    """
    kind = kind_of(release)
    path = release / kind
    try:
        with safe_open(path, framework="numpy") as stream:
            shapes = _shapes(kind, stream)
            tensors = {name: _finite(kind, name, stream.get_tensor(name)) for name in shapes}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {shown(str(error))}") from None
    return {kind: tensors}


def check_weights(release: Path, plan: Plan) -> None:
    """The weights of a release are what its plan releases: one file, names, shapes, float32, finite.

    The file is read one tensor at a time, its base is not needed.

    Raises:
        UnfitWeights: what is not so.
        ModelError: there are none, or they are damaged.
    """
    kind = kind_of(release)
    path, most = release / kind, 4 * plan.method.dimension + _HEADER_BYTES
    if path.stat().st_size > most:
        raise UnfitWeights(
            f"{kind} has {path.stat().st_size} bytes; {plan.method.dimension} values take less than {most}"
        )
    try:
        with safe_open(path, framework="numpy") as stream:
            shapes = _shapes(kind, stream)
            _check_layout(kind, shapes, plan)
            for name in shapes:
                _finite(kind, name, stream.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {shown(str(error))}") from None


def _check_layout(kind: str, shapes: Shapes, plan: Plan) -> None:
    """The method itself says which layout these names and shapes are the release of."""
    try:
        method = method_for(MethodTable.model_validate({"name": plan.method.name, **plan.method.options}))
    except StudyError as error:
        raise UnfitWeights(f"plan.json names no method of this version: {error}") from None
    layout = method.released_layout(kind, shapes)
    if layout is None or (layout.digest, layout.size) != (plan.method.layout_digest, plan.method.dimension):
        first = ", ".join(f"{shown(name, 80)} {list(shape)}" for name, shape in list(shapes.items())[:3])
        raise UnfitWeights(
            f"{kind} is not what {plan.method.name} releases under this plan ({plan.method.dimension} values, layout "
            f"{plan.method.layout_digest[:8]}); it holds {len(shapes)} tensors: {first}"
        )


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
