"""What coordinator and node say to each other, before any transport: one request, one reply.

Each side treats the other as hostile (PRIVACY 20): the bounds below are checked before anything is read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from undertone import PROTOCOL, errors
from undertone.core.bounds import PLAN_BYTES, SITES
from undertone.core.text import REASON, shown
from undertone.wire.vectors import Packed

Kind = Literal[
    "hello", "prepare", "ready", "plain_input", "share_keys", "masked_input", "consistency_check", "unmasking"
]
Words = NDArray[np.uint32] | NDArray[np.uint8]

YES, NO = b"\1", b"\0"
"""The answers to `ready`."""
LARGEST_PLAN = PLAN_BYTES
LARGEST_BODY = 1 << 18
"""The longest message of secure aggregation, for a thousand sites, has 160 kB."""
MOST_SITES = SITES
LARGEST_NUMBER = (1 << 31) - 1
# What a node may call its refusal. Any other word is read as UNKNOWN.
SITE_FAULT, UNKNOWN = "SiteFault", "UnknownError"
REFUSALS = frozenset(
    {
        SITE_FAULT,
        *(name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.Refused)),
    }
)
_LEDGER_HEAD = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


def is_ledger_head(text: str) -> bool:
    """Whether this has the form of a ledger head: 64 lower-case hexadecimal digits."""
    return _LEDGER_HEAD.fullmatch(text) is not None


def is_signature(text: str) -> bool:
    """Whether this has the form of a signature: 128 lower-case hexadecimal digits."""
    return _SIGNATURE.fullmatch(text) is not None


@dataclass(frozen=True)
class Request:
    """Coordinator -> node.

    hello: who are you? The answer to a challenge in `body` is signed (undertone/wire/hello.py). prepare: draw this
    attempt's coins and compute the rows, the long part; nothing private leaves. A node may answer before that is done;
    ready asks whether it is, and is answered by `YES` or `NO`. plain_input: under plain aggregation, answer
    with the site's vector, once. Under secure aggregation the kinds are the rounds of Bonawitz et al. 2017
    (docs/secure-aggregation.md): AdvertiseKeys rides on prepare, then share_keys, masked_input (the site's vector,
    once), consistency_check and unmasking.

    `plan` is the plan's canonical JSON with the coordinator's signature over its digest; `state` is w, [d]
    float32, with prepare and plain_input, as it arrived until the signature is known to hold; `session` and `body`
    belong to secure aggregation. `ledger_heads` are the newest heads of the sites' ledgers that the coordinator holds,
    by site (undertone_client/site/rollback.py).
    """

    kind: Kind
    protocol: int
    plan: bytes = b""
    signature: str = ""
    round: int = 0
    attempt: int = 0
    session: int = 0
    state: NDArray[np.float32] | Packed | None = None
    body: bytes = b""
    ledger_heads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """Node -> coordinator. `words` answers `plain_input` or `masked_input`: [d] uint32, or [3d] bytes on a 24-bit wire.

    `body` is the site's message of secure aggregation, `ledger_head` stands for its ledger's newest entry. `error`
    and `message` say why a node refused, `blamed` whose message made it; none ever depends on a record (PRIVACY 17).
    """

    site: str
    protocol: int
    words: Words | None = None
    body: bytes = b""
    ledger_head: str = ""
    error: str = ""
    message: str = ""
    blamed: str = ""


def refusal(site: str, error: str, message: str, blamed: str) -> Reply:
    """A refusal as a reader keeps it: `error` a word that this program knows, `message` one printable line."""
    known = error if error in REFUSALS else UNKNOWN
    return Reply(site, PROTOCOL, error=known, message=shown(message, REASON), blamed=blamed)


@dataclass(frozen=True)
class Due:
    """What a good reply holds. The default is a name and nothing else.

    Attributes:
        body: the most bytes of the site's message of secure aggregation.
        words: whether its vector comes in bytes (24-bit wire), and its length; None if none is due.
        ledger_head: whether that is due.
    """

    body: int = 0
    words: tuple[bool, int] | None = None
    ledger_head: bool = False
