"""Studies, approvals, charges, voids, crashes, restores and withdrawals in any order, on a ledger that is a file.

An accountant that shares no code (tests/support/budget.py) keeps every vector that ever left and finds never more than
the cap; what approved plans may still charge fits beside it; and no approved plan starves within its reservation
(PRIVACY 13).
"""

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.auditor import read_chain
from tests.support.budget import SlowAccountant, fields
from tests.support.failpoints import Killed, at
from tests.support.site_budget import SUM, UNITS, data_set, new_ledger, varied
from tests.support.world import make_plan
from undertone.errors import BudgetExceeded, LedgerCorrupt, LedgerRestored, NotApproved, ReplayedAttempt
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone_client.site.budget import Budget, charge, free, register_cap, reserve
from undertone_client.site.rollback import ledger_head_of, refuse_older

CAP = 3.0
SECRET = b"s" * 32
MEMORY = Path("/dev/shm")  # thousands of commits; what a process loses when it is killed is tests/e2e's matter
# Large pieces of a small cap, so that refusals are common: unsampled, sampled with little noise, shares.
KINDS: list[dict[str, Any]] = [
    {"sigma": 6 * 1024},
    {"sigma": 12 * 1024},
    {"sigma": 820, "sampling_rate": 0.01},
    {"sigma": 3 * 1024, "sampling_rate": 0.3},
    {"noise": "distributed", "sigma_local": 5 * 1024, "sampling_rate": 0.9},
]


@pytest.fixture(scope="module", autouse=True)
def plan(dummy_base: Path) -> Plan:
    """Whose rounds may be answered several times, so that an attempt can be void."""
    aggregation = {"mode": "secagg", "threshold": 3, "colluders": 1}
    Interleavings.plan = make_plan(dummy_base, UNITS, aggregation=aggregation)
    return Interleavings.plan


