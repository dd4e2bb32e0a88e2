"""Driving real nodes through a session of secure aggregation by hand, honestly or not."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.world import START, World
from undertone.models.layout import state_sha256
from undertone.secagg.parameters import Parameters
from undertone.secagg.server import OpenedSum, ServerSession
from undertone.study.session_parameters import session_parameters
from undertone.wire.messages import Reply
from undertone_client.node import Node


class HandSession:
    """One session whose every message a test can look at, change, hold back or send twice."""

    def __init__(
        self, world: World, session: int = 1, attempt: int = 1, sites: Iterable[str] | None = None, round_: int = 1
    ) -> None:
        self.world, self.session, self.attempt, self.round = world, session, attempt, round_
        self.sites = list(sites or world.sites)
        federation = world.run.federation()
        self.params = session_parameters(world.plan, federation.digest, round_, attempt, session, state_sha256(START))
        self.server = ServerSession(self.params, federation)
        self.vectors: dict[str, NDArray[np.uint32]] = {}

    def ask(self, kind: str, site: str, body: bytes, **changes: Any) -> Reply:
        number = {"session": self.session, "attempt": self.attempt, "round": self.round}
        values = number | {"body": body, "state": None} | changes
        return self.world.ask(kind, site, **values)

    def prepare(self) -> bytes:
        """Message 2."""
        body = self.params.to_bytes()
        return self.server.advertise_keys({s: said(self.ask("prepare", s, body, state=START)).body for s in self.sites})

    def share_keys(self, key_list: bytes) -> dict[str, bytes]:
        """Message 4 for each site."""
        return self.server.share_keys({site: said(self.ask("share_keys", site, key_list)).body for site in self.sites})

    def masked_input(self, inboxes: dict[str, bytes]) -> bytes:
        """Message 6."""
        for site, inbox in inboxes.items():
            reply = said(self.ask("masked_input", site, inbox))
            assert reply.words is not None
            self.vectors[site] = reply.words.view(np.uint32).copy()
            assert self.server.add_masked_input(site, self.vectors[site].copy(), reply.body)
        return self.server.end_masked_input()

    def consistency_check(self, lists: bytes) -> bytes:
        """Message 8."""
        return self.server.consistency_check(
            {s: said(self.ask("consistency_check", s, lists)).body for s in self.vectors}
        )

    def unmasking(self, signatures: bytes) -> OpenedSum:
        return self.server.unmasking({s: said(self.ask("unmasking", s, signatures)).body for s in self.vectors})

    def run(self) -> OpenedSum:
        return self.unmasking(self.consistency_check(self.masked_input(self.share_keys(self.prepare()))))


def said(reply: Reply) -> Reply:
    """A reply that is no refusal."""
    assert reply.error == "", f"{reply.error}: {reply.message}"
    return reply


def changed(params: Parameters, **values: Any) -> bytes:
    """Parameters with some values changed, as a coordinator that lies would send them."""
    return Parameters(**(vars_of(params) | values)).to_bytes()


def vars_of(params: Parameters) -> dict[str, Any]:
    return {name: getattr(params, name) for name in Parameters.__dataclass_fields__}


def fails_at(patch: pytest.MonkeyPatch, stages: dict[str, str]) -> None:
    """Site -> the kind of message that it no longer answers."""
    handle: Callable[[Node, Any], Reply] = Node.handle
    gone: set[str] = set()

    def failing(self: Node, request: Any) -> Reply:
        site = self.site.config.site
        if stages.get(site) == request.kind or site in gone:
            gone.add(site)
            raise ConnectionError(site)
        return handle(self, request)

    patch.setattr(Node, "handle", failing)


def plain_sum(world: World, sites: Iterable[str]) -> NDArray[np.int64]:
    """Q worked out slowly from the rows that the nodes kept."""
    grid = world.plan.grid.as_grid()
    total = np.zeros(world.plan.method.dimension, dtype=np.int64)
    for site in sites:
        for row in world.rows(site).values():
            vector = row.astype(np.float64)
            vector *= min(1.0, grid.clip_norm * (1 - 2**-10) / np.linalg.norm(vector))
            total += np.trunc(vector * grid.scale).astype(np.int64)
    return total
