"""What coordinator and node say to each other, before any transport: one request, one reply.

Each side treats the other as hostile (PRIVACY 20): the bounds below are checked before anything is read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from undertone import errors
from undertone.bounds import PLAN_BYTES, SITES
from undertone.study import SITE_NAME
from undertone.vectors import Packed

Kind = Literal["hello", "prepare", "share", "contribute", "confirm", "unmask"]
Words = NDArray[np.uint32] | NDArray[np.uint8]

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
_NAME = re.compile(SITE_NAME)
_TOKEN = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


def is_site_name(text: str) -> bool:
    """Whether a site can have this name."""
    return _NAME.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """Whether this is the token of an entry of a ledger: 64 lower-case hexadecimal digits."""
    return _TOKEN.fullmatch(text) is not None


def is_signature(text: str) -> bool:
    """Whether this has the form of a signature: 128 lower-case hexadecimal digits."""
    return _SIGNATURE.fullmatch(text) is not None


@dataclass(frozen=True)
class Request:
    """Coordinator -> node.

    hello: who are you? The answer to a challenge in `body` is signed (undertone/hello.py). prepare: draw this
    attempt's coins and compute the rows, the long part; nothing private leaves. contribute: answer with the site's
    vector, once. Under secure aggregation the site's five messages (docs/secure-aggregation.md) answer prepare, share,
    contribute, confirm and unmask.

    `plan` is the plan's canonical JSON with the coordinator's signature over its digest; `state` is w, [d]
    float32, with prepare and contribute, as it arrived until the signature is known to hold; `session` and `body`
    belong to secure aggregation. `heads` are the newest tokens of the sites' ledgers that the coordinator holds, by
    site (undertone_client/rollback.py).
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
    heads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """Node -> coordinator. `words` answers `contribute` alone: [d] uint32, or [3d] bytes on a 24-bit wire.

    `body` is the site's message of secure aggregation, `head` the token of its ledger's newest entry. `error` and
    `message` say why a node refused, `blamed` whose message made it; none ever depends on a record (PRIVACY 17).
    """

    site: str
    protocol: int
    words: Words | None = None
    body: bytes = b""
    head: str = ""
    error: str = ""
    message: str = ""
    blamed: str = ""


@dataclass(frozen=True)
class Due:
    """What a good reply holds. The default is a name and nothing else.

    Attributes:
        body: the most bytes of the site's message of secure aggregation.
        words: whether its vector comes in bytes (24-bit wire), and its length; None if none is due.
        head: whether the token of its ledger is due.
    """

    body: int = 0
    words: tuple[bool, int] | None = None
    head: bool = False
