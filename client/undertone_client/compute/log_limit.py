"""Many lines of one kind in node.log: the first ones as they are, the others as a number."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MOST = 20


@contextmanager
def limited(log: Callable[[str], None], most: int = _MOST) -> Iterator[Callable[[str], None]]:
    """Within, a `log` that writes `most` lines; how many more there were is one line at the end.

    A folder that disappeared would otherwise write a line for each record in each round. `undertone
    node check` names them all.
    """
    count = 0

    def counted(text: str) -> None:
        nonlocal count
        count += 1
        if count <= most:
            log(text)

    try:
        yield counted
    finally:
        if count > most:
            log(f"and {count - most} more like it; `undertone node check` names them all")
