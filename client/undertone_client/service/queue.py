"""The preparations of a node that stays: one after the other on the site's devices, behind the answers (PRIVACY 26).

What is in memory here is who waits and who is done. Coins and rows are durable in the attempt store, so a node that was
killed loses nothing but that; whoever asks then is told to have the same attempt prepared again.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from undertone.core.progress import reporting
from undertone.errors import NotPrepared, PlanChanged
from undertone.study.plan import Plan
from undertone.study.timing import check_timing
from undertone_client.site.attempt_store import AttemptKey

_UNKNOWN = "this node does not know that attempt, as after a restart; have the same attempt prepared again"
_TOO_LATE = "the rows were not ready at the public time of this attempt; the site takes part in the next one"

_SPARED = (
    "a rehearsal has the site's devices while no study waits for them, and for an hour at the most; that is over. "
    "Rehearse again later, or with less work for a unit"
)
_SPARE_SECONDS = 3600.0
_LOOK_SECONDS = 0.05  # between two looks at the clock, where one waits for a public time


@dataclass
class _Job:
    """One attempt's preparation. `due` is its public time on the monotonic clock, `ready_after` after it began.

    One that is `spare` takes what time the others leave, and a limited one.
    """

    attempt: AttemptKey
    state_sha256: str
    ready_after: float  # 0.0 where it has no public time
    work: Callable[[], None] | None = field(repr=False)  # None once it has ended: it holds a model state
    spare: bool = False
    began: float = 0.0
    due: float = 0.0  # until it begins
    done_at: float | None = None
    failed: Exception | None = None

    @property
    def open(self) -> bool:
        return self.done_at is None and self.failed is None

    def too_late(self, now: float) -> bool:
        """Whether its public time came before it was done. What went wrong, and when, is not said before that."""
        return self.time_came(now) and (self.done_at is None or self.done_at >= self.due)

    def time_came(self, now: float) -> bool:
        """Whether its public time has come."""
        return bool(self.due) and now >= self.due


class _Ended(BaseException):
    """Ends a preparation between two of its blocks: what it has made is durable."""


@dataclass(frozen=True)
class _Watched:
    """A reporter that shows nothing, and looks after each block whether the node is to end."""

    check: Callable[[], None]

    @contextmanager
    def task(self, _label: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield lambda _steps: self.check()

    def line(self, _text: str) -> None:
        """Nothing."""


class PreparationQueue:
    """`Preparations` in one thread of their own: an attempt uses all the site's devices, so one is prepared at a time.

    A study has one job: that of the attempt that was asked for last. One that waits is replaced; one that runs is
    brought to its end first, or to its public time. Behind one with a public time none begins before that time,
    whatever is done: nobody can see from a job behind it when it ended. A rehearsal is spare: nobody here approved its
    options, which may ask for any amount of work.
    """

    def __init__(self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to work.

        Args:
            log: of the site; it is told what went wrong.
            clock: seconds that only rise.
        """
        self._log, self._clock = log, clock
        self._jobs: dict[str, _Job] = {}
        self._waiting: list[_Job] = []
        self._changed = threading.Condition()
        self._ended, self._free_at = False, -math.inf
        self._thread = threading.Thread(target=self._run, name="preparing", daemon=True)
        self._thread.start()

    def check_plan(self, plan: Plan) -> None:
        """Between institutions a coordinator can hold a clock against the answers."""
        check_timing(plan)

    def begin(
        self,
        attempt: AttemptKey,
        state_sha256: str,
        ready_after: float,
        work: Callable[[], None],
        check: Callable[[], object] = lambda: None,
        *,
        spare: bool = False,
    ) -> None:
        """Put an attempt at the end of the queue, unless it is there or running already.

        Raises:
            PlanChanged: it is, for another public state.
            NotPrepared: its public time is over and it was not done: asking again must not tell how long it took.
        """

        def checked() -> None:
            check()  # it may have waited for hours
            work()

        now = self._clock()
        with self._changed:
            before = self._jobs.get(attempt[0])
            if before is not None and before.attempt == attempt:
                if before.too_late(now):
                    raise NotPrepared(_TOO_LATE)
                kept = before.open or bool(before.ready_after)  # before its public time nothing tells which of the two
                if kept and before.state_sha256 != state_sha256:
                    raise PlanChanged(
                        f"round {attempt[1]}, attempt {attempt[2]} is being prepared for another model state"
                    )
                if kept:
                    return
            job = _Job(attempt, state_sha256, ready_after, checked, spare)
            self._jobs[attempt[0]] = job
            self._waiting = [other for other in self._waiting if other.attempt[0] != attempt[0]] + [job]
            self._changed.notify_all()

    def is_ready(self, attempt: AttemptKey) -> bool:
        """Yes or no; with a public time, no before it and yes from then on, or a refusal for ever.

        The public time counts from when the work begins: an attempt that waits is not late.

        Raises:
            NotPrepared: not known here, or not done at its public time.
            Refused: it cannot be done; as the work says.
        """
        now = self._clock()
        with self._changed:
            job = self._jobs.get(attempt[0])
            if job is None or job.attempt != attempt:
                raise NotPrepared(_UNKNOWN)
            if job.ready_after:
                if job.too_late(now):
                    raise NotPrepared(_TOO_LATE)
                return job.time_came(now)
            if job.failed is not None:
                raise job.failed.with_traceback(None)
            return job.done_at is not None

    def end(self, seconds: float) -> bool:
        """Take no further job; whether the one that runs ended in time. What it has made is durable."""
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            job = self._next()
            if job is None:
                return
            try:
                with reporting(_Watched(partial(self._check_going_on, job))):
                    failed = self._tried(job.work)
            except _Ended:
                return
            with self._changed:
                job.failed, job.work = failed, None
                job.done_at = None if failed else self._clock()

    def _next(self) -> _Job | None:
        """The first one that waits, once the public time of the one before it has come; none at the end.

        One that is spare comes after all others.
        """
        with self._changed:
            while not self._ended:
                rest = self._free_at - self._clock()
                if self._waiting and rest <= 0:
                    job = min(self._waiting, key=lambda waiting: waiting.spare)  # of each kind the first
                    self._waiting.remove(job)
                    job.began = self._clock()
                    if job.ready_after:
                        job.due = self._free_at = self._clock() + job.ready_after
                    return job
                self._changed.wait(min(rest, _LOOK_SECONDS) if self._waiting else None)
        return None

    def _tried(self, work: Callable[[], None] | None) -> Exception | None:
        try:
            if work is not None:
                work()
        except Exception as error:  # noqa: BLE001 - the node decides what of it a coordinator is told
            self._log(f"prepare failed: {type(error).__name__}: {error}")
            return error
        return None

    def _check_going_on(self, job: _Job) -> None:
        if self._ended:
            raise _Ended
        if job.spare and self._is_over(job):
            raise NotPrepared(_SPARED)
        if job.time_came(self._clock()):  # going on would show, to whoever waits behind it, how much was left
            raise NotPrepared(_TOO_LATE)

    def _is_over(self, job: _Job) -> bool:
        with self._changed:
            wanted = any(not waiting.spare for waiting in self._waiting)
        return wanted or self._clock() - job.began > _SPARE_SECONDS
