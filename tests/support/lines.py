"""A reporter that keeps what it is told."""

from undertone.core.progress import Silent


class Lines(Silent):
    """Keeps the lines, draws nothing."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
