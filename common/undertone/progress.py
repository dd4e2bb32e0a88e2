"""Where long work says how far it is. The composition root chooses the reporter; the default is silent.

What is reported stays on the machine that reports it: a node's bar is drawn at the node.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Reporter(Protocol):
    """Draws bars and lines, or does not."""

    def task(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A piece of work of `total` steps; the value within is called with the steps just done."""

    def line(self, text: str) -> None:
        """One line for the person who watches."""


class Silent:
    """Reports nothing."""

    @contextmanager
    def task(self, _label: str, _total: int) -> Iterator[Callable[[int], None]]:
        """A task nobody watches."""
        yield lambda _steps: None

    def line(self, _text: str) -> None:
        """Nothing."""


_current: list[Reporter] = [Silent()]


def reporter() -> Reporter:
    """The reporter in force."""
    return _current[-1]


@contextmanager
def reporting(chosen: Reporter) -> Iterator[None]:
    """Within, `chosen` is the reporter."""
    _current.append(chosen)
    try:
        yield
    finally:
        _current.remove(chosen)
