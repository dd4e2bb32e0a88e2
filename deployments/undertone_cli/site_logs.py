"""Why a site failed, from its own node.log: in a simulation all sites are ours, elsewhere their logs stay with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from undertone.core.progress import reporter
from undertone.core.text import REASON, shown
from undertone.errors import TooFewSites

_TAIL = 1 << 16  # bytes; one line has at most some thousand characters


@contextmanager
def quoting_sites(folder: Path) -> Iterator[None]:
    """Within, where too few sites answered, each that failed is quoted: the reason that it wrote down last.

    Args:
        folder: RUN/sites.

    Raises:
        TooFewSites: as it came.
    """
    logs = {site.name: site / "node.log" for site in sorted(folder.iterdir())}
    before = {site: _size(log) for site, log in logs.items()}
    try:
        yield
    except TooFewSites:
        for site, log in logs.items():
            reason = _reason(log, before[site])
            if reason:
                reporter().line(f"{site} says: {reason}")
        raise


def _size(log: Path) -> int:
    return log.stat().st_size if log.is_file() else 0


def _reason(log: Path, before: int) -> str:
    """The last failure written since, else the last refusal; one bounded line that moves no cursor, or nothing."""
    size = _size(log)
    start = max(before if size >= before else 0, size - _TAIL)  # shorter than before: a new log took its place
    if start >= size:
        return ""
    with log.open("rb") as stream:
        stream.seek(start)
        written = stream.read(_TAIL).decode("utf-8", errors="replace").splitlines()
    lines = [line.partition(" ")[2] for line in written]
    failed = [line for line in lines if " failed: " in line] or [line for line in lines if line.startswith("refused: ")]
    return shown(failed[-1], REASON) if failed else ""
