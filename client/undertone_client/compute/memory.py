"""How much memory a batch takes and how much a machine has, both by what is public: shapes, and what is installed.

Never what is free at the moment: that depends on what this process read before, and so on records.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LIMIT = Path("/sys/fs/cgroup/memory.max")


def installed() -> int:
    """Bytes of main memory that this machine has, or that the container around this process may have."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _LIMIT.read_text().strip() if _LIMIT.exists() else ""
    return min(found, int(limit)) if limit.isdigit() else found


def allocated_by(work: Callable[[], object]) -> int:
    """Bytes of every tensor that `work` makes, those too that it frees again: an upper bound, by shapes alone."""
    from torch.utils._python_dispatch import TorchDispatchMode  # torch: only where tensors are made

    sizes: list[int] = []

    class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self,
            func: Callable[..., object],
            _types: object,
            args: Any = (),  # noqa: ANN401 - as torch has it
            kwargs: Any = None,  # noqa: ANN401
        ) -> object:
            made = func(*args, **(kwargs or {}))
            sizes.extend(getattr(one, "nbytes", 0) for one in (made if isinstance(made, tuple | list) else (made,)))
            return made

    with Counting():  # type: ignore[no-untyped-call]
        work()
    return sum(sizes)
