"""Who holds what in a simulation: sites and held-out units, from one folder or several."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from undertone.errors import DataError, StudyError
from undertone.study import Study
from undertone_client.records import METADATA_NAMES, Record, RecordTable, read_records


@dataclass(frozen=True)
class SiteData:
    """One site's share: records it adapts to, and records held out for diagnostics."""

    training: RecordTable
    holdout: RecordTable


def split(study: Study, data: Path, split_by: str | None, sites: int | None, holdout: float) -> dict[str, SiteData]:
    """Split a folder into sites, and each site's units into training and held-out ones.

    A folder with metadata is split by a column or into equal parts; a folder of folders has one site in
    each. A unit is held out or not by a hash of its name: the same units every time.

    Raises:
        StudyError: `holdout` is no fraction.
        DataError: the folder cannot be split that way; says what would do.
    """
    if not 0 <= holdout < 1:
        raise StudyError(f"--holdout {holdout} must be at least 0 and below 1")
    tables = _site_tables(study, data, split_by, sites)
    shares: dict[str, SiteData] = {}
    for site, table in sorted(tables.items()):
        share = SiteData(
            table.where(lambda record: _fraction(record.unit) >= holdout),
            table.where(lambda record: _fraction(record.unit) < holdout),
        )
        if not share.training.records:
            raise DataError(f"{site} has no units left beside those held out; lower --holdout or give it more images")
        shares[site] = share
    if holdout and sum(len(share.holdout.records) for share in shares.values()) < 2:
        raise DataError(f"--holdout {holdout} holds out fewer than two images, too few to compare with; raise it")
    return shares


def _site_tables(study: Study, data: Path, split_by: str | None, sites: int | None) -> dict[str, RecordTable]:
    folders = _site_folders(data)
    if folders and (split_by or sites):
        raise DataError(f"{data} holds a folder for each site already; leave --split-by and --sites out")
    if folders:
        return {folder.name: _read(study, folder) for folder in folders}
    table = _read(study, data)
    if split_by:
        return _by_column(table, split_by)
    if not sites:
        raise DataError(f"{data} is one folder: say --split-by COLUMN or --sites N to make sites of it")
    chunks: dict[str, list[Record]] = {f"site-{number + 1}": [] for number in range(sites)}
    for position, indices in enumerate(table.units().values()):
        chunks[f"site-{position % sites + 1}"] += [table.records[index] for index in indices]
    return {site: RecordTable(table.root, tuple(records)) for site, records in chunks.items()}


def _site_folders(data: Path) -> list[Path]:
    """The subfolders that hold metadata of their own, where the folder itself has none."""
    if not data.is_dir():
        raise DataError(f"{data} is not a folder")
    if any((data / name).is_file() for name in METADATA_NAMES):
        return []
    return sorted(path for path in data.iterdir() if any((path / name).is_file() for name in METADATA_NAMES))


def _read(study: Study, folder: Path) -> RecordTable:
    return read_records(folder.resolve(), study.privacy.unit, study.data.unit_column, study.data.caption)


def _by_column(table: RecordTable, column: str) -> dict[str, RecordTable]:
    known = table.records[0].columns
    if column not in known:
        raise DataError(f"--split-by {column}: there is no such column; there are {', '.join(known) or 'none'}")
    sites: dict[str, list[Record]] = {}
    homes: dict[str, str] = {}
    for record in table.records:
        site = record.columns[column].strip()
        if not site:
            raise DataError(f"--split-by {column}: {record.file} names no site")
        if homes.setdefault(record.unit, site) != site and record.unit != "site":
            raise DataError(
                f"--split-by {column}: one unit has images at {homes[record.unit]} and at {site}; in a real study "
                "these are two units, so give them two ids"
            )
        sites.setdefault(site, []).append(record)
    return {site: RecordTable(table.root, tuple(records)) for site, records in sites.items()}


def _fraction(unit: str) -> float:
    """A number in [0, 1) that depends on the unit's name alone."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") / 2**64
