"""Who holds what in a simulation: sites and held-out units, from one folder or several."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from undertone.core.progress import reporter
from undertone.core.text import shown
from undertone.data.plain_folder import images_beside, is_hidden
from undertone.data.records import METADATA_NAMES, Record, RecordTable, holds_images, read_records
from undertone.data.unit_ids import folded, names_nobody
from undertone.errors import DataError, StudyError
from undertone.study.schema import Study
from undertone_cli.split_folders import apart, are_splits, is_split, is_training, joined, overlap, split_of
from undertone_client.registration.remarks import remarks


@dataclass(frozen=True)
class SiteData:
    """One site's share: records it adapts to, and records held out for diagnostics."""

    training: RecordTable
    holdout: RecordTable


@dataclass(frozen=True, slots=True)
class Reading:
    """How the records of a simulation's folders are read."""

    study: Study
    metadata: str | None
    ids_as_written: bool

    def table(self, folder: Path) -> RecordTable:
        """All records of a folder.

        Raises:
            DataError: what is wrong, with file and line.
        """
        study, named = self.study, None if self.metadata is None else folder.resolve() / self.metadata
        table = read_records(
            folder.resolve(),
            study.privacy.unit,
            study.data.unit_column,
            study.data.caption,
            named,
            self.ids_as_written,
            study.data.class_column,
        )
        for line in remarks(table, study.data.caption):
            reporter().line(line)
        return table


def split(
    study: Study,
    data: Path,
    split_by: str | None,
    sites: int | None,
    holdout: float,
    *,
    metadata: str | None = None,
    ids_as_written: bool = False,
) -> dict[str, SiteData]:
    """Split a folder into sites, and each site's units into training and held-out ones.

    A folder with metadata is split by a column or into equal parts; a folder of folders has one site in each. Folders
    named train, validation, test are splits of a data set, never sites. A unit is held out or not by a hash of its
    name: the same units every time, at each site that has it.

    Args:
        study: whose unit and caption say how records are read.
        data: the folder.
        split_by: the column that names the site.
        sites: into how many sites to split the folder.
        holdout: the fraction of units held out.
        metadata: the name of the metadata file, where a folder has both.
        ids_as_written: whether ids that look alike are different people.

    Raises:
        StudyError: `holdout` is no fraction.
        DataError: the folder cannot be split that way; says what would do.
    """
    if not 0 <= holdout < 1:
        raise StudyError(f"--holdout {holdout} must be at least 0 and below 1")
    reading = Reading(study, metadata, ids_as_written)
    tables = _site_tables(reading, data, split_by, sites)
    held_out = _held_out_folders(reading, data, tables, holdout)
    _say_shared(reading, tables)
    shares: dict[str, SiteData] = {}
    for site, table in sorted(tables.items()):
        if held_out:
            share = SiteData(*apart(table))
        else:
            share = SiteData(
                table.where(lambda record: _fraction(record.unit) >= holdout),
                table.where(lambda record: _fraction(record.unit) < holdout),
            )
        if not share.training.records:
            raise DataError(f"{site} has no units left beside those held out; lower --holdout or give it more images")
        shares[site] = share
    if (holdout or held_out) and sum(len(share.holdout.records) for share in shares.values()) < 2:
        raise DataError(
            f"{f'--holdout {holdout}' if holdout else data} holds out fewer than two images, too few to compare with; "
            "raise it"
        )
    return shares


def _held_out_folders(reading: Reading, data: Path, tables: Mapping[str, RecordTable], holdout: float) -> bool:
    """Whether folders of the data say what is held out; says so in one line.

    Raises:
        DataError: they do, and --holdout would hold out others.
    """
    records = [record for table in tables.values() for record in table.records]
    names = sorted({split_of(record) for record in records})
    if not (all(map(is_split, names)) and are_splits(names)):
        return False
    training = [name for name in names if is_training(name)]
    rest = [name for name in names if not is_training(name)]
    if rest and holdout:
        raise DataError(f"{data} holds out {', '.join(rest)} already; leave --holdout out")
    kept = f"{', '.join(rest)} the hold-out, for diagnostics alone" if rest else "nothing is held out"
    reporter().line(f"{data}: folders are splits, not sites: {', '.join(training)} is training data, {kept}")
    line = overlap(*apart(RecordTable(data, tuple(records)))) if reading.study.privacy.unit == "patient" else ""
    if line:
        reporter().line(line)
    return bool(rest)


