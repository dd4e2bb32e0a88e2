"""How long the coordinator waits for an answer, by kind of message; on Flower a message lives as long and no longer."""

from dataclasses import dataclass
from math import inf

from undertone.release.statement import SIMULATION
from undertone.wire.messages import Kind

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Deadlines:
    """All in seconds, but for `line`.

    Attributes:
        hello: for all nodes to say who they are; it is over as soon as all sites that are looked for have.
        again: the same, where each node that is asked did not answer the last time.
        step: for a message that is answered at once; Flower's own part of it is a few seconds.
        line: bytes a second of the slowest line that is waited for: a state or a vector adds its length over this.
        preparation: until all sites are ready, from `prepare` on.
        absent: for a site of the study's list that is away, where the survivor lists form a chain.
        start: the same before the first list. Then a site is left out for good.
        approvals: before the first round, for the sites that have not approved the plan yet.
        pause: between two tries of the last four.
    """

    hello: float
    again: float
    step: float
    line: float
    preparation: float
    absent: float
    start: float
    approvals: float
    pause: float

    @classmethod
    def equal(cls, seconds: float) -> "Deadlines":
        """The same for everything, without a pause."""
        return cls(seconds, seconds, seconds, inf, seconds, seconds, seconds, seconds, 0.0)

    def of(self, kind: Kind, length: int = 0) -> float:
        """Seconds for one message and its answer, whose vectors have `length` bytes together."""
        return self.hello if kind == "hello" else self.step + length / self.line


DEPLOYED = Deadlines(
    hello=60.0,
    again=10.0,
    step=300.0,
    line=50_000.0,
    preparation=DAY,
    absent=DAY,
    start=900.0,
    approvals=14 * DAY,
    pause=60.0,
)
# There `prepare` and the site's input are answered when all the work is done, and no node is a stranger's.
SIMULATED = Deadlines.equal(DAY)


def deadlines_for(setting: object) -> Deadlines:
    """Those of a RUN's setting."""
    return SIMULATED if setting == SIMULATION else DEPLOYED
