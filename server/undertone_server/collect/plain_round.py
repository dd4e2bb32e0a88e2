"""One attempt under plain aggregation: prepare, plain_input, add. The coordinator sees each site's vector."""

from itertools import count

import numpy as np

from undertone.errors import MechanismViolation
from undertone.privacy.plain_sum import NAME, open_sum
from undertone.privacy.quantise import from_ring
from undertone.privacy.stages import MaskedVector, Sum
from undertone_server.collect.attempt import Attempt
from undertone_server.collect.readiness import TRIES, unprepared, wait_until_ready


def collect(attempt: Attempt) -> Sum:
    """The opened sum of the sites that answered.

    A site whose vector is not clamped drops out: here, and here alone, its sender is known.

    Raises:
        TooFewSites: fewer than the plan's minimum; who was missing, and why.
        MechanismViolation: the plan wants another aggregation.
    """
    if attempt.plan.aggregation.mode != NAME:
        raise MechanismViolation(f"the plan says aggregation {attempt.plan.aggregation.mode}; nobody was asked")
    prepared = _prepared(attempt)
    attempt.check_threshold(prepared, attempt.plan.cohort.min_sites)
    attempt.begin()
    vectors: dict[str, MaskedVector] = {}
    for site, reply in attempt.ask("plain_input", dict.fromkeys(prepared, b""), with_state=True):
        if reply.words is None:
            attempt.sites.drop(site, "sent no vector")
            continue
        words = reply.words.astype(np.uint32, copy=False)
        try:
            from_ring(words, 1, attempt.stage.grid.site_clamp)
        except MechanismViolation:
            attempt.sites.drop(site, "sent a vector that is not clamped")
        else:
            vectors[site] = MaskedVector(words, NAME)
    attempt.check_threshold(vectors, attempt.plan.cohort.min_sites)
    return open_sum(vectors, attempt.stage.grid.as_grid(), attempt.stage.sensitivity)


def _prepared(attempt: Attempt) -> list[str]:
    """The sites whose rows are there; one whose node was restarted meanwhile is asked to prepare again."""
    for tries in count(1):
        prepared = dict(attempt.ask("prepare", dict.fromkeys(attempt.sites.present, b""), with_state=True))
        ready = wait_until_ready(attempt, prepared)
        if tries == TRIES or not unprepared(attempt):
            break
        attempt.sites.find()
    return ready
