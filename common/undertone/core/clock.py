"""The time, where something depends on it: given as a function, so that a test can say what it is."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""The time, with its zone."""


def utc_now() -> datetime:
    """The system's time, UTC."""
    return datetime.now(UTC)
