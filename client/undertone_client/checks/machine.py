"""Checks of the machine: its clock, its disk, its devices."""

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import ceil, prod, sqrt
from pathlib import Path

from undertone.errors import ModelError, PlanChanged, StudyError
from undertone.methods.protocol import Method, ShardedMethod, SummingMethod
from undertone.models.devices import check_dtype, choose
from undertone.models.pinned import PinnedBase, files_digest
from undertone.preflight.fleet_checks import clocks
from undertone.preflight.verdict import Verdict, failed, first_fault, passed, warned
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_client.checks.inspection import Inspection
from undertone_client.site.audit_chain import FOLDER as AUDIT

# No clock that is right shows an earlier year than this version was made in.
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(minutes=5)
_SET_CLOCK = "set this machine's clock (NTP); approvals end by it, and the logs carry its times"
# What ledger, logs and stored state need before any study does, in bytes.
_LEAST_FREE = 64 << 20
_SEAL_BYTES, _LATENT_CHANNELS, _BLOCK = 32, 4, 512
# Of the round before, of this one, and of an attempt of it that was given up.
_MEMORIES = 3


def clock(inspection: Inspection) -> Verdict:
    """Against the year of this version, the times of the SITE_DIR's own files, and each coordinator's server."""
    if inspection.now < _EARLIEST:
        return failed("clock", "the clock shows a time before this version was made", _SET_CLOCK)
    servers = [
        clocks("clock", name, seen)
        for name in inspection.connections
        if not (seen := inspection.seen(name)).fault  # the check of the coordinator says why
    ]
    ahead = [path.name for path in _own_files(inspection.site.folder) if _time_of(path) > inspection.now + _AHEAD]
    if ahead:
        sentence = "the clock shows a time before files of SITE_DIR were written"
        servers.append(warned("clock", sentence, _SET_CLOCK, [f"{name} has a later time" for name in ahead]))
    good = "the clock agrees with SITE_DIR's own files; the coordinator's clock was not asked"
    return first_fault(servers or [passed("clock", good)])


def _own_files(folder: Path) -> list[Path]:
    """Files that the node writes itself, none of which is a record's."""
    return sorted(path for place in (folder, folder / AUDIT) if place.is_dir() for path in place.iterdir())


def _stat(path: Path) -> os.stat_result | None:
    """None where a node at work has just removed the file."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _time_of(path: Path) -> datetime:
    found = _stat(path)
    return datetime.fromtimestamp(found.st_mtime if found else 0, UTC)


def disk(inspection: Inspection) -> Verdict:
    """Free space against latents, shards, rows or sums of each plan at hand; what cache/ holds already is room too."""
    folder = inspection.site.folder
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        sentence = "the disk of SITE_DIR is full: not even ledger and logs are sure of room"
        return failed("disk", sentence, "make room on it", [f"{free} bytes free"])
    latents: dict[tuple[str, str], int] = {}
    rows, unknown = 0, False
    for plan in inspection.plans:
        try:
            pinned = inspection.pinned(plan.model.base, plan.model.revision)
            method, found = planned_method(plan, pinned), _latents(inspection, plan, pinned)
            latents |= found
            rows += _rows(inspection, plan, method, pinned) + _shards(method, pinned, sum(found.values()))
        except (ModelError, PlanChanged, StudyError):
            unknown = True  # the check of the base models says why
    needed = rows + sum(latents.values())
    room = free - _LEAST_FREE + _on_disk(inspection.site.cache)
    details = [f"{free} bytes free, about {needed} needed by the plans at hand"]
    if room < needed:
        sentence = "the disk of SITE_DIR has too little room for the latents and rows of the plans at hand"
        return failed("disk", sentence, "make room on it, or move SITE_DIR to a larger disk", details)
    if room < 2 * needed:
        sentence = "the disk of SITE_DIR has hardly more room than the plans at hand need"
        return warned("disk", sentence, "make room on it before the study starts", details)
    if unknown:
        sentence = "what a plan needs on the disk is not known, because its base model cannot be read"
        return warned("disk", sentence, "see the check of the base models", details)
    return passed(
        "disk", "the disk of SITE_DIR has room enough" + (" for the plans at hand" if needed else ""), details
    )


def _latents(inspection: Inspection, plan: Plan, pinned: PinnedBase) -> Mapping[tuple[str, str], int]:
    """(data set, base model) -> bytes of latents, which all plans on both share.

    A plan that is not approved yet may get any data set: the one with the most records.
    """
    records = {one.whose: one.records for one in inspection.published}
    chosen = {one.document.digest: one.document.data_set for one in inspection.approved}
    name = chosen.get(plan.digest) or max(records, key=records.__getitem__, default="")
    size = 4 * prod(_latent_shape(pinned)) + _SEAL_BYTES
    return {(name, files_digest(pinned.files)): records.get(name, 0) * size}


def _rows(inspection: Inspection, plan: Plan, method: Method, pinned: PinnedBase) -> int:
    """Bytes of one attempt's rows or sum, and of all rounds' rows where they are kept."""
    name = inspection.site.config.site
    if isinstance(method, SummingMethod) and method.sums(pinned):
        return max(2 * 8 * stage.dimension for stage in plan.stages)
    one_attempt = []
    for stage in plan.stages:  # rows are of units, or of shards: N_i of them
        mean = stage.sampling_rate * plan.cohort.units.get(name, 0)
        one_attempt.append(ceil(mean + 6 * sqrt(mean)) * 4 * stage.dimension)
    if not inspection.site.config.keep_rows:
        return max(one_attempt)
    return sum(rows * len(stage.rounds) for rows, stage in zip(one_attempt, plan.stages, strict=True))


def _shards(method: Method, pinned: PinnedBase, latents: int) -> int:
    """Bytes of what is made of shards, about as many as their latents, and of what shards remember."""
    if not isinstance(method, ShardedMethod):
        return 0
    return latents + _MEMORIES * method.shards * 4 * method.memory(pinned)


def _latent_shape(pinned: PinnedBase) -> tuple[int, int, int]:
    side = int(pinned.config("unet")["sample_size"])
    return int(pinned.config("vae").get("latent_channels", _LATENT_CHANNELS)), side, side


def _on_disk(folder: Path) -> int:
    """Bytes that the files of a folder take, holes left out."""
    found = [_stat(path) for path in folder.rglob("*")] if folder.is_dir() else []
    return sum(one.st_blocks * _BLOCK for one in found if one)


def device(inspection: Inspection) -> Verdict:
    """Are the devices of node.toml there, and do they compute in its dtype?"""
    config = inspection.site.config
    try:
        devices = choose(config.device)
        for one in devices:
            check_dtype(one, config.dtype)
    except ModelError as error:
        sentence = f"a device of node.toml is not there, or does not compute in {config.dtype}"
        return failed("device", sentence, "correct device or dtype in node.toml", [str(error)])
    return passed("device", f"{', '.join(devices)}: there, and computes in {config.dtype}")
