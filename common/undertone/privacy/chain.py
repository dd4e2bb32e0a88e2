"""The hash chain of a ledger, without its storage (PRIVACY 11, 13).

Entry i carries hash_i = SHA-256(hash_{i-1} || body_i): the previous hash as 64 hexadecimal characters in
ASCII (64 zeros before the first), then the body as canonical JSON in UTF-8. Changing, swapping or removing
an entry breaks every hash after it. Removing the *last* entries breaks nothing: only a head kept elsewhere
shows that.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from undertone.core.canonical import Json, canonical_json, sha256_hex
from undertone.errors import LedgerCorrupt

GENESIS = "0" * 64
# Of all ledgers that a process opens again and again, some 2 kB each: one row after one hash is always one entry.
_MOST_CHECKED = 1 << 15


@dataclass(frozen=True)
class Entry:
    """One link: `seq` counts from 1, `kind` says what `body` holds, `hash` is the chain up to here."""

    seq: int
    kind: str
    body: Mapping[str, Json]
    hash: str


@dataclass(frozen=True)
class Row:
    """An entry as stored. `digest`, `round` and `attempt` repeat the body of a charge, else they are None."""

    seq: int
    body: str
    prev: str
    hash: str
    digest: str | None
    round: int | None
    attempt: int | None


def make_row(seq: int, prev: str, kind: str, body: Mapping[str, Json]) -> Row:
    """The next row of a chain whose last hash is `prev`."""
    text = canonical_json({"kind": kind, "body": body}).decode()
    key = (body["digest"], body["round"], body["attempt"]) if kind == "charge" else (None, None, None)
    return Row(seq, text, prev, entry_hash(prev, text), *key)  # type: ignore[arg-type]


def entry_hash(prev: str, body: str) -> str:
    """SHA-256(prev || body) as 64 hexadecimal characters."""
    return sha256_hex(prev.encode() + body.encode())


@lru_cache(maxsize=_MOST_CHECKED)
def check_row(row: Row, seq: int, prev: str) -> Entry:
    """Verify a stored row as number `seq` after the hash `prev`.

    Raises:
        LedgerCorrupt: any column is not what it must be.
    """
    try:
        expected_hash = entry_hash(prev, row.body)
        content = json.loads(row.body)
        kind, body = content["kind"], content["body"]
        expected = make_row(seq, prev, kind, body)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise LedgerCorrupt(f"ledger entry {seq} cannot be read: {error}. {ADVICE}") from error
    if row != expected or row.hash != expected_hash:
        raise LedgerCorrupt(f"ledger entry {seq} is not the one that was written there. {ADVICE}")
    return Entry(seq=seq, kind=kind, body=body, hash=row.hash)


ADVICE = (
    "Keep the file as evidence, do not charge anything to it, and restore the newest backup whose head the "
    "coordinator confirms"
)
