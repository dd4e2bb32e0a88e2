"""What is looked at: a COORDINATOR_DIR, its servers, the time; and what several checks need, asked once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from undertone.core.clock import Clock, utc_now
from undertone.errors import FolderError
from undertone.preflight.fleet import Seen, look
from undertone_server.home.folder import Home

SOCKETS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


@dataclass(frozen=True)
class Inspection:
    """One coordinator, looked at once.

    Attributes:
        home: the COORDINATOR_DIR.
        now: the machine's time, UTC.
        environment: of this process, as the coordinator's programs have it.
        clock: the machine's, while its servers answer.
        sockets: where the system lists its TCP sockets.
    """

    home: Home
    now: datetime
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    clock: Clock = utc_now
    sockets: tuple[Path, ...] = SOCKETS

    @cached_property
    def seen(self) -> Seen:
        """What the server that sites see answers, asked on this machine.

        Raises:
            FolderError: the CA certificate cannot be read.
        """
        try:
            return look(self.home.settings.address, self.home.ca, self.clock, on_this_machine=True)
        except (OSError, ValueError):
            raise FolderError(f"{self.home.ca} cannot be read; restore it, or make certificates anew") from None
