"""The classes of a base that is told one: their names, and the rows of its class embedding that names have. No torch.

A class embedding of N + 1 rows has one for each class and a last one, the null label, that says nothing: what
caption dropout gives, and what classifier-free guidance leads away from.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from undertone.core.classes import LONGEST
from undertone.core.text import shown
from undertone.errors import ModelError

FILE = "classes.json"
MOST = 1000
_MOST_BYTES = 1 << 20


def read_classes(folder: Path, reference: str) -> bytes:
    """The bytes of a base's classes.json.

    Raises:
        ModelError: it cannot be read, or is longer than a list of classes can be.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{FILE} of {reference} is longer than 1 MiB; it is a list of at most {MOST} names")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{FILE} of {reference} cannot be read: {error.strerror or error}") from None


def parse_classes(data: bytes, reference: str) -> tuple[str, ...]:
    """The names that classes.json holds, in the order of their labels.

    Raises:
        ModelError: it is no JSON list of 1 to 1000 different names, each one printable line of 1 to 64 characters.
    """
    try:
        names = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not 1 <= len(names) <= MOST or not all(isinstance(one, str) for one in names):
        raise ModelError(
            f'{FILE} of {reference} is no JSON list of 1 to {MOST} names, such as ["cat", "dog"], in the order of '
            "their labels"
        )
    wrong = fault(names)
    if wrong:
        raise ModelError(f"{FILE} of {reference}: {wrong}")
    return tuple(names)


def fault(names: Sequence[str]) -> str:
    """What is wrong with the names of a base's classes, in words; "" if nothing is."""
    if not 1 <= len(names) <= MOST:
        return f"{len(names)} classes; a base has 1 to {MOST}"
    for name in names:
        if not 1 <= len(name) <= LONGEST or not name.isprintable() or name != name.strip():
            said = shown(ascii(name), LONGEST)
            return f"{said} is not one line of 1 to {LONGEST} characters without spaces around it"
    twice = next((name for name in names if names.count(name) > 1), None)
    return "" if twice is None else f"{shown(ascii(twice), LONGEST)} stands there twice; each class has one label"


def labels_for(names: Sequence[str], base_classes: Sequence[str]) -> dict[str, int]:
    """Which row of the class embedding stands for each of a study's classes; public, the same for everybody.

    A name that the base has keeps its row. The others, in sorted order, take the rows that are left, in order.

    Args:
        names: a study's classes.
        base_classes: the base's, in the order of their rows.

    Raises:
        ModelError: there are more names than rows.
    """
    if len(set(names)) > len(base_classes):
        raise ModelError(
            f"{len(set(names))} classes do not fit a base that is told one of {len(base_classes)}: take fewer classes, "
            "or a base with more"
        )
    rows = {name: row for row, name in enumerate(base_classes)}
    found = {name: rows[name] for name in names if name in rows}
    left = (row for row in range(len(base_classes)) if row not in set(found.values()))
    found |= dict(zip(sorted(set(names) - found.keys()), left, strict=False))
    return {name: found[name] for name in names}
