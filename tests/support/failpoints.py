"""Deaths at a chosen moment: at a failpoint, before or after a call. The one place that installs handlers.

In a test: `with at(name): ...` raises `Killed`. In a real process: `obey_environment()` kills it with SIGKILL at
the hit that UNDERTONE_TEST_FAILPOINT names, "name:count"; `python -c "from tests.support.failpoints import
obey_environment; obey_environment(); ..."` is how a process comes to obey.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from undertone.core import failpoints
from undertone.core.failpoints import NAMES, Failpoint

VARIABLE = "UNDERTONE_TEST_FAILPOINT"


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it."""


class Trace:
    """Counts the hits of each failpoint, and acts at one of them."""

    def __init__(self, name: str = "", count: int = 1, act: Callable[[], None] = lambda: None) -> None:
        if name and name not in NAMES:
            raise ValueError(f"{name!r} is no failpoint")
        self.hits: Counter[str] = Counter()
        self._where, self._act = (name, count), act

    def __call__(self, name: Failpoint) -> None:
        self.hits[name] += 1
        if (name, self.hits[name]) == self._where:
            self._act()


@contextmanager
def at(name: str = "", count: int = 1) -> Iterator[Trace]:
    """Within, the `count`-th hit of `name` raises `Killed`; without a name, hits are only counted."""

    def die() -> None:
        raise Killed(name)

    trace = Trace(name, count, die)
    failpoints._handlers.append(trace)
    try:
        yield trace
    finally:
        failpoints._handlers.remove(trace)


@contextmanager
def meanwhile(name: str, act: Callable[[], None], count: int = 1) -> Iterator[Trace]:
    """Within, the `count`-th hit of `name` does `act`, as another process would at this moment."""
    trace = Trace(name, count, act)
    failpoints._handlers.append(trace)
    try:
        yield trace
    finally:
        failpoints._handlers.remove(trace)


def kill_this_process() -> None:
    """SIGKILL, as the machine's own killer would send it: no handler, no clean-up, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def obey_environment() -> None:
    """From here on this process dies where UNDERTONE_TEST_FAILPOINT says, if it says anything."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        name, _, count = wanted.rpartition(":")
        failpoints._handlers.append(Trace(name, int(count), kill_this_process))


def kill_before(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Die when `owner.name` is called."""

    def dying(*_: Any, **__: Any) -> Any:
        raise Killed

    patch.setattr(owner, name, dying)


def kill_after(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Die right after `owner.name` has done its work."""
    original = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise Killed

    patch.setattr(owner, name, dying)
