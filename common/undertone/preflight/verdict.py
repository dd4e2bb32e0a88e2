"""A verdict: what one check of a site or a coordinator found, in words that anybody may read (PRIVACY 17).

Name, status, sentence and remedy hold no record's name or path, no unit's id and no count of records or units. What
only the operator may see stands in the details, which are shown where they are asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["PASS", "WARN", "FAIL"]
_ORDER: tuple[Status, ...] = ("PASS", "WARN", "FAIL")


@dataclass(frozen=True)
class Verdict:
    """PASS: nothing to do. WARN: a study can go on, and somebody should look. FAIL: it cannot."""

    name: str
    status: Status
    sentence: str
    remedy: str = ""
    details: tuple[str, ...] = ()


def passed(name: str, sentence: str, details: Sequence[str] = ()) -> Verdict:
    """Nothing to do."""
    return Verdict(name, "PASS", sentence, "", tuple(details))


def warned(name: str, sentence: str, remedy: str, details: Sequence[str] = ()) -> Verdict:
    """Somebody should look."""
    return Verdict(name, "WARN", sentence, remedy, tuple(details))


def failed(name: str, sentence: str, remedy: str, details: Sequence[str] = ()) -> Verdict:
    """A study cannot go on."""
    return Verdict(name, "FAIL", sentence, remedy, tuple(details))


def first_fault(verdicts: Sequence[Verdict]) -> Verdict:
    """Of one check's verdicts on several things, at least one: the first FAIL, else the first WARN, else the last."""
    found = max(verdicts, key=lambda one: _ORDER.index(one.status))
    return verdicts[-1] if found.status == "PASS" else found


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of some; PASS of none."""
    return max(statuses, key=_ORDER.index, default="PASS")
