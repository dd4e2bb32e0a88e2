"""What coordinator and node say to each other, before any transport: one request, one reply (DESIGN 5)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["hello", "prepare", "contribute"]


@dataclass(frozen=True)
class Request:
    """Coordinator -> node.

    hello: who are you? prepare: draw this attempt's coins and compute the rows, the long part; nothing
    leaves. contribute: answer with the site's vector, once. `plan` is the plan's canonical JSON with
    the coordinator's signature over its digest; `state` is w, [d] float32.
    """

    kind: Kind
    protocol: int
    plan: bytes = b""
    signature: str = ""
    round: int = 0
    attempt: int = 0
    state: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Reply:
    """Node -> coordinator. `words` [d] uint32 answers `contribute` alone.

    `error` and `message` say why a node refused; neither ever depends on a record (PRIVACY 17).
    """

    site: str
    protocol: int
    words: NDArray[np.uint32] | None = None
    error: str = ""
    message: str = ""
