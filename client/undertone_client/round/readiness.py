"""When an attempt's rows are made, and who asks whether they are there (PRIVACY 26)."""

from collections.abc import Callable
from typing import Protocol

from undertone.study.plan import Plan
from undertone_client.site.attempt_store import AttemptKey


class Preparations(Protocol):
    """Where the long part of `prepare` is done: before its answer, or behind it."""

    def check_plan(self, plan: Plan) -> None:
        """Refuse a plan whose coins would show in how long the work takes here.

        Raises:
            TimingRevealed: they would.
        """

    def begin(
        self,
        attempt: AttemptKey,
        state_sha256: str,
        ready_after: float,
        work: Callable[[], None],
        check: Callable[[], object],
        *,
        spare: bool,
    ) -> None:
        """Do the work of an attempt, or see to it that it will be done.

        Args:
            attempt: which; one of a study at a time.
            state_sha256: of the public state that its rows are made at.
            ready_after: seconds from when the work begins until it may be called ready, in public; 0 for as soon as
                it is done.
            work: coins and rows, into the attempt store. What it did before it was interrupted it does not do again.
            check: raises where the plan is not approved any more, or the attempt was answered; for work that has
                waited.
            spare: a rehearsal's, which comes after all others and gives way to them.

        Raises:
            NotPrepared, PlanChanged: it cannot be begun now; and where the work is done at once, what it raises.
        """

    def is_ready(self, attempt: AttemptKey) -> bool:
        """Whether the work is done, as far as that is public yet; until then nothing of it may leave.

        Raises:
            NotPrepared: it is not known here, or was not done in its time.
            Refused: it cannot be done; as the work says.
        """


class AtOnce:
    """The work is done before `prepare` is answered: for simulations, where a node lives for one request."""

    def check_plan(self, plan: Plan) -> None:
        """Whatever shows, it shows to whoever holds all the sites."""

    def begin(
        self,
        attempt: AttemptKey,
        state_sha256: str,
        ready_after: float,
        work: Callable[[], None],
        check: Callable[[], object],
        *,
        spare: bool,
    ) -> None:
        """Do it; the request has just been checked."""
        del attempt, state_sha256, ready_after, check, spare
        work()

    def is_ready(self, attempt: AttemptKey) -> bool:
        """Yes: where it was not done, the rows are missing, and the site's vector is refused for that."""
        del attempt
        return True
