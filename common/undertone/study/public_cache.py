"""A small cache of public numbers on this machine. What it lacks, or holds damaged, is made again without an error.

It lies in `$UNDERTONE_CACHE`, else in `undertone` under `$XDG_CACHE_HOME` or `~/.cache`. Each file carries the SHA-256
of its value; deleting any of them is safe.
"""

import json
import os
from pathlib import Path

from undertone.core.canonical import Json, canonical_json, digest_of
from undertone.core.durable import storage_errors, write_durable
from undertone.errors import FolderError

_LARGEST = 4096  # bytes: the entries are a few numbers


def folder() -> Path:
    """Where the entries lie; it need not exist.

    Raises:
        RuntimeError: this user has no home, and neither variable is set.
    """
    chosen, shared = os.environ.get("UNDERTONE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(chosen) if chosen else (Path(shared) if shared else Path.home() / ".cache") / "undertone"
    return root / "public-rows"


def kept(key: Json) -> Json:
    """The value that was kept under the key; None where there is none, or none that is whole."""
    try:
        with _place(key).open("rb") as stream:
            entry = json.loads(stream.read(_LARGEST))
        value: Json = entry["value"]
        whole: bool = entry["sha256"] == digest_of({"key": key, "value": value})
    except (OSError, RuntimeError, ValueError, RecursionError, KeyError, TypeError):
        return None  # a file of anybody's making: whatever is not an entry is no entry
    return value if whole else None


def keep(key: Json, value: Json) -> bool:
    """Keep a value under its key; whether it is there now."""
    try:
        place = _place(key)
        with storage_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_durable(place, canonical_json({"value": value, "sha256": digest_of({"key": key, "value": value})}))
    except (FolderError, RuntimeError):
        return kept(key) == value  # another process may have been as fast
    return True


def _place(key: Json) -> Path:
    return folder() / f"{digest_of(key)}.json"
