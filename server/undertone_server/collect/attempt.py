"""One try at a round: what it asks of the sites, and from when on it counts (PRIVACY 11)."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone import PROTOCOL
from undertone.core.failpoints import reached
from undertone.core.text import shown
from undertone.errors import TooFewSites
from undertone.wire.messages import Kind, Reply, Request
from undertone_server.attempt_ref import AttemptRef
from undertone_server.collect.due import reply_due
from undertone_server.collect.sites import Sites
from undertone_server.collect.waiting import USUAL, Waiting

_NAMED = 20  # of the missing sites, in an error message


@dataclass(frozen=True)
class Attempt(AttemptRef):
    """An attempt with the sites that answer it, from the public state w [d] float32."""

    sites: Sites
    state: NDArray[np.float32]
    waiting: Waiting = USUAL

    def ask(
        self, kind: Kind, bodies: Mapping[str, bytes], *, session: int = 0, with_state: bool = False
    ) -> Iterator[tuple[str, Reply]]:
        """Each site of `bodies` its message; good replies as they arrive."""
        plan, signature = self.plan.as_bytes(), self.run.signature()
        state = self.state if with_state else None
        made: dict[bytes, Request] = {}  # one request for all sites that are told the same
        for body in bodies.values():
            if body not in made:
                made[body] = Request(
                    kind, PROTOCOL, plan, signature, self.round, self.number, session, state=state, body=body
                )
        yield from self.sites.ask(
            {site: made[body] for site, body in bodies.items()}, reply_due(self.plan, kind, self.round)
        )

    def check_threshold(self, answered: Collection[str], needed: int) -> None:
        """The threshold check of a step: at least `needed` sites have answered.

        Raises:
            TooFewSites: who is missing, and why.
        """
        if len(answered) < needed:
            missing = sorted(self.sites.missing.items())
            reasons = "; ".join(f"{site}: {shown(reason)}" for site, reason in missing[:_NAMED])
            reasons += f"; and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise TooFewSites(f"{len(answered)} sites answered, the plan needs {needed}. Missing: {reasons}")

    def begin(self) -> None:
        """Durable before the first vector is asked for: from here on the attempt counts."""
        reached("rounds/prepared")
        self.run.mark_asked(self.round, self.number)
        reached("rounds/asked durable")
