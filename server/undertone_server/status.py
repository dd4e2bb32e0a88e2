"""RUN/status.json: where a study stands, for `undertone coordinator status`; what sites said in it is bounded.

The process that runs the study writes it, and nothing is decided from it. A simulation has none: whoever runs one
watches it.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from undertone.core import bounds
from undertone.core.canonical import canonical_json
from undertone.core.clock import utc_now
from undertone.core.config import Section
from undertone.core.durable import write_durable
from undertone.core.text import REASON, shown
from undertone.core.unit import SiteName
from undertone.errors import FolderError
from undertone.release.statement import SIMULATION
from undertone_server.run_folder import RunFolder

State = Literal["waiting", "running", "stopped", "released", "rehearsed"]
NOT_APPROVED = "NotApproved:"
_LONGEST = 2000
_LARGEST_BYTES = 4 << 20
_Line = Annotated[str, Field(max_length=_LONGEST + 3)]


class Status(Section):
    """What the running process last said.

    Attributes:
        state: "waiting" for sites; "stopped" by an error, which `because` has.
        time: UTC.
        round: that it is at; 0 before the first.
        attempt: at that round.
        missing: site -> why it is not in.
        because: one line: what it waits for, or why it stopped.
    """

    state: State
    time: str = Field(max_length=bounds.NAME)
    round: int = Field(ge=0, le=bounds.ATTEMPTS)
    attempt: int = Field(ge=0, le=bounds.ATTEMPTS)
    missing: dict[SiteName, _Line] = Field(max_length=bounds.SITES)
    because: _Line

    @property
    def not_approved(self) -> list[str]:
        """The sites that have not approved the plan, or withdrew."""
        return sorted(site for site, reason in self.missing.items() if reason.startswith(NOT_APPROVED))


def tell(
    run: RunFolder,
    state: State,
    missing: Mapping[str, str],
    *,
    round_: int = 0,
    attempt: int = 0,
    because: str = "",
) -> None:
    """Say where the study of RUN stands."""
    if run.facts()["setting"] == SIMULATION:
        return
    status = Status(
        state=state,
        time=f"{utc_now():%Y-%m-%dT%H:%M:%SZ}",
        round=round_,
        attempt=attempt,
        missing={site: shown(reason, REASON) for site, reason in missing.items()},
        because=shown(because, _LONGEST),
    )
    write_durable(run.folder / "status.json", canonical_json(status.model_dump(mode="json")))


def read_status(run: RunFolder) -> Status | None:
    """What was said last; None before anything was.

    Raises:
        FolderError: it is damaged.
    """
    path = run.folder / "status.json"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            return Status.model_validate(json.loads(stream.read(_LARGEST_BYTES)))
    except (OSError, ValidationError, ValueError, RecursionError):
        raise FolderError(f"{path} is damaged; remove it: the study writes it anew, and needs nothing in it") from None
