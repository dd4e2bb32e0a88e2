"""Before the first round: wait for the sites whose operators have not approved the plan yet.

The question is `ready` of the first attempt: it carries the plan, which then waits at a site that does not know it, and
no site computes anything for it.
"""

import time
from itertools import count

from undertone import PROTOCOL
from undertone.core.progress import reporter
from undertone.study.plan import Plan
from undertone.wire.messages import Due, Request
from undertone_server.collect.gathering import Patience
from undertone_server.collect.sites import Sites
from undertone_server.run_folder import RunFolder
from undertone_server.status import NOT_APPROVED, tell


def wait_for_approvals(plan: Plan, run: RunFolder, sites: Sites, patience: Patience) -> None:
    """Return when no site refuses for want of an approval and enough sites are there, or patience is over.

    Whoever is missing for another reason is not waited for; then the round decides whether enough are there.
    """
    began = time.monotonic()
    for tries in count(1):
        refused = _refused(plan, run, sites)
        sites.find()  # who is asked about an attempt that was not prepared says so, and is in again
        here = len(set(sites.present) - refused.keys())
        if not refused and here >= plan.quorum:
            return
        missing = {**sites.missing, **refused}
        who, in_all = ", ".join(sorted(refused or missing)), len(plan.cohort.units)
        because = f"waiting for {who}: {here} of {in_all} sites are here and have approved the plan"
        reporter().line(because)
        tell(run, "waiting", missing, because=because)
        if not patience.lasts(tries, began):
            return


def _refused(plan: Plan, run: RunFolder, sites: Sites) -> dict[str, str]:
    """Site -> its refusal, for each that has not approved the plan."""
    asked = Request("ready", PROTOCOL, plan.as_bytes(), run.signature(), 1, 1)
    for _ in sites.ask(dict.fromkeys(sites.present, asked), Due(body=1, ledger_head=True)):
        pass
    return {site: reason for site, reason in sites.missing.items() if reason.startswith(NOT_APPROVED)}
