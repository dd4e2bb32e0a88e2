"""The SuperNode as a child: a coordinator that does not take it is asked again for a while, and then it is said why."""

import re

from undertone_client.supervise.child import Child

PAUSE_SECONDS, PATIENCE_SECONDS = 10.0, 90.0
_CONNECTED = "SuperNode ID:"
_EXIT_CODE = re.compile(r"Exit Code: (\d+)")
# Flower ends with it where the SuperLink still counts an earlier process of this key as connected (for up to a minute
# after a crash), and where it does not know the key.
NOT_TAKEN = 305


class SuperNodeChild(Child):
    """A SuperNode's process.

    Attributes:
        given_up: why it is not started again; empty while it is.
    """

    given_up = ""
    _connected = False
    _flower_code: int | None = None
    _refused_since: float | None = None

    def start(self, now: float) -> None:
        """Start its process, connected to nobody."""
        self._connected, self._flower_code = False, None
        super().start(now)

    def tend(self, now: float) -> None:
        """Notice and start again, until it is given up."""
        if not self.given_up or self.running:
            super().tend(now)

    def heard(self, line: str) -> None:
        """Whether it is connected, or why not, from what Flower prints."""
        if _CONNECTED in line:
            self._connected, self._refused_since = True, None
        found = _EXIT_CODE.search(line)
        if found:
            self._flower_code = int(found[1])

    def ended(self, now: float, _code: int) -> float:
        """Ten seconds, whatever happened; what has gone on for 90 is given up."""
        if not self._connected:
            self._refused_since = self._started if self._refused_since is None else self._refused_since
            if now - self._refused_since >= PATIENCE_SECONDS:
                self.given_up = self._why()
        return PAUSE_SECONDS

    def _why(self) -> str:
        if self._flower_code != NOT_TAKEN:
            return f"the SuperNode of {self.name} has not come up for {PATIENCE_SECONDS:.0f} s; its lines above say why"
        return (
            f"the coordinator's server has not taken the SuperNode of {self.name} for {PATIENCE_SECONDS:.0f} s "
            f"(Flower's code {NOT_TAKEN}). Either another SuperNode with this site's key is connected: find it and "
            "stop it; or the key is not registered there, or was revoked: ask the coordinator"
        )
