"""The records of an approved plan, written down once and kept (PRIVACY 3, 17).

Approving a plan reads its data set's metadata strictly and names everything that is wrong. What was good is registered
in SITE_DIR/registered/<plan digest>.jsonl: the data set, and file, unit, the columns of the caption and of the class
and a digest of the file's bytes. From then on the node works from that, and coins fall over the registered units alone.
A registered record counts as long as its own line still lists its file with its unit, the name leads to the file it led
to then, that file holds the bytes it held then, the image can be read, and its unit was not withdrawn. Else it is
missing, its unit goes on without it, and a unit with no record left is a zero row. Each record is judged by its own
line and its own file: nothing that happens to one can reach another, so a damaged, emptied or vanished file stays as
invisible outside as a withdrawn patient. A record of a class that the plan does not list is missing in the same way.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import file_sha256
from undertone.core.captions import caption_columns
from undertone.core.progress import reporter
from undertone.core.remembered import Remembered
from undertone.core.text import shown
from undertone.core.unit import Unit
from undertone.data.identical import with_digests
from undertone.data.metadata import Problem, rows_by_line
from undertone.data.records import Record, RecordTable, is_file, key_of, read_records, refuse
from undertone.errors import DataError, NotApproved, UnitChanged
from undertone.study.claim import check_claim
from undertone.study.plan import Plan
from undertone_client.registration.moving import follow
from undertone_client.registration.remarks import remarks, unlisted_classes
from undertone_client.registration.stored import Registration, registration_of, write_registration
from undertone_client.site.datasets import DataSet
from undertone_client.site.folder import SiteDir
from undertone_client.site.tombstones import withdrawn_from
from undertone_client.site.unit_index import UnitIndex, listed_mac, read_index

# Which records the metadata's bytes list, by their digest: a node asks in each round.
_known: Remembered[tuple[Path, Unit, str | None], tuple[tuple[Record, ...], str, NDArray[np.bool_]]] = Remembered(64)


def register(site: SiteDir, plan: Plan, data: DataSet, say: Callable[[str], None] | None = None) -> RecordTable:
    """Read a data set's metadata strictly and register its records for a plan; a registration is never replaced.

    Units that were withdrawn stay out, whatever the metadata list. Where the data set has moved, a registration that is
    there follows it.

    Args:
        site: the SITE_DIR.
        plan: the approved plan.
        data: the data set that the approval names.
        say: is told what is no error: images that no line lists, say; by default the reporter.

    Raises:
        DataError: what is wrong with which line; nothing was registered.
        NotApproved: the site does not take the plan's base model, or registered another data set for this plan.
        UnitChanged: the plan counts other units than the data set was added with.
        FolderError: the registration cannot be written, or the one that is there is damaged.
        UnderstatedClaim: the plan claims less than it costs; nothing was registered.
    """
    check_claim(plan)
    index = _index_for(site, plan, data)
    earlier = registration_of(site, plan)
    if earlier is not None:
        if earlier.data.name != data.name:
            raise NotApproved(
                f"plan {plan.digest[:8]} has the records of {earlier.data.name} here, not of {data.name}; "
                f"`undertone node forget` it first"
            )
        return (follow(site, plan.digest) if earlier.moved else earlier).table
    site.check_model(plan.model.files)
    unit, column, caption, of_class = (
        plan.privacy.unit,
        plan.data.unit_column,
        plan.data.caption,
        plan.data.class_column,
    )
    root, metadata = data.places(site.folder)
    listed = read_records(root, unit, column, caption, metadata, data.ids_as_written, of_class)
    gone = withdrawn_from(site, data)
    found = listed.where(lambda record: not gone(record.unit))
    if not found.records:
        raise DataError(f"all units of data set {data.name} were withdrawn; there is nothing to register")
    with reporter().task(f"{site.config.site}: comparing files", len(found.records)) as progress:
        found = with_digests(found, progress)
    _refuse_new(site, data, index, found)
    for line in (*remarks(found, caption), *unlisted_classes(found, plan.data)):
        (say or reporter().line)(f"{site.config.site}: {line}")
    fields = [*caption_columns(caption), *([] if of_class is None else [of_class])]
    records = [
        replace(record, columns={name: record.columns.get(name, "") for name in fields}) for record in found.records
    ]
    table = RecordTable(root, tuple(records), found.source)
    lost = ~present(table, unit, column, lambda _text: None)
    refuse([_not_alone(table, table.records[index]) for index in np.flatnonzero(lost)])
    made = Registration(
        plan_digest=plan.digest,
        study=plan.study,
        data=data,
        folder=data.folder,
        metadata=data.metadata,
        ids_as_written=data.ids_as_written,
        unit=unit,
        unit_column=column,
        caption=caption,
        class_column=of_class,
        table=table,
    )
    write_registration(site, made)
    return table


def _index_for(site: SiteDir, plan: Plan, data: DataSet) -> UnitIndex:
    """The data set's index; insists that the plan counts the units that the data set's budget counts (PRIVACY 13)."""
    index = read_index(site, data)  # refuses where the data set's own file was changed
    if (plan.privacy.unit, plan.data.unit_column) != (data.unit, data.unit_column):
        column = f" by {shown(plan.data.unit_column)}" if plan.data.unit_column else ""
        own = f" by {shown(data.unit_column)}" if data.unit_column else ""
        raise UnitChanged(
            f"plan {plan.digest[:8]} protects each {plan.privacy.unit}{column}, data set {data.name} each "
            f"{data.unit}{own}: its budget counts these for life; take another data set, or refuse the plan"
        )
    return index


def _refuse_new(site: SiteDir, data: DataSet, index: UnitIndex, found: RecordTable) -> None:
    """Insist that every record went through `node data add` or `update` as it is: another data set may have it."""
    secret = site.secret()
    new = [record for record in found.records if listed_mac(secret, record) not in index.listed]
    if new:
        raise DataError(
            f"{len(new)} records are new to data set {data.name}, by name, unit or contents, the first "
            f"{shown(new[0].file)} at {found.place(new[0])}; "
            f"`undertone node data update {shown(str(site.folder))} {data.name}` checks them"
        )


def withdrawn_units(site: SiteDir, registration: Registration) -> frozenset[str]:
    """The registered units that were withdrawn since: their rows are zero from here on.

    Raises:
        FolderError: the tombstones are damaged.
    """
    gone = withdrawn_from(site, registration.data)
    return frozenset(unit for unit in registration.table.units() if gone(unit))


def present(table: RecordTable, unit: Unit, unit_column: str | None, log: Callable[[str], None]) -> NDArray[np.bool_]:
    """Which records their own line in the metadata still lists with their unit, [records].

    Without a metadata file the images alone decide. Reads line by line and never raises on what a line holds.
    """
    if table.source is None:
        return np.ones(len(table.records), dtype=np.bool_)
    listed = np.zeros(len(table.records), dtype=np.bool_)
    try:
        digest, of = _digest(table.source), (table.source, unit, unit_column)
        known = _known.get(of)
        if digest and known is not None and known[1] == digest and known[0] is table.records:
            return known[2].copy()
        _mark(listed, table, table.source, unit, unit_column)
        if _digest(table.source) == digest:  # else the file changed meanwhile
            _known.put(of, (table.records, digest, listed.copy()))
    except OSError as error:
        log(f"{table.source} cannot be read ({error.strerror or error}); what it listed is missing")
    return listed


def _digest(source: Path) -> str:
    """SHA-256 of a metadata file; "" where there is none to read by lines."""
    return file_sha256(source) if is_file(source) else ""


def _mark(listed: NDArray[np.bool_], table: RecordTable, source: Path, unit: Unit, unit_column: str | None) -> None:
    """Mark the records that the metadata list, as far as they can be read."""
    places_of = {(record.file, record.unit): index for index, record in enumerate(table.records)}
    for row in rows_by_line(source, [last - first + 1 for first, last in _spans(table)]):
        index = places_of.get(key_of(row, unit, unit_column))
        if index is not None:
            listed[index] = True


def _spans(table: RecordTable) -> set[tuple[int, int]]:
    return {(0, last - first) for first, last in (record.lines for record in table.records)}


def _not_alone(table: RecordTable, record: Record) -> Problem:
    return Problem(table.place(record), f"{shown(record.file)} cannot be read by its own line; write it anew")
