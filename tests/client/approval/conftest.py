"""A site at which a plan waits: nothing is approved there, registered or reserved."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pytest

from tests.support.approvals import DATA, NOON, OPERATOR, MemoryBooks
from tests.support.world import World, secure
from undertone.core.keys import PLAN_DOMAIN, sign
from undertone.study.plan import Plan
from undertone_client.approval.approvals import Approval
from undertone_client.approval.approving import approve
from undertone_client.approval.pending import keep_pending
from undertone_client.approval.proposing import Proposal, propose
from undertone_client.node import Node
from undertone_client.site.folder import SiteDir

SIZES = {"north": 6, "east": 8, "south": 10}


@dataclass
class Office:
    """The site north, whose operator has a plan to approve."""

    world: World
    books: MemoryBooks = field(default_factory=MemoryBooks)
    now: datetime = NOON

    @property
    def site(self) -> SiteDir:
        return SiteDir(self.world.sites["north"])

    @property
    def digest(self) -> str:
        return self.world.plan.digest

    def arrives(self, plan: Plan | None = None) -> str:
        """A plan comes by file, signed by the coordinator."""
        plan = plan or self.world.plan
        return keep_pending(self.site, plan.as_bytes(), sign(self.world.run.key(), PLAN_DOMAIN, plan.digest))

    def propose(self, digest: str = "", data: str = DATA, operator: str = OPERATOR, until: Any = None) -> Proposal:
        return propose(self.site, digest or self.digest, data, operator, until, self.books, self.now)

    def approve(self, until: date | None = None) -> Approval:
        return approve(self.site, self.propose(until=until), self.books, self.now, say=lambda _line: None)

    def node(self) -> Node:
        return Node(self.site.folder, now=lambda: self.now)

    def answer(self, **changes: Any) -> tuple[str, str]:
        """The code and the message with which the node refuses a request; "" where it answers."""
        reply = self.node().handle(self.world.request(**changes))
        return reply.error, reply.message

    def nothing_is_approved(self) -> bool:
        """Whether there is neither registration, nor reservation, nor approval."""
        folders = [self.site.folder / name for name in ("approved", "registered")]
        return not self.books.reserved and not any(
            list(folder.glob("*.json*")) for folder in folders if folder.exists()
        )


@pytest.fixture
def office(make_world: Callable[..., World]) -> Office:
    return opened(make_world(SIZES, aggregation={"mode": "plain", "threshold": 0, "colluders": 0}))


@pytest.fixture
def secure_office(make_world: Callable[..., World]) -> Office:
    return opened(make_world(SIZES, aggregation=secure(3), min_sites=3, sampling_rate=0.5, rounds=2, max_attempts=3))


def opened(world: World) -> Office:
    """A site from which what `build_world` approved is taken away."""
    for name in ("approved", "registered"):
        shutil.rmtree(world.sites["north"] / name)
    return Office(world)
