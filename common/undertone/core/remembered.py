"""The newest of what was found, where it is asked for again and again: from round to round hardly anything changes."""

from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """At most so many values by key, the oldest forgotten first; for any thread of this process."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self._found: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value, or None."""
        return self._found.get(key)

    def put(self, key: K, value: V) -> V:
        """Remember a value, and return it."""
        with self._lock:
            self._found.pop(key, None)
            while len(self._found) >= self._most:
                del self._found[next(iter(self._found))]
            self._found[key] = value
        return value
