"""The survivor lists that this site has signed in a study, in its ledger (PRIVACY 12).

Lists of one study (plan digest) form a chain (`undertone.secagg.survivors`). The check against the list signed last and
the entry of the new one are one transaction of the ledger, and durable before the list is signed: of two requests with
lists that do not follow each other, one is answered, and a death in between leaves an entry that was never signed,
which narrows what may follow and reveals nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from undertone.core.failpoints import reached
from undertone.errors import LedgerCorrupt
from undertone.privacy.chain import Entry
from undertone.privacy.ledger import Ledger
from undertone.secagg.messages import Indices
from undertone.study.plan import Plan
from undertone.wire.messages import Request

_ENTRY = "survivors"


@dataclass(frozen=True)
class LedgerLists:
    """The lists of `plan`; the next one is of the attempt and session of `request`."""

    ledger: Ledger
    plan: Plan
    request: Request

    def append(self, survivors: Indices, allowed: Callable[[Indices | None], None]) -> None:
        """Enter a list, if it may follow the one entered last.

        Raises:
            SurvivorsChanged: by `allowed`.
            LedgerUnavailable, LedgerCorrupt: nothing was entered.
        """
        request, roster = self.request, self._roster

        def follows(entries: Sequence[Entry]) -> None:
            allowed(self._last(entries))

        self.ledger.append(
            _ENTRY,
            {
                "digest": self.plan.digest,
                "round": request.round,
                "attempt": request.attempt,
                "session": request.session,
                "sites": [roster[index] for index in survivors],
            },
            follows,
        )
        reached("session/survivors durable")

    def _last(self, entries: Sequence[Entry]) -> Indices | None:
        """The list of this study that was entered last; None before the first."""
        digest, roster = self.plan.digest, self._roster
        for entry in reversed(entries):
            if entry.kind == _ENTRY and entry.body.get("digest") == digest:
                sites = entry.body.get("sites")
                if not isinstance(sites, list) or not all(site in roster for site in sites):
                    raise LedgerCorrupt(f"ledger entry {entry.seq} lists survivors that are not on the plan's roster")
                return tuple(sorted(roster.index(str(site)) for site in sites))
        return None

    @property
    def _roster(self) -> list[str]:
        return sorted(self.plan.cohort.units)
