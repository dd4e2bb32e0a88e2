"""A small cache of public things on this machine. What it lacks, or holds damaged, is made again without an error.

It lies in `$UNDERTONE_CACHE`, else in `undertone` under `$XDG_CACHE_HOME` or `~/.cache`, a shelf for each kind. Each
entry carries the SHA-256 of its value; deleting any of them is safe.
"""

import json
import os
from pathlib import Path

from undertone.core.canonical import Json, canonical_json, digest_of
from undertone.core.durable import storage_errors, write_durable
from undertone.errors import FolderError

_LARGEST = 4096  # bytes: the entries are a few numbers


def folder(shelf: str) -> Path:
    """Where the entries of a kind lie; it need not exist.

    Raises:
        RuntimeError: this user has no home, and neither variable is set.
    """
    chosen, shared = os.environ.get("UNDERTONE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(chosen) if chosen else (Path(shared) if shared else Path.home() / ".cache") / "undertone"
    return root / shelf


def place(shelf: str, key: Json, ending: str = ".json") -> Path:
    """Where the entry of that key lies, or another file that goes with it.

    Raises:
        RuntimeError: see `folder`.
    """
    return folder(shelf) / f"{digest_of(key)}{ending}"


def kept(shelf: str, key: Json) -> Json:
    """The value that was kept under the key; None where there is none, or none that is whole."""
    try:
        with place(shelf, key).open("rb") as stream:
            entry = json.loads(stream.read(_LARGEST))
        value: Json = entry["value"]
        whole: bool = entry["sha256"] == digest_of({"key": key, "value": value})
    except (OSError, RuntimeError, ValueError, RecursionError, KeyError, TypeError):
        return None  # a file of anybody's making: whatever is not an entry is no entry
    return value if whole else None


def keep(shelf: str, key: Json, value: Json) -> bool:
    """Keep a value under its key; whether it is there now."""
    try:
        where = place(shelf, key)
        with storage_errors(where):
            where.parent.mkdir(parents=True, exist_ok=True)
        write_durable(where, canonical_json({"value": value, "sha256": digest_of({"key": key, "value": value})}))
    except (FolderError, RuntimeError):
        return kept(shelf, key) == value  # another process may have been as fast
    return True
