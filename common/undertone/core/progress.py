"""Progress of long work. The composition root chooses the reporter; the default is silent.

What is reported stays on the machine that reports it: a node's bar is drawn at the node.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol


class Reporter(Protocol):
    """Shows progress bars and lines, or nothing."""

    def task(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begin work of `total` steps; the context's value is called with the number of steps just done."""

    def line(self, text: str) -> None:
        """One line for the person who watches."""


class Silent:
    """Reports nothing."""

    @contextmanager
    def task(self, _label: str, _total: int) -> Iterator[Callable[[int], None]]:
        """A task that is not shown."""
        yield lambda _steps: None

    def line(self, _text: str) -> None:
        """Nothing."""


# One for each thread: what a node computes behind its answers must not be drawn by whoever else reports.
_current: ContextVar[Reporter] = ContextVar("reporter", default=Silent())  # noqa: B039 - it holds nothing


def reporter() -> Reporter:
    """The current reporter of this thread."""
    return _current.get()


@contextmanager
def reporting(chosen: Reporter) -> Iterator[None]:
    """Make `chosen` the current reporter of this thread within the context."""
    before = _current.set(chosen)
    try:
        yield
    finally:
        _current.reset(before)
