"""Which sites an attempt masks for, where the survivor lists of a study form a chain (PRIVACY 12).

The first list holds whoever of the roster is there, at least the quorum. From then on an attempt asks the sites of
the list alone, and asks for vectors only when all of them have shared their keys: until then no vector has left, so
waiting costs no attempt. A site that stays away can be left out only together with others: c + 2 or more at a time.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from math import inf

from undertone.core.failpoints import reached
from undertone.core.progress import reporter
from undertone.errors import AttemptVoid, TooFewSites
from undertone.secagg.survivors import check_follows
from undertone.study.plan import Plan
from undertone_server.collect.attempt import Attempt
from undertone_server.run_folder import RunFolder
from undertone_server.status import State, tell

_PAUSE_GROWS_BY = 5.0  # seconds a try: whoever watches two operators approve need not wait a minute more


@dataclass(frozen=True)
class Patience:
    """How long the coordinator asks again before it goes on without a site.

    Attributes:
        seconds: since the attempt began.
        pause: seconds between two tries in the long run; at first less.
        tries: how often all sites are asked at most.
    """

    seconds: float = inf
    pause: float = 0.0
    tries: float = inf

    def lasts(self, tries: int, began: float) -> bool:
        """Whether another try is due after so many; if so, it is time for it when this returns."""
        pause = min(self.pause, _PAUSE_GROWS_BY * tries)
        if tries >= self.tries or time.monotonic() - began + pause >= self.seconds:
            return False
        time.sleep(pause)
        return True


# Where all sites are in one process nobody comes back by waiting: a second and third try catch what passes.
BRIEF = Patience(tries=3)


class Gathering:
    """The tries of one attempt to have all of a list at once."""

    def __init__(self, attempt: Attempt, patience: Patience) -> None:
        self._attempt = attempt
        self._patience = patience
        self._kept = attempt.run.kept_survivors()
        self._gone: dict[str, str] = {}
        self._began, self._tries = time.monotonic(), count(1)
        self._waits = False  # as the status has it

    def wanted(self) -> tuple[str, ...]:
        """Whom to ask now, sorted.

        Raises:
            TooFewSites: too many are away for a list that may be signed; who, and what to do.
        """
        return next_list(self._attempt.plan, self._kept, self._gone)

    def complete(self, wanted: Collection[str]) -> bool:
        """Whether all of `wanted` are still in; if not, wait or leave out who is away, and look who is back."""
        sites = self._attempt.sites
        away = {site: sites.missing[site] for site in wanted if site in sites.missing}
        if not away:
            for site, reason in self._gone.items():
                sites.drop(site, reason)
            if self._waits:
                self._tell("running")
            return True
        who, attempt = ", ".join(f"{site} ({reason})" for site, reason in away.items()), self._attempt
        because = f"round {attempt.round}: waiting for {who}; no vector has left, so no attempt is lost"
        reporter().line(because)
        self._tell("waiting", because)
        self._waits = True
        if not self._patience.lasts(next(self._tries), self._began):
            self._gone |= away
        sites.find()
        return False

    def _tell(self, state: State, because: str = "") -> None:
        attempt = self._attempt
        missing, number = attempt.sites.missing, attempt.number
        tell(attempt.run, state, missing, round_=attempt.round, attempt=number, because=because)


def next_list(plan: Plan, kept: Collection[str] | None, gone: Mapping[str, str]) -> tuple[str, ...]:
    """The largest list that may be signed next without the sites that are gone.

    Args:
        plan: roster, c, quorum and public figures.
        kept: the study's list; None before the first.
        gone: site -> why it is away.

    Raises:
        TooFewSites: there is none.
    """
    here = sorted(set(plan.cohort.units if kept is None else kept) - set(gone))
    reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(gone.items()))
    if kept is None and len(here) < plan.quorum:
        raise TooFewSites(f"{len(here)} sites answered, the plan needs {plan.quorum}. Missing: {reasons}")
    if kept is None or not gone:
        return tuple(here)
    fewer = max(len(gone), plan.aggregation.colluders + 2)
    if len(kept) - fewer < plan.quorum:
        raise TooFewSites(
            f"away: {reasons}. The study's list of {len(kept)} survivors cannot shrink: it may lose "
            f"{plan.aggregation.colluders + 2} sites or more at once and none alone, and the plan needs {plan.quorum}. "
            "No vector of this attempt has left and nothing charged is lost: bring the sites back and resume. Or plan "
            'anew with privacy.noise = "distributed", or with aggregation.rosters = "free", where a round goes on '
            "without a site"
        )
    # Besides those that are gone, the sites leave whose public figures are smallest: the sums lose least.
    largest_first = sorted(here, key=lambda site: (-plan.cohort.units[site], site))
    return tuple(sorted(largest_first[: len(kept) - fewer]))


def enter_list(attempt: Attempt, asked: Collection[str], survivors: Collection[str]) -> None:
    """Make the survivors the study's list, durably, before anyone is asked to sign it.

    Args:
        attempt: which.
        asked: the sites that were asked for their vectors.
        survivors: those whose vectors are in the accumulator.

    Raises:
        AttemptVoid: after the first list, one that was asked is missing; nothing was signed.
        SurvivorsChanged: the list may not follow the one before.
    """
    run, plan = attempt.run, attempt.plan
    kept, missing = run.kept_survivors(), sorted(set(asked) - set(survivors))
    if kept is not None and missing:
        raise AttemptVoid(
            f"round {attempt.round}, attempt {attempt.number}: {', '.join(missing)} sent no vector that counts, and "
            "the study's list of survivors may not shrink by so few; nothing was opened, the attempt counts"
        )
    roster = sorted(plan.cohort.units)
    last = None if kept is None else tuple(map(roster.index, kept))
    check_follows(last, tuple(sorted(map(roster.index, survivors))), plan.aggregation.colluders)
    _keep(run, survivors)


def _keep(run: RunFolder, survivors: Collection[str]) -> None:
    run.keep_survivors(tuple(sorted(survivors)))
    reached("secure/survivors durable")
