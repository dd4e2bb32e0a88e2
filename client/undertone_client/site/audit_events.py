"""What a site's audit log can say: a closed list of events, each with its own typed facts.

A fact is a digest, a key, a name that a person chose for a data set or gave as his own, a verdict or a public figure.
No type here holds a record's name, a path, a unit's id or a count, so none can be written by mistake (PRIVACY 17).
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import AfterValidator, Field, ValidationError

from undertone import errors
from undertone.core import bounds
from undertone.core.canonical import Json
from undertone.core.config import Section
from undertone.core.unit import SiteName, Unit
from undertone.errors import MechanismViolation, Refused

_PERSON = 100


def _refusal(name: str) -> str:
    """A class of `undertone/errors.py` that stands for a refusal: a verdict, without the words that came with it."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Refused)):
        raise ValueError("not the name of a refusal in undertone/errors.py")
    return name


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Letters and what stands between them in names and e-mail addresses: no slash, no control character, no line's end.
Person = Annotated[str, Field(pattern=rf"^\p{{L}}[\p{{L}}\p{{M}}\p{{Nd}} .,'’@()+_-]{{0,{_PERSON - 1}}}$")]
Verdict = Annotated[str, AfterValidator(_refusal)]
# A day, or a second of it, UTC.
Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$")]
Published = Annotated[int, Field(ge=1, le=bounds.UNITS)]
Attempt = Annotated[int, Field(ge=1, le=bounds.ATTEMPTS)]
Epsilon = Annotated[float, Field(ge=0, le=bounds.EPSILON)]
Delta = Annotated[float, Field(gt=0, lt=bounds.DELTA)]


class LogOpened(Section):
    """The first line of each file; `cut` is the SHA-256 of a cut-off line at the end of the file before."""

    site: SiteName
    log: Attempt
    cut: Sha256 | None = None


class SiteMade(Section):
    """`undertone node init`."""

    key: Key


class FederationJoined(Section):
    """A person pinned a coordinator's federation manifest, the first or a newer one."""

    coordinator: Key
    digest: Sha256
    serial: Attempt


class DataSetAdded(Section):
    """A data set with what is fixed for life, its public figure and its cap."""

    data_set: SiteName
    unit: Unit
    published: Published
    epsilon: Epsilon
    delta: Delta


class DataSetUpdated(Section):
    """New records joined; how many is not said."""

    data_set: SiteName


class PlanPending(Section):
    """A plan waits for a person."""

    digest: Sha256
    coordinator: Key


class PlanApproved(Section):
    """A person approved a plan; `approver` is the key that signed, where the policy names keys."""

    digest: Sha256
    coordinator: Key
    data_set: SiteName
    operator: Person
    epsilon: Epsilon
    delta: Delta
    max_attempts: Attempt
    expires: Time | None = None
    approver: Key | None = None


class PlanRefused(Section):
    """The site refused a plan; `verdict` is the error's name."""

    digest: Sha256
    coordinator: Key
    verdict: Verdict


class PlanWithdrawn(Section):
    """A person took an approval back."""

    digest: Sha256
    operator: Person | None = None


class PlanExpired(Section):
    """An approval came to its end."""

    digest: Sha256


class UnitWithdrawn(Section):
    """A unit of this data set will never be read again; which one is not said."""

    data_set: SiteName
    operator: Person | None = None


class StudyForgotten(Section):
    """What the site kept for a study is deleted; its ledger entries stay."""

    digest: Sha256
    operator: Person | None = None


class AttemptCharged(Section):
    """The site is about to answer an attempt, and has charged it."""

    digest: Sha256
    data_set: SiteName
    round: Attempt
    attempt: Attempt


Event = Literal[
    "log opened",
    "site made",
    "federation joined",
    "data set added",
    "data set updated",
    "plan pending",
    "plan approved",
    "plan refused",
    "plan withdrawn",
    "plan expired",
    "unit withdrawn",
    "study forgotten",
    "attempt charged",
]


class Kind(NamedTuple):
    """An event's facts, and whether it happens while the node answers a coordinator."""

    facts: type[Section]
    in_answers: bool = False


KINDS: Mapping[Event, Kind] = {
    "log opened": Kind(LogOpened),
    "site made": Kind(SiteMade),
    "federation joined": Kind(FederationJoined),
    "data set added": Kind(DataSetAdded),
    "data set updated": Kind(DataSetUpdated),
    "plan pending": Kind(PlanPending, in_answers=True),
    "plan approved": Kind(PlanApproved),
    "plan refused": Kind(PlanRefused, in_answers=True),
    "plan withdrawn": Kind(PlanWithdrawn),
    "plan expired": Kind(PlanExpired, in_answers=True),
    "unit withdrawn": Kind(UnitWithdrawn),
    "study forgotten": Kind(StudyForgotten),
    "attempt charged": Kind(AttemptCharged, in_answers=True),
}
EVENTS: tuple[Event, ...] = get_args(Event)


def checked(event: Event, facts: Mapping[str, object]) -> dict[str, Json]:
    """The facts as they are written, without those that are None.

    Raises:
        MechanismViolation: no such event, a fact that it does not have, or a value of another type. The message names
            the fact and never the value, which may be what must not be written.
    """
    if event not in KINDS:
        raise MechanismViolation("the audit log has no such event; add it to audit_events.py with its facts")
    try:
        found = KINDS[event].facts.model_validate(dict(facts))
    except ValidationError as error:
        known = set(KINDS[event].facts.model_fields)
        where = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        named = ", ".join(sorted(where & known)) or "a fact that it does not have"
        raise MechanismViolation(f'"{event}" of the audit log does not take what was given: {named}') from None
    written: dict[str, Json] = found.model_dump(mode="json", exclude_none=True)
    return written
