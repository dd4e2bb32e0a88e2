"""A release and the base it belongs to, put together: what `generate` and `export` start from."""

from pathlib import Path
from typing import TYPE_CHECKING

from undertone.errors import FolderError
from undertone.models.pinned import check_pins, pin
from undertone.plan import Plan

if TYPE_CHECKING:
    from undertone.models.base import LoadedBase

BASE_HELP = "The base model's folder, if it is not where the plan says; its files must be the same."


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


def adapted_base(release: Path, plan: Plan, device: str = "cpu", copy: Path | None = None) -> "LoadedBase":
    """The base that the plan pins, with the release's weights and its own safety checker.

    Args:
        release: a release folder.
        plan: its plan.
        device: a torch device.
        copy: where the base lies on this machine, if not where the plan says; its files must be the same.

    Raises:
        UndertoneError: the release or its base model is not what it should be.
    """
    from undertone.models.adapted import attach, read_weights  # torch: not for --help, nor for a wrong folder
    from undertone.models.base import load_base

    pinned = pin(plan.model.base, plan.model.revision) if copy is None else pin(str(copy))
    check_pins(pinned, plan.model.files)
    base = load_base(pinned, device, keep_safety_checker=True)
    attach(base, read_weights(release))
    return base
