"""Waiting until the rows of an attempt are there: nodes that stay answer `prepare` before they have made them."""

import time
from collections.abc import Iterable

from undertone.errors import NotPrepared
from undertone.wire.messages import NO, YES
from undertone_server.collect.attempt import Attempt

TRIES = 3
"""How often sites are asked to prepare, where a node was restarted while it did."""
_GROWTH = 1.5


def wait_until_ready(attempt: Attempt, sites: Iterable[str], session: int = 0) -> list[str]:
    """Those of `sites` that say yes, sorted; the others have dropped out, with their reasons.

    Args:
        attempt: which; it says how long to wait.
        sites: that have answered `prepare`.
        session: of secure aggregation.
    """
    waiting = attempt.waiting
    asked, ready, pause, deadline = list(sites), set(), waiting.pause, time.monotonic() + waiting.seconds
    while asked:
        not_yet = []
        for site, reply in attempt.ask("ready", dict.fromkeys(asked, b""), session=session):
            if reply.body == YES:
                ready.add(site)
            elif reply.body == NO:
                not_yet.append(site)
            else:
                attempt.sites.drop(site, "answered neither yes nor no when it was asked whether it is ready")
        asked = not_yet
        if asked and time.monotonic() + pause >= deadline:
            for site in asked:
                attempt.sites.drop(site, f"was not ready {waiting.seconds:.0f} s after it was asked to prepare")
            asked = []
        if asked:
            time.sleep(pause)
            pause = min(pause * _GROWTH, waiting.longest_pause)
    return sorted(ready)


def unprepared(attempt: Attempt) -> list[str]:
    """The sites that have dropped out because their node, restarted, does not know the attempt any more."""
    return [site for site, why in attempt.sites.missing.items() if why.startswith(f"{NotPrepared.__name__}:")]
