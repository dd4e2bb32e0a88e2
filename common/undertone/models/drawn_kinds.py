"""Which public drawings go with a base: those that it was made of, where it was made of some kinds alone. No torch.

What is made of public drawings (C, directions) then is made of these too: a base that has seen no digit is for studies
whose claim is that no digit was known, and a drawing of one in their public directions would break it.
"""

import json
import re
from pathlib import Path

from undertone.errors import ModelError

FILE = "drawings.json"
_MOST_BYTES, _MOST = 1 << 16, 100
_KIND = re.compile(r"[a-z]{1,40}")


def read_kinds(folder: Path, reference: str) -> bytes:
    """The bytes of a base's drawings.json.

    Raises:
        ModelError: it cannot be read, or is longer than 64 KiB.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{FILE} of {reference} is longer than 64 KiB; it is a list of kinds of drawings")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{FILE} of {reference} cannot be read: {error.strerror or error}") from None


def parse_kinds(data: bytes, reference: str) -> tuple[str, ...]:
    """The kinds that drawings.json holds.

    Raises:
        ModelError: it is no JSON list of 1 to 100 words.
    """
    try:
        kinds = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        kinds = None
    if not isinstance(kinds, list) or not 1 <= len(kinds) <= _MOST:
        raise ModelError(f'{FILE} of {reference} is no JSON list of 1 to {_MOST} kinds of drawings, such as ["letter"]')
    if not all(isinstance(kind, str) and _KIND.fullmatch(kind) for kind in kinds):
        raise ModelError(f'{FILE} of {reference} names what is no kind of drawings; a kind is a word, such as "letter"')
    return tuple(kinds)
