"""How much main memory is left, for machines that kill a process rather than refuse it memory (Linux does)."""

import os
import resource
import sys
from pathlib import Path

_STATUS, _MEMINFO = Path("/proc/self/statm"), Path("/proc/meminfo")
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


class Meter:
    """Bounds from above what the work since its start held at its peak, in bytes."""

    def __init__(self) -> None:
        self._before = _resident()

    def grown(self) -> int:
        """The process's peak so far less what it held at the start."""
        unit = 1 if sys.platform == "darwin" else 1024
        return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - self._before, 0)


def available() -> int:
    """Bytes that can be had without swapping: of the machine, and of the container around this process."""
    page = os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_PHYS_PAGES") * page // 2
    if _MEMINFO.exists():
        line = next(line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable"))
        free = int(line.split()[1]) * 1024
    if _LIMIT.exists() and (limit := _LIMIT.read_text().strip()).isdigit():
        free = min(free, int(limit) - int(_USED.read_text()))
    return max(free, 0)


def _resident() -> int:
    """Bytes in main memory now; 0 where the system does not say, which only makes the bound larger."""
    return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if _STATUS.exists() else 0
