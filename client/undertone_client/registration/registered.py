"""The records of an approved plan, written down once and kept (PRIVACY 3, 17).

Approving a plan reads the site's metadata strictly and names everything that is wrong. What was good is registered in
SITE_DIR/registered/<plan digest>.jsonl: file, unit and the columns of the caption. From then on the node works from
that, and coins fall over the registered units alone. A registered record counts as long as its own line still lists its
file with its unit, the name leads to the file it led to then, and the image can be read. Else it is missing, its unit
goes on without it, and a unit with no record left is a zero row. Each record is judged by its own line and its own
file: nothing that happens to one can reach another, so a damaged, emptied or vanished file stays as invisible outside
as a withdrawn patient.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import canonical_json, sha256_hex
from undertone.core.captions import caption_columns
from undertone.core.durable import sync, write_durable
from undertone.core.progress import reporter
from undertone.core.text import shown
from undertone.core.unit import Unit
from undertone.data.metadata import Problem, rows_by_line
from undertone.data.records import Record, RecordTable, key_of, read_records, refuse
from undertone.errors import FolderError
from undertone.study.claim import check_claim
from undertone.study.plan import Plan
from undertone_client.registration.remarks import remarks
from undertone_client.site.folder import SiteDir

FOLDER = "registered"


@dataclass(frozen=True)
class Registration:
    """The records of one plan, and how the plan reads them."""

    plan_digest: str
    unit: Unit
    unit_column: str | None
    caption: str
    table: RecordTable


def register(site: SiteDir, plan: Plan, say: Callable[[str], None] | None = None) -> RecordTable:
    """Read the site's metadata strictly and register its records for a plan; a registration is never replaced.

    Args:
        site: the SITE_DIR.
        plan: the approved plan.
        say: is told what is no error: images that no line lists, say; by default the reporter.

    Raises:
        DataError: what is wrong with which line; nothing was registered.
        NotApproved: the site does not take the plan's base model.
        FolderError: the registration cannot be written, or the one that is there is damaged.
        UnderstatedClaim: the plan claims less than it costs; nothing was registered.
    """
    check_claim(plan)
    earlier = registered(site, plan)
    if earlier is not None:
        return earlier
    site.check_model(plan.model.files)
    unit, column, caption = plan.privacy.unit, plan.data.unit_column, plan.data.caption
    root, metadata = places(site)
    found = read_records(root, unit, column, caption, metadata, site.config.ids_as_written)
    for line in remarks(found, caption):
        (say or reporter().line)(f"{site.config.site}: {line}")
    fields = caption_columns(caption)
    records = [
        replace(record, columns={name: record.columns.get(name, "") for name in fields}) for record in found.records
    ]
    table = RecordTable(root, tuple(records), found.source)
    lost = ~present(table, unit, column, lambda _text: None)
    refuse([_not_alone(table, table.records[index]) for index in np.flatnonzero(lost)])
    try:
        (site.folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
        sync(site.folder)
    except OSError as error:
        raise FolderError(f"{site.folder / FOLDER} cannot be made: {error.strerror}") from None
    write_durable(_path(site, plan), _as_bytes(table, plan))
    return table


def registered(site: SiteDir, plan: Plan) -> RecordTable | None:
    """The records as they were registered, or None before that.

    Raises:
        FolderError: the registration is damaged.
    """
    path = _path(site, plan)
    return _read(site, path).table if path.exists() else None


def registrations(site: SiteDir) -> list[Registration]:
    """All that is registered at a site.

    Raises:
        FolderError: a registration is damaged.
    """
    return [_read(site, path) for path in sorted((site.folder / FOLDER).glob("*.jsonl"))]


def present(table: RecordTable, unit: Unit, unit_column: str | None, log: Callable[[str], None]) -> NDArray[np.bool_]:
    """Which records their own line in the metadata still lists with their unit, [records].

    Without a metadata file the images alone decide. Reads line by line and never raises on what a line holds.
    """
    if table.source is None:
        return np.ones(len(table.records), dtype=np.bool_)
    places_of = {(record.file, record.unit): index for index, record in enumerate(table.records)}
    listed = np.zeros(len(table.records), dtype=np.bool_)
    try:
        for row in rows_by_line(table.source, [last - first + 1 for first, last in _spans(table)]):
            index = places_of.get(key_of(row, unit, unit_column))
            if index is not None:
                listed[index] = True
    except OSError as error:
        log(f"{table.source} cannot be read ({error.strerror or error}); what it listed is missing")
    return listed


def places(site: SiteDir) -> tuple[Path, Path | None]:
    """The folder of a site's images, and its metadata file where node.toml names one."""
    config = site.config
    return site.folder / config.data, site.folder / config.metadata if config.metadata else None


def _read(site: SiteDir, path: Path) -> Registration:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}") from None
    head, *lines, seal, rest = data.split(b"\n") if data.count(b"\n") >= 2 else [b"", b"", b""]
    body = data[: len(data) - len(seal) - 1]
    if rest or seal != sha256_hex(body).encode():
        raise FolderError(f"{path} is damaged; restore it from your backup, or plan the study anew")
    values, (root, metadata) = json.loads(head), places(site)
    # The file that was registered, whatever lies beside it today (PRIVACY 17).
    source = metadata or root / values["metadata"] if values["metadata"] else None
    table = RecordTable(root, tuple(_record(json.loads(line)) for line in lines), source)
    return Registration(values["plan"], values["unit"], values["unit_column"], values["caption"], table)


def _spans(table: RecordTable) -> set[tuple[int, int]]:
    return {(0, last - first) for first, last in (record.lines for record in table.records)}


def _not_alone(table: RecordTable, record: Record) -> Problem:
    return Problem(table.place(record), f"{shown(record.file)} cannot be read by its own line; write it anew")


def _path(site: SiteDir, plan: Plan) -> Path:
    return site.folder / FOLDER / f"{plan.digest}.jsonl"


def _as_bytes(table: RecordTable, plan: Plan) -> bytes:
    """A head, a line for each record, and the SHA-256 of both."""
    lines = [
        canonical_json(
            {
                "plan": plan.digest,
                "unit": plan.privacy.unit,
                "unit_column": plan.data.unit_column,
                "caption": plan.data.caption,
                "metadata": table.source.name if table.source else "",
            }
        )
    ]
    lines += [
        canonical_json([record.file, record.unit, record.columns, *record.lines, record.target])
        for record in table.records
    ]
    body = b"\n".join(lines) + b"\n"
    return body + sha256_hex(body).encode() + b"\n"


def _record(values: tuple[str, str, dict[str, str], int, int, str]) -> Record:
    file, unit, columns, first, last, target = values
    return Record(file, unit, columns, (first, last), target)
