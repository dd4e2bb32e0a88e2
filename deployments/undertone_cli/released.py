"""A release and the base it belongs to, put together: what `generate` and `export` start from."""

from pathlib import Path
from typing import TYPE_CHECKING

from undertone.errors import FolderError
from undertone.models.pinned import check_pins, pin
from undertone.plan import Plan

if TYPE_CHECKING:
    from undertone.models.base import LoadedBase


def released_plan(release: Path, folder: Path) -> Plan:
    """The plan of a release, once the folder to write to is free.

    Raises:
        FolderError: no release, or the folder exists.
    """
    try:
        plan = Plan.from_bytes((release / "plan.json").read_bytes())
    except OSError:
        raise FolderError(f"{release} is not a release folder: it has no plan.json") from None
    if folder.exists():
        raise FolderError(f"{folder} exists already; choose another --out")
    return plan


def adapted_base(release: Path, plan: Plan, device: str = "cpu") -> "LoadedBase":
    """The base that the plan pins, with the release's weights and its own safety checker.

    Raises:
        UndertoneError: the release or its base model is not what it should be.
    """
    from undertone.models.adapted import attach, read_weights  # torch: not for --help, nor for a wrong folder
    from undertone.models.base import load_base

    pinned = pin(plan.model.base, plan.model.revision)
    check_pins(pinned, plan.model.files)
    base = load_base(pinned, device, keep_safety_checker=True)
    attach(base, read_weights(release))
    return base
