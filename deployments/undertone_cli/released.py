"""A release and the base it belongs to, put together: what `generate` and `export` start from."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from undertone.errors import FolderError, InputError
from undertone.methods.weights import attach, check_weights, read_weights
from undertone.models.pinned import PinnedBase, check_pins, pin
from undertone.release.verify import checked_plan
from undertone.study.plan import Plan
from undertone_cli.console import out

if TYPE_CHECKING:
    from undertone.models.base import LoadedBase

BASE_HELP = "The base model's folder, if it is not where the plan says; its files must be the same."
COORDINATOR_HELP = "The public key (64 hexadecimal digits) that must have signed it."


def coordinator_key(_context: click.Context, _option: click.Parameter, key: str | None) -> str | None:
    """A key as a person gives it.

    Raises:
        InputError: it is none.
    """
    if key is not None and not re.fullmatch("[0-9a-f]{64}", key):
        raise InputError("--coordinator takes a public key of 64 hexadecimal digits, as in a site's policy.toml")
    return key


def say_signer(coordinator: str | None) -> None:
    """After the work: whether the key that signed is known to be the coordinator's."""
    if coordinator is None:
        out.print("the signer of the release was not checked; --coordinator KEY does", highlight=False, markup=False)


def released_plan(release: Path, folder: Path, coordinator: str | None = None) -> Plan:
    """The plan of a release, once manifest and signatures hold and the folder to write to is free.

    Raises:
        FolderError: no release, or the folder exists.
        NotVerified: a file is not the one that was signed, or another key signed.
    """
    plan = signed_plan(release, coordinator)
    if folder.exists():
        raise FolderError(f"{folder} exists already; choose another --out")
    return plan


def signed_plan(release: Path, coordinator: str | None = None) -> Plan:
    """The plan of a release, once manifest and signatures hold.

    Raises:
        FolderError: no release.
        NotVerified: a file is not the one that was signed, or another key signed.
    """
    if not (release / "plan.json").is_file():
        raise FolderError(f"{release} is not a release folder: it has no plan.json")
    plan, _ = checked_plan(release, coordinator)
    return plan


def pinned_base(release: Path, plan: Plan, copy: Path | None = None) -> PinnedBase:
    """The files of the base that the plan pins, once the release's weights are the plan's; see `adapted_base`.

    Raises:
        UndertoneError: the release or its base model is not what it should be.
    """
    check_weights(release, plan.method)
    pinned = pin(plan.model.base, plan.model.revision) if copy is None else pin(str(copy))
    check_pins(pinned, plan.model.files)
    return pinned


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
    pinned = pinned_base(release, plan, copy)
    from undertone.models.base import load_base  # torch: not for --help, nor for a wrong folder

    base = load_base(pinned, device, keep_safety_checker=True)
    attach(base, read_weights(release))
    return base