class Interleavings(RuleBasedStateMachine):
    """One site. `left` is what each plan may still charge, as a person would count it."""

    plan: Plan

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.path, self.backup = self.folder / "ledger.sqlite", self.folder / "backup"
        self.data = data_set(CAP)
        new_ledger(self.path).close()
        self.ledger = Ledger.open(self.path)
        register_cap(self.ledger, self.data)
        self.accountant = SlowAccountant(self.ledger.entries()[1].body["cap"])  # type: ignore[arg-type]
        self.plans: dict[str, Plan] = {}
        self.left: dict[str, int] = {}
        self.next: Counter[str] = Counter()
        self.live: set[str] = set()

    # --- studies ------------------------------------------------------------------------------------

    def wanted(self, *digests: str) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        for digest in digests:
            counts[fields(self.plans[digest].stage_of(1).event.as_dict())] += self.left[digest]
        return counts

    def approve(self, digest: str) -> None:
        wanted = self.wanted(*self.live, digest)
        try:
            reserve(self.ledger, self.plans[digest], "chest")
        except BudgetExceeded:
            assert self.accountant.finds(wanted) > CAP - 1e-12, "refused, and it would have fitted"
        else:
            assert self.accountant.finds(wanted) <= CAP, "approved above the cap"
            self.live.add(digest)

    @rule(kind=st.sampled_from(KINDS), attempts=st.integers(1, 25))
    def a_new_plan(self, kind: dict[str, Any], attempts: int) -> None:
        """Of whatever coordinator, user and name: a digest of its own."""
        plan = varied(self.plan, f"study-{len(self.plans)}", rounds=attempts, max_attempts=attempts, **kind)
        self.plans[plan.digest], self.left[plan.digest] = plan, attempts
        self.approve(plan.digest)

    @precondition(lambda self: self.plans)
    @rule(data=st.data())
    def an_old_plan_again(self, data: st.DataObject) -> None:
        """Approved twice, or once more after its end."""
        digest = data.draw(st.sampled_from(sorted(self.plans)))
        if digest in self.live:
            before = self.ledger.head
            reserve(self.ledger, self.plans[digest], "chest")
            assert self.ledger.head == before
        else:
            self.approve(digest)

    def charge(self, digest: str) -> None:
        """The next attempt at a round: what is charged has left, whether its sum is opened or the attempt is void."""
        self.next[digest] += 1
        charge(self.ledger, self.plans[digest], 1, self.next[digest], SUM)
        self.left[digest] -= 1
        self.accountant.charge(self.plans[digest].stage_of(1).event.as_dict())

    @precondition(lambda self: any(self.left[digest] for digest in self.live))
    @rule(data=st.data(), attempts=st.integers(1, 5))
    def charges(self, data: st.DataObject, attempts: int) -> None:
        """None fails within its reservation."""
        digest = data.draw(st.sampled_from(sorted(digest for digest in self.live if self.left[digest])))
        for _ in range(min(attempts, self.left[digest])):
            self.charge(digest)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), why=st.sampled_from(["ended", "withdrawn", "expired"]))
    def an_end(self, data: st.DataObject, why: str) -> None:
        digest = data.draw(st.sampled_from(sorted(self.live)))
        for _ in range(2):
            free(self.ledger, digest, why)
        self.live.discard(digest)

    @precondition(lambda self: self.plans)
    @rule(data=st.data())
    def a_charge_that_is_refused(self, data: st.DataObject) -> None:
        """Without a reservation, beyond it, or of an attempt that was charged."""
        digest = data.draw(st.sampled_from(sorted(self.plans)))
        if digest in self.live and self.left[digest] and not self.next[digest]:
            return
        before, again = self.ledger.head, digest in self.live and bool(self.left[digest])
        attempt = self.next[digest] + (0 if again else 1)
        with pytest.raises((NotApproved, BudgetExceeded) if not again else ReplayedAttempt):
            charge(self.ledger, self.plans[digest], 1, attempt, SUM)
        assert self.ledger.head == before

    # --- machines -----------------------------------------------------------------------------------

    @rule(data=st.data())
    def a_crash(self, data: st.DataObject) -> None:
        """Before a commit, whatever it was for; another process opens what is there and does it."""
        acts = [lambda: reserve(self.ledger, varied(self.plan, "lost", max_attempts=1, sigma=1 << 24), "chest")]
        for digest in sorted(self.live):
            acts.append(lambda digest=digest: free(self.ledger, digest, "lost"))
            if self.left[digest]:
                attempt = self.next[digest] + 1
                acts.append(
                    lambda digest=digest, attempt=attempt: charge(self.ledger, self.plans[digest], 1, attempt, SUM)
                )
        act = data.draw(st.sampled_from(acts))
        before = self.ledger.head
        with pytest.raises(Killed), at("ledger/before commit"):
            act()
        self.ledger.close()
        self.ledger = Ledger.open(self.path)
        assert self.ledger.head == before

    @rule()
    def a_backup(self) -> None:
        self.backup.unlink(missing_ok=True)
        self.ledger.copy_to(self.backup)

    @precondition(lambda self: self.backup.exists())
    @rule()
    def a_restore(self) -> None:
        """An older copy is found out by who has seen the newest head, before it can charge; the newest is put back."""
        head = self.ledger.head
        with Ledger.open(self.backup, read_only=True) as older:
            old = older.head != head
            if old:
                with pytest.raises(LedgerRestored):
                    refuse_older(older, SECRET, ledger_head_of(SECRET, head))
        if old:
            with pytest.raises(LedgerCorrupt, match="old copy"):
                Ledger.open(self.backup, expect_head=head)
        newest = self.folder / "newest"
        self.ledger.copy_to(newest)
        self.ledger.close()
        newest.replace(self.path)
        self.ledger = Ledger.open(self.path, expect_head=head)

    # --- what holds at every moment -----------------------------------------------------------------

    @invariant()
    def what_left_is_never_above_the_cap_and_neither_is_what_may_still(self) -> None:
        wanted = +self.wanted(*self.live)
        if self.accountant.charges or wanted:
            assert self.accountant.finds(wanted) <= CAP

    @invariant()
    def the_file_says_the_same(self) -> None:
        """Read past the package; and the budget's readings are the accountant's."""
        bodies = [content["body"] for _, content in read_chain(self.path) if content["kind"] == "charge"]
        assert Counter(fields(body["event"]) for body in bodies) == self.accountant.charges
        budget = Budget.of(self.ledger, self.data)
        assert {study.digest for study in budget.studies if study.freed is None} == self.live
        assert all(study.attempts - study.charged == self.left[study.digest] for study in budget.studies)
        wanted = +self.wanted(*self.live)
        for figure, also in ((budget.spent, Counter()), (budget.committed, wanted)):
            if self.accountant.charges or also:
                assert 0 <= figure - float(self.accountant.finds(also)) < 1e-9

    def teardown(self) -> None:
        """No approved study starves: all charge all they may, the last approved first, and the cap holds."""
        for digest in sorted(self.live, reverse=True):
            while self.left[digest]:
                self.charge(digest)
        self.what_left_is_never_above_the_cap_and_neither_is_what_may_still()
        self.the_file_says_the_same()
        self.ledger.close()
        shutil.rmtree(self.folder)


def interleaved(examples: int, steps: int) -> settings:
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=quiet)


class LongInterleavings(Interleavings):
    """The same, more often."""


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = interleaved(12, 25)
TestLongInterleavings = pytest.mark.timeout(3600)(pytest.mark.slow(LongInterleavings.TestCase))  # 3 minutes alone
TestLongInterleavings.settings = interleaved(300, 40)
