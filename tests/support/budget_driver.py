"""A site's budget in processes that die: imports once, then forks a real process for each kill that it is asked for.

The first line of standard input is a plan, each further one a `Life` as JSON; each line of standard output says how
that process ended. What a process has done is written to the witness file at once, outside the ledger: "begin" before
each step, and after it that a plan is approved or refused, a vector has left, or a plan has ended.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.failpoints import Trace, kill_this_process
from tests.support.site_budget import SUM, varied
from undertone.core import failpoints
from undertone.errors import BudgetExceeded
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone_client.site.accounts import Accounts
from undertone_client.site.budget import charge, free, reserve

KINDS: list[dict[str, Any]] = [
    {"sigma": 12 * 1024, "rounds": 12, "max_attempts": 12},
    {"sigma": 820, "sampling_rate": 0.01, "rounds": 8, "max_attempts": 8},
    {"sigma": 5 * 1024, "rounds": 4, "max_attempts": 4},
    {"sigma": 3 * 1024, "sampling_rate": 0.3, "rounds": 9, "max_attempts": 9},
]
STUDIES = 12


@dataclass(frozen=True)
class Life:
    """One process. It dies at the `hit`-th commit that it is about to make, or if that is 0 after some milliseconds."""

    ledger: str
    witness: str
    seed: int
    hit: int = 0
    milliseconds: float = 0.0


def studies(plan: Plan) -> list[Plan]:
    """As many plans of several kinds as the processes draw from."""
    return [varied(plan, f"study-{number}", **KINDS[number % len(KINDS)]) for number in range(STUDIES)]


def live_on(life: Life, plans: dict[str, Plan], ready: int) -> None:
    """Approve, charge and end studies until somebody kills this process."""
    chance = random.Random(life.seed)
    witness = os.open(life.witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(kind: str, **facts: object) -> None:
        os.write(witness, json.dumps({"kind": kind, **facts}).encode() + b"\n")

    with Ledger.open(Path(life.ledger)) as ledger:
        if life.hit:
            failpoints._handlers[:] = [Trace("ledger/before commit", life.hit, kill_this_process)]
        os.write(ready, b"!")
        while True:
            held = Accounts.read(ledger.entries()).reservations
            live = sorted(digest for digest, reservation in held.items() if reservation.live)
            open_ = [digest for digest in live if held[digest].charged < held[digest].attempts]
            step = chance.choice(["approve", "charge", "charge", "charge", "end"])
            if step == "charge" and open_:
                digest = chance.choice(open_)
                # The next round each time: a replay is not what is looked for here.
                write("begin", step=step, digest=digest)
                receipt = charge(ledger, plans[digest], held[digest].charged + 1, 1, SUM)
                write("vector", digest=digest, round=receipt.round)
            elif step == "end" and live:
                digest = chance.choice(live)
                write("begin", step=step, digest=digest)
                free(ledger, digest, "ended")
                write("ended", digest=digest)
            elif step == "approve":
                digest = chance.choice(sorted(plans))
                write("begin", step=step, digest=digest)
                try:
                    reserve(ledger, plans[digest], "chest")
                    write("approved", digest=digest)
                except BudgetExceeded:
                    write("refused", digest=digest)


def run(life: Life, plans: dict[str, Plan]) -> int:
    """How a process of its own ended: its exit code, or minus the signal."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            live_on(life, plans, writer)
        finally:  # an error is the finding; nothing of the driver may go on in this process
            os._exit(70)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    if not life.hit:
        time.sleep(life.milliseconds / 1000)
        os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still this child's
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Until standard input ends."""
    plans = {plan.digest: plan for plan in studies(Plan.from_bytes(sys.stdin.readline().strip().encode()))}
    for line in sys.stdin:
        print(run(Life(**json.loads(line)), plans), flush=True)


if __name__ == "__main__":
    main()
