"""How long the coordinator waits until a site's rows are there."""

from dataclasses import dataclass

PREPARATION_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Waiting:
    """How often sites are asked whether they are ready.

    Attributes:
        seconds: from `prepare` on, until a site that is not ready is left out of the attempt.
        pause: between the first two questions, in seconds.
        longest_pause: to which that grows.
    """

    seconds: float = PREPARATION_SECONDS
    pause: float = 2.0
    longest_pause: float = 30.0


USUAL = Waiting()
