"""Canonical JSON and SHA-256: one byte representation for everything that is hashed, signed or chained."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"


def canonical_json(value: Json) -> bytes:
    """Sorted keys, no whitespace, UTF-8, shortest round-trip floats; NaN and infinity are refused.

    Raises:
        ValueError: a float that JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Json) -> str:
    """SHA-256 of the canonical JSON."""
    return sha256_hex(canonical_json(value))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal characters: what was checked is known again later.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
