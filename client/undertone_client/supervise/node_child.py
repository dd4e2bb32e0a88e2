"""The node as a child: when it answers, as it says itself.

It is not asked over gRPC: a process that holds a gRPC channel must not fork, and the supervisor forks for each child.
"""

from undertone_client.supervise.child import Child

ANSWERS = " answers at "


class NodeChild(Child):
    """A node's process.

    Attributes:
        answers: whether it has said that it answers at its socket since it was started.
    """

    answers = False

    def start(self, now: float) -> None:
        """Start its process, which does not answer yet."""
        self.answers = False
        super().start(now)

    def heard(self, line: str) -> None:
        """Whether it answers."""
        self.answers = self.answers or ANSWERS in line
