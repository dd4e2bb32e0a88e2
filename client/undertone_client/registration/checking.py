"""Every bad record of a site, named with file and line, for its operator's eyes (PRIVACY 17)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import file_sha256
from undertone.core.progress import reporter
from undertone.core.text import shown
from undertone.core.unit import Unit
from undertone.data.images import read_images
from undertone.data.metadata import Problem
from undertone.data.records import Record, RecordTable, is_file, moved, read_good_records
from undertone.errors import DataError
from undertone.study.schema import Study
from undertone_client.registration.registered import present, withdrawn_units
from undertone_client.registration.remarks import remarks
from undertone_client.registration.stored import Registration, registrations
from undertone_client.site.datasets import DataSet, data_sets
from undertone_client.site.folder import SiteDir
from undertone_client.site.tombstones import withdrawn_from

# Decoding costs the same whatever size comes out of it.
_SIZE = 32
_FEWEST_LEVELS, _LISTED = 16, 20  # 4 of 8 bits: labels of a mask, or a depth that the file does not say
Reading = tuple[Unit, str | None, str, str | None]


@dataclass
class Checked:
    """What a site's data hold, everything that is wrong with them, and what may be and is accepted as it is."""

    records: int = 0
    units: int = 0
    registrations: int = 0
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unreadable: set[Path] = field(default_factory=set)


def check_site(site: SiteDir, study: Study | None = None) -> Checked:
    """Read each data set's metadata strictly, decode every image, and look for every registered record.

    Units that were withdrawn are not looked at.

    Args:
        site: the SITE_DIR.
        study: whose unit column and caption must be there; by default the data set's own, and the captions of the
            plans that are registered here.

    Raises:
        FolderError: a registration is damaged.
    """
    known, checked = registrations(site), Checked()
    checked.registrations = len(known)
    for data in data_sets(site.folder).values():
        _check_data_set(site, data, study, [item for item in known if item.data.name == data.name], checked)
    for registration in known:
        checked.problems += _lost(site, registration, checked.unreadable)
    checked.problems = list(dict.fromkeys(checked.problems))  # two plans may read one line the same way
    checked.remarks = list(dict.fromkeys(checked.remarks))
    return checked


def _check_data_set(
    site: SiteDir, data: DataSet, study: Study | None, known: list[Registration], checked: Checked
) -> None:
    readings = _readings(data, study, known)
    tables = [_read(site, data, reading, checked) for reading in readings]
    table = max(tables, key=lambda found: len(found.records))
    for read, (_, _, caption, _) in zip(tables, readings, strict=True):
        checked.remarks += remarks(read, caption)
    with reporter().task(f"{site.config.site}: checking images of {data.name}", len(table.records)) as progress:
        _check_images(table, checked, progress)
    checked.records += len(table.records)
    checked.units += max(len(found.units()) for found in tables)


def _readings(data: DataSet, study: Study | None, known: list[Registration]) -> list[Reading]:
    if study is not None:
        return [(study.privacy.unit, study.data.unit_column, study.data.caption, study.data.class_column)]
    readings: list[Reading] = [(item.unit, item.unit_column, item.caption, item.class_column) for item in known]
    return list(dict.fromkeys(readings)) or [(data.unit, data.unit_column, "", None)]


def _read(site: SiteDir, data: DataSet, reading: Reading, checked: Checked) -> RecordTable:
    root, metadata = data.places(site.folder)
    gone, (unit, column, caption, of_class) = withdrawn_from(site, data), reading
    try:
        table = read_good_records(
            root, unit, column, caption, metadata, checked.problems.append, data.ids_as_written, of_class
        )
        checked.remarks += table.skipped()
        return table.where(lambda record: not gone(record.unit))
    except DataError as error:
        checked.problems.append(Problem(f"{site.config.site}, data set {data.name}", str(error)))
        return RecordTable(root, ())


def _check_images(table: RecordTable, checked: Checked, progress: Callable[[int], None]) -> None:
    """Decode every image once: name those that cannot be read, and those in which there is next to nothing to see."""
    flat = 0
    files = (record.file for record in table.records)
    for record, image in zip(table.records, read_images(table.root, files, _SIZE), strict=True):
        if isinstance(image, DataError):
            checked.problems.append(Problem(table.place(record), str(image)))
            checked.unreadable.add(table.root / record.file)
        elif (levels := int(np.ptp(image.reshape(-1, 3).astype(int), axis=0).max()) + 1) < _FEWEST_LEVELS:
            flat += 1
            if flat <= _LISTED:
                checked.remarks.append(_almost_flat(table, record, image, levels))
        progress(1)
    if flat > _LISTED:
        checked.remarks.append(f"{table.root}: {flat - _LISTED} more images have almost no range")


def _almost_flat(table: RecordTable, record: Record, image: NDArray[np.uint8], levels: int) -> str:
    return (
        f"{table.place(record)}: {shown(record.file)} has almost no range: {levels} of 256 levels, about "
        f"{int(image.mean())}; a mask, an empty scan, or brightness that its file does not say? Rescale it or remove it"
    )


def _lost(site: SiteDir, registration: Registration, unreadable: set[Path]) -> list[Problem]:
    """Registered records that are zero rows now: the metadata no longer list them, a link or a file was changed.

    Those of withdrawn units are meant to be; `unreadable` files are named already.
    """
    table, plan, gone = registration.table, registration.plan_digest[:8], withdrawn_units(site, registration)
    if registration.moved:
        return [Problem(f"datasets/{registration.data.name}.toml", f"plan {plan} was approved with another folder")]
    listed = present(table, registration.unit, registration.unit_column, lambda _text: None)
    lost = [(index, "is no longer listed with its unit") for index in np.flatnonzero(~listed).tolist()]
    elsewhere = moved(table)
    lost += [(index, "leads to another file than when it was registered") for index in elsewhere if listed[index]]
    staying = {index for index in np.flatnonzero(listed).tolist() if table.records[index].unit not in gone}
    for index in sorted(staying.difference(elsewhere)):
        path = table.root / table.records[index].file
        if path not in unreadable and _holds_other(path, table.records[index].sha256):
            lost.append((index, "holds other bytes than when it was registered"))
    return [
        Problem(
            table.place(table.records[index]),
            f"{shown(table.records[index].file)} of plan {plan} {why}: a zero row",
        )
        for index, why in lost
        if table.records[index].unit not in gone
    ]


def _holds_other(path: Path, sha256: str) -> bool:
    """Whether a registered file holds other bytes now; one that is gone holds none."""
    try:
        return is_file(path) and file_sha256(path) != sha256
    except OSError:
        return True
