"""Public directions are made once: kept in this process, and on this machine beside other public things (PRIVACY 25).

They are large, so a machine keeps the newest few alone. An entry is found by all that directions follow from, the code
among it, so no other code, base, option or caption finds it.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import numpy as np

from undertone.core.canonical import Json, digest_of
from undertone.core.durable import read_array, write_array
from undertone.core.progress import reporter
from undertone.core.public_cache import folder, keep, kept, place
from undertone.errors import FolderError
from undertone.methods.gradient.directions import Directions, same_directions

_SHELF, _ARRAY = "public-directions", ".npy"
_IN_PROCESS, _ON_DISK = 2, 8


@dataclass(frozen=True)
class Facts:
    """What a plan needs of directions: their fingerprint, and what they keep of public gradients (`Directions`)."""

    fingerprint: str
    of_rows: float
    of_mean: float


_made: "OrderedDict[str, tuple[Directions, Facts]]" = OrderedDict()
_turn = RLock()


def directions_for(key: Json, make: Callable[[], Directions]) -> tuple[Directions, Facts]:
    """The directions of that key: from this process, from this machine's disk, or made now and kept."""
    name = digest_of(key)
    with _turn:
        if name not in _made:
            found = _read(key)
            if found is None:
                found = make()
                _keep(key, found)
            _made[name] = found, Facts(found.fingerprint(), found.of_rows, found.of_mean)
        _made.move_to_end(name)
        while len(_made) > _IN_PROCESS:
            _made.popitem(last=False)
        return _made[name]


def facts_for(key: Json, make: Callable[[], Directions]) -> Facts:
    """The same of their facts alone, for which nothing is made or read where they are kept."""
    found = _facts(key)
    return found if found is not None else directions_for(key, make)[1]


def forget() -> None:
    """Drop what this process holds."""
    with _turn:
        _made.clear()


def _facts(key: Json) -> Facts | None:
    found = kept(_SHELF, key)
    if not isinstance(found, dict) or set(found) != {"fingerprint", "of_rows", "of_mean"}:
        return None
    text, of_rows, of_mean = found["fingerprint"], found["of_rows"], found["of_mean"]
    if not isinstance(text, str) or not isinstance(of_rows, float) or not isinstance(of_mean, float):
        return None
    return Facts(text, of_rows, of_mean)


def _read(key: Json) -> Directions | None:
    """What lies on the disk, whole and of the right kind."""
    facts = _facts(key)
    try:
        basis = read_array(place(_SHELF, key, _ARRAY))
    except (FolderError, RuntimeError):
        return None
    if facts is None or basis.dtype != np.float32 or basis.ndim != 2:
        return None
    found = Directions(basis.astype(np.float32, copy=False), facts.of_rows, facts.of_mean)
    return found if same_directions(found.fingerprint(), facts.fingerprint) else None


def _keep(key: Json, found: Directions) -> None:
    facts: Json = {"fingerprint": found.fingerprint(), "of_rows": found.of_rows, "of_mean": found.of_mean}
    try:
        where = place(_SHELF, key, _ARRAY)
        where.parent.mkdir(parents=True, exist_ok=True)
        write_array(where, found.basis)
    except (FolderError, OSError, RuntimeError):
        reporter().line("public directions could not be kept on this machine; the next program makes them again")
        return
    keep(_SHELF, key, facts)
    _drop_old(folder(_SHELF))


def _drop_old(shelf: Path) -> None:
    """All but the newest few, whoever uses them: they can be made again."""
    with suppress(OSError):  # another process drops them too
        arrays = sorted(shelf.glob(f"*{_ARRAY}"), key=lambda path: path.stat().st_mtime, reverse=True)
        for array in arrays[_ON_DISK:]:
            array.unlink(missing_ok=True)
