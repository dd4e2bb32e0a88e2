"""Folders of small drawn images with metadata, and the ways in which such a folder can be wrong."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(number: int, size: int) -> NDArray[np.uint8]:
    """Image `number`: random 4 x 4 blocks, so that it is a picture and not noise; the same every time."""
    blocks = np.random.Generator(np.random.Philox(key=number)).integers(0, 256, (size // 4, size // 4, 3))
    return np.kron(blocks, np.ones((4, 4, 1))).astype(np.uint8)


def write_images(folder: Path, count: int, size: int = 8, first: int = 0) -> list[str]:
    """`count` PNGs under folder/images; returns their names relative to the folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/scan-{number:04d}.png" for number in range(first, first + count)]
    for number, name in enumerate(names, first):
        Image.fromarray(pixels(number, size)).save(folder / name)
    return names


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A metadata.csv with the columns of the first row."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_folder(
    folder: Path, count: int, size: int = 8, first: int = 0, sites: Sequence[str] = (), per_patient: int = 2
) -> list[dict[str, str]]:
    """An imagefolder with patients (`per_patient` images each), findings and, if given, sites in turn."""
    names = write_images(folder, count, size, first)
    rows = []
    for index, name in enumerate(names):
        patient = index // per_patient
        row = {"file_name": name, "patient_id": f"patient-{first + patient}", "finding": ["clear", "mass"][patient % 2]}
        if sites:
            row["site"] = sites[patient % len(sites)]
        rows.append(row)
    write_csv(folder / "metadata.csv", rows)
    return rows
