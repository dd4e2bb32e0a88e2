"""Where a method's public latents come from: drawings, encoded by whoever needs them, and kept on this machine.

Recomputed by each node and the coordinator, never sent (PRIVACY 25). A function of the plan's options, the base and the
code alone: no argument here holds anything that a site read. An entry is found by all that it follows from.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import Json, digest_of
from undertone.core.code_digest import package_sha256
from undertone.core.durable import read_array, write_array
from undertone.core.progress import reporter
from undertone.core.public_cache import folder, keep, kept, place
from undertone.errors import DirectionsDiffer, FolderError
from undertone.methods.gradient.directions import same_directions
from undertone.methods.prototypes.public_latents import PublicLatents, public_latents
from undertone.models.devices import choose
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase

_SHELF, _ARRAY = "public-latents", ".npy"
_IN_PROCESS, _ON_DISK = 2, 8
# Other drawings than those whose rows are measured (`method.py`), and others again for what is kept of latents.
_SEED, _HELD_OUT_SEED, _HELD_OUT = 20_310_101, 20_320_101, 64
_AT_ONCE = 16  # more pixels at a time are slower on a processor

_made: "OrderedDict[str, PublicLatents]" = OrderedDict()
_turn = RLock()


@dataclass(frozen=True)
class Wanted:
    """Which public latents: k components and J centres of so many drawings of some kinds; none named: of all."""

    components: int
    centres: int
    drawings: int
    kinds: Sequence[str]


def latent_shape(base: PinnedBase) -> tuple[int, int, int]:
    """(channels, height, width) of a latent, from the base's files alone."""
    side = int(base.config("unet")["sample_size"])
    return int(base.config("vae")["latent_channels"]), side, side


def found(wanted: Wanted, base: PinnedBase, check: str, loaded: Base | None = None) -> PublicLatents:
    """The public latents, from this process, this machine or made now; on `loaded`, else on a base loaded for it.

    Args:
        wanted: which.
        base: its files.
        check: the plan's fingerprint of them; "" where there is no plan yet.
        loaded: the same base in memory.

    Raises:
        DirectionsDiffer: they are not those that the plan was made with.
        StudyError: drawings do not span so many components.
    """
    key = _key(wanted, base)
    name = digest_of(key)
    with _turn:
        if name not in _made:
            read = _read(key, wanted, prod(latent_shape(base)))
            _made[name] = read if read is not None else _kept(key, _make(wanted, loaded or _load(base)))
        _made.move_to_end(name)
        while len(_made) > _IN_PROCESS:
            _made.popitem(last=False)
        latents = _made[name]
    if check and not same_directions(latents.fingerprint(), check):
        raise DirectionsDiffer(
            f"the {wanted.components} public components made on this machine are not those of the plan "
            f"({latents.fingerprint()}; the plan says {check}): its libraries draw or compute otherwise. Install what "
            "constraints.txt names, and delete what this machine keeps of public latents"
        )
    return latents


def forget() -> None:
    """Drop what this process holds."""
    with _turn:
        _made.clear()


def drawn(
    base: Base, seed: int, count: int, kinds: Sequence[str], progress: Callable[[int], None]
) -> NDArray[np.float32]:
    """Latents [count, D] of the first `count` drawings of a series of these kinds, or of all where none is named."""
    from undertone.public_images.procedural import draw  # drawings: slow to import

    latents = np.empty((count, prod(base.latent_shape)), dtype=np.float32)
    for first in range(0, count, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, count))
        images = [draw(seed, number, base.image_size, kinds or None).pixels for number in numbers]
        latents[first : first + len(images)] = base.encode(np.stack(images)).reshape(len(images), -1)
        progress(len(images))
    return latents


def _load(base: PinnedBase) -> Base:
    from undertone.models.base import load_base  # torch: only where they are made

    return load_base(base, choose()[0])


def _make(wanted: Wanted, base: Base) -> PublicLatents:
    with reporter().task(f"{wanted.components} public components", wanted.drawings + _HELD_OUT) as progress:
        made = drawn(base, _SEED, wanted.drawings, wanted.kinds, progress)
        held_out = drawn(base, _HELD_OUT_SEED, _HELD_OUT, wanted.kinds, progress)
    return public_latents(made, held_out, wanted.components, wanted.centres)


def _key(wanted: Wanted, base: PinnedBase) -> dict[str, Json]:
    """All that they follow from. Seeds and the algorithm stand in the code."""
    return {
        "code": package_sha256(),
        "base": dict(base.files),
        "components": wanted.components,
        "centres": wanted.centres,
        "drawings": wanted.drawings,
        "kinds": list(wanted.kinds),
    }


def _shapes(wanted: Wanted, size: int) -> list[tuple[int, ...]]:
    k = wanted.components
    return [(size,), (k, size), (k, size), (wanted.centres, k), (k, k)]


def _read(key: Json, wanted: Wanted, size: int) -> PublicLatents | None:
    """What lies on the disk, whole and of the right kind."""
    facts = kept(_SHELF, key)
    if not isinstance(facts, dict) or not isinstance(facts.get("kept"), float):
        return None
    try:
        values = read_array(place(_SHELF, key, _ARRAY))
    except (FolderError, RuntimeError):
        return None
    shapes = _shapes(wanted, size)
    ends = np.cumsum([prod(shape) for shape in shapes])
    if values.dtype != np.float32 or values.shape != (ends[-1],):
        return None
    parts = np.split(values.astype(np.float32, copy=False), ends[:-1])
    latents = PublicLatents(
        float(facts["kept"]), *(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
    )
    return latents if facts.get("fingerprint") == latents.fingerprint() else None


def _kept(key: Json, latents: PublicLatents) -> PublicLatents:
    """The same, kept on this machine where that is possible; the oldest go."""
    facts: Json = {"fingerprint": latents.fingerprint(), "kept": latents.kept}
    arrays = (latents.mean, latents.into, latents.back, latents.centres, latents.covariance)
    try:
        where = place(_SHELF, key, _ARRAY)
        where.parent.mkdir(parents=True, exist_ok=True)
        write_array(where, np.concatenate([array.reshape(-1) for array in arrays]))
    except (FolderError, OSError, RuntimeError):
        reporter().line("public latents could not be kept on this machine; the next program makes them again")
        return latents
    keep(_SHELF, key, facts)
    with suppress(OSError):  # another process drops them too
        on_disk = sorted(folder(_SHELF).glob(f"*{_ARRAY}"), key=lambda path: path.stat().st_mtime, reverse=True)
        for array in on_disk[_ON_DISK:]:
            array.unlink(missing_ok=True)
    return latents
