"""The time, where something depends on it: given as a function, so that a test can say what it is."""

from collections.abc import Callable
from datetime import UTC, datetime

Moment = datetime
"""A time with its zone."""
_WRITTEN = "%Y-%m-%dT%H:%M:%SZ"

Clock = Callable[[], datetime]
"""The time, with its zone."""


def utc_now() -> datetime:
    """The system's time, UTC."""
    return datetime.now(UTC)


def time_text(when: Moment) -> str:
    """A time as manifests write it: UTC, whole seconds, such as 2027-01-31T12:00:00Z."""
    utc = when.astimezone(UTC)
    return f"{utc.year:04d}-{utc:%m-%dT%H:%M:%SZ}"


def moment(text: object) -> Moment:
    """What `time_text` wrote.

    Raises:
        ValueError: it is something else, or written in another way.
    """
    found = datetime.strptime(str(text), _WRITTEN).replace(tzinfo=UTC)
    if time_text(found) != text:
        raise ValueError(f"a time is written as {time_text(found)}")
    return found