def _say_shared(reading: Reading, tables: Mapping[str, RecordTable]) -> None:
    """One line where patients are at several sites: accepted as in a real study, where nobody could know."""
    if reading.study.privacy.unit != "patient":
        return
    same = str if reading.ids_as_written else folded
    at = Counter(unit for table in tables.values() for unit in set(map(same, table.units())))
    shared = sum(count > 1 for count in at.values())
    if shared:
        ids = "1 id occurs" if shared == 1 else f"{shared} ids occur"
        reporter().line(
            f"{ids} at more than one site: a patient at a site is the unit, so the guarantee of whoever is at several "
            "is weaker than the plan's (PRIVACY 1 in docs/PRIVACY.md)"
        )


def _site_tables(reading: Reading, data: Path, split_by: str | None, sites: int | None) -> dict[str, RecordTable]:
    folders = site_folders(data)
    splits = are_splits([folder.name for folder in folders])
    if folders and not splits and (split_by or sites):
        raise DataError(f"{data} holds a folder for each site already; leave --split-by and --sites out")
    if folders and not splits:
        return {folder.name: reading.table(folder) for folder in folders}
    parts = {folder.name: reading.table(folder) for folder in folders}
    table = joined(parts, reading.study.privacy.unit) if parts else reading.table(data)
    if split_by:
        return _by_column(table, split_by)
    if not sites:
        raise DataError(f"{data} is one folder: say --split-by COLUMN or --sites N to make sites of it")
    chunks: dict[str, list[Record]] = {f"site-{number + 1}": [] for number in range(sites)}
    for position, indices in enumerate(table.units().values()):
        chunks[f"site-{position % sites + 1}"] += [table.records[index] for index in indices]
    return {site: RecordTable(table.root, tuple(records), table.source) for site, records in chunks.items()}


def site_folders(data: Path) -> list[Path]:
    """The sub-folders that hold metadata of their own, where the folder itself has none; says what lies beside them.

    Raises:
        DataError: others hold images and no metadata: silence would leave them out.
    """
    if not data.is_dir():
        raise DataError(f"{data} is not a folder")
    if any((data / name).is_file() for name in METADATA_NAMES):
        return []
    below = sorted(path for path in data.iterdir() if path.is_dir() and not is_hidden(path.name))
    found = [path for path in below if any((path / name).is_file() for name in METADATA_NAMES)]
    for path in below if found else ():
        if path not in found and holds_images(path):
            raise DataError(f"{path} holds images and no metadata.csv, unlike {found[0].name}; add it, or move it away")
    loose = images_beside(data) if found else []
    if loose:
        images = "1 image lies" if len(loose) == 1 else f"{len(loose)} images lie"
        reporter().line(
            f"{images} in {data} beside the folders {', '.join(shown(path.name) for path in found[:3])}"
            f"{' ...' if len(found) > 3 else ''} and in none of them: left out; the first is {shown(loose[0])}"
        )
    return found


def _by_column(table: RecordTable, column: str) -> dict[str, RecordTable]:
    known = list(dict.fromkeys(name for record in table.records for name in record.columns))
    if column not in known:
        raise DataError(
            f"--split-by {column}: there is no such column; there are {', '.join(map(shown, known)) or 'none'}"
        )
    sites: dict[str, list[Record]] = {}
    for record in table.records:
        site = record.columns.get(column, "").strip()
        if names_nobody(site):
            raise DataError(f"--split-by {column}: {table.place(record)}: {shown(record.file)} names no site")
        sites.setdefault(site, []).append(record)
    return {site: RecordTable(table.root, tuple(records), table.source) for site, records in sites.items()}


def _fraction(unit: str) -> float:
    """A number in [0, 1) that depends on the unit's name alone."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") / 2**64
