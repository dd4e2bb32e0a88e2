"""Five hospitals of unequal size, made of one folder of images: each gets a folder of its own people."""

import csv
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from undertone.core.unit import Unit
from undertone.data.records import Record, read_records
from undertone.errors import DataError
from undertone_client.site.published import step_of

SHARES: Mapping[str, float] = {"north": 0.30, "east": 0.25, "south": 0.20, "west": 0.15, "coast": 0.10}
PATIENT = "patient_id"
CAPTION = "a {token}"


@dataclass(frozen=True)
class Hospital:
    """One hospital's images, and the round figure that it publishes."""

    name: str
    images: Path
    published: int


def make_hospitals(data: Path, folder: Path) -> tuple[Unit, list[Hospital]]:
    """Copy each unit's images to one hospital.

    Args:
        data: an imagefolder whose metadata.csv has a column `patient_id`; without that column a unit is an image.
        folder: where the hospitals' folders are made.

    Raises:
        DataError: a hospital would have nobody.
    """
    with (data / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        patients = PATIENT in (csv.DictReader(stream).fieldnames or ())
    unit: Unit = "patient" if patients else "record"
    table = read_records(data, unit, PATIENT if patients else None, CAPTION)
    shares: dict[str, list[Record]] = {name: [] for name in SHARES}
    for record in table.records:
        shares[_hospital_of(record.unit)].append(record)
    return unit, [_write(data, folder / name, name, records, patients) for name, records in shares.items()]


def _hospital_of(unit: str) -> str:
    """By hash, so that all of a person's images are at one."""
    place = int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") / 2**64
    ends = zip(SHARES, accumulate(SHARES.values()), strict=True)
    return next((name for name, end in ends if place < end), list(SHARES)[-1])


def _write(data: Path, folder: Path, name: str, records: list[Record], patients: bool) -> Hospital:
    if not records:
        raise DataError(f"{data} has too few people for {len(SHARES)} hospitals: none would be at {name}")
    (folder / "images").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", *([PATIENT] if patients else [])])
        for number, record in enumerate(records):
            file = f"images/{number:04d}{Path(record.file).suffix}"
            shutil.copyfile(data / record.file, folder / file)
            writer.writerow([file, *([record.unit] if patients else [])])
    units = len({record.unit for record in records})
    return Hospital(name, folder, units - units % step_of(units))
