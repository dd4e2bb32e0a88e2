"""A study that starts from the release of another: what a plan holds of its ancestor, or of its successor (PRIVACY 25).

Whatever is computed from a release is post-processing of it, so a start costs nothing. What both studies cost together
is another matter: one claim by composition covers both only if the noise of both was fixed before the first charge of
the first. So the ancestor's plan may hold the events of a successor, and the successor's plan holds its ancestor's plan
whole, signed: every reader of the one plan composes all events that its claim covers, and nobody has to be believed.
"""

from typing import Annotated

from pydantic import Field

from undertone.core import bounds
from undertone.core.config import Section
from undertone.core.unit import SiteName
from undertone.errors import MechanismViolation
from undertone.privacy.accounting import Event, read_event

# Images that are drawn from a start, and steps that are trained on them, where a study does not say.
START_IMAGES, START_STEPS = 500, 500
MOST_IMAGES, MOST_STEPS = 100_000, 1_000_000
# Public: of the first image that is drawn, and of the training on them.
START_SEED = 20261130
# As many stages as a plan may have.
_MOST_EVENTS = 4
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PlannedStart(Section):
    """The release that a study starts from, pinned.

    Attributes:
        manifest: SHA-256 of its MANIFEST.json, which lists the SHA-256 of every file.
        coordinator: the public key that signed it.
        plan: the ancestor's plan.json; what it cost follows from it.
        signature: the coordinator's over its digest.
        images: how many are drawn from it, classes in equal numbers.
        steps: how many are trained on them before the first round.
    """

    manifest: _Digest
    coordinator: _Digest
    plan: str = Field(min_length=2, max_length=bounds.PLAN_BYTES)
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")
    images: int = Field(ge=1, le=MOST_IMAGES)
    steps: int = Field(ge=1, le=MOST_STEPS)


class PlannedSuccessor(Section):
    """What a study that may follow will charge, fixed before this one charges anything.

    Attributes:
        study: its name.
        events: of each of its stages all that it may charge, as `Event.as_dict` spells it.
    """

    study: SiteName
    events: list[dict[Annotated[str, Field(max_length=bounds.NAME)], int | float]] = Field(
        min_length=1, max_length=_MOST_EVENTS
    )

    def model_post_init(self, _context: object, /) -> None:
        """Each event is a mechanism of ours, within the bounds of every reader.

        Raises:
            ValueError: one is not.
        """
        try:
            spelled = [event.as_dict() for event in self.charges]
        except MechanismViolation as error:
            raise ValueError(str(error)) from None
        if spelled != self.events:
            raise ValueError("an event is not spelled as it is charged")

    @property
    def charges(self) -> tuple[Event, ...]:
        """The events."""
        return tuple(read_event(dict(event)) for event in self.events)

    @classmethod
    def of(cls, study: str, charges: tuple[Event, ...]) -> "PlannedSuccessor":
        """What a study of this name will charge."""
        return cls.model_validate({"study": study, "events": [event.as_dict() for event in charges]})
