"""What coordinator and node say to each other, before any transport: one request, one reply (DESIGN 5)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["hello", "prepare", "share", "contribute", "confirm", "unmask"]
Words = NDArray[np.uint32] | NDArray[np.uint8]


@dataclass(frozen=True)
class Request:
    """Coordinator -> node.

    hello: who are you? prepare: draw this attempt's coins and compute the rows, the long part; nothing
    private leaves. contribute: answer with the site's vector, once. Under secure aggregation the site's five
    messages (docs/secure-aggregation.md) answer prepare, share, contribute, confirm and unmask.

    `plan` is the plan's canonical JSON with the coordinator's signature over its digest; `state` is w, [d]
    float32, with prepare and contribute; `session` and `body` belong to secure aggregation. `heads` are the newest
    tokens of the sites' ledgers that the coordinator holds, by site (undertone_client/rollback.py).
    """

    kind: Kind
    protocol: int
    plan: bytes = b""
    signature: str = ""
    round: int = 0
    attempt: int = 0
    session: int = 0
    state: NDArray[np.float32] | None = None
    body: bytes = b""
    heads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """Node -> coordinator. `words` answers `contribute` alone: [d] uint32, or [3d] bytes on a 24-bit wire.

    `body` is the site's message of secure aggregation, `head` the token of its ledger's newest entry. `error` and
    `message` say why a node refused; neither ever depends on a record (PRIVACY 17).
    """

    site: str
    protocol: int
    words: Words | None = None
    body: bytes = b""
    head: str = ""
    error: str = ""
    message: str = ""
