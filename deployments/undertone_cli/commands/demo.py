"""`undertone demo`: the main job on real images, from nothing to a verified release."""

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
from PIL import Image

from undertone.core.durable import exclusively
from undertone.core.keys import public_hex
from undertone.core.progress import reporting
from undertone.errors import FolderError
from undertone.release.verify import verify
from undertone_cli.commands.simulate import show_result, simulate
from undertone_cli.console import Bars, out, resumable, table
from undertone_server.run_folder import RunFolder, refuse_existing

IMAGES = 600
SITES = {"north": 0.42, "east": 0.28, "south": 0.18, "west": 0.12}
STUDY = Path(__file__).with_name("demo.toml")


def write_digits(folder: Path, shares: Mapping[str, float] = SITES) -> None:
    """Write 600 of scikit-learn's 8x8 digit scans (UCI, real handwriting) as a folder for each site of `shares`."""
    from sklearn.datasets import load_digits  # an extra: only the demo needs it

    digits = load_digits()
    ends = np.cumsum([round(IMAGES * share) for share in shares.values()])
    for site, start, end in zip(shares, [0, *ends[:-1]], ends, strict=True):
        (folder / site / "images").mkdir(parents=True)
        with (folder / site / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file_name", "digit"])
            for index in range(start, end):
                pixels = (digits.images[index] * 255 / 16).round().astype(np.uint8)
                name = f"images/{index:04d}.png"
                Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(folder / site / name)
                writer.writerow([name, digits.target[index]])


def demo(folder: Path) -> dict[str, float]:
    """Run the demo in a new folder; return the distances it prints.

    Raises:
        UndertoneError: see `simulate`.
    """
    with exclusively(folder):
        return _demo(folder)


def _demo(folder: Path) -> dict[str, float]:
    refuse_existing(folder)
    try:
        folder.mkdir(parents=True)
        write_digits(folder / "data")
    except OSError as error:
        raise FolderError(f"{folder} cannot be written: {error.strerror}; choose another --out") from None
    study = folder / "study.toml"
    shutil.copyfile(STUDY, study)
    release = simulate(study, folder / "data", folder / "run", holdout=0.3)
    verify(release, public_hex(RunFolder(folder / "run").key()))
    from undertone_cli.diagnostics import diagnostics_of  # torch: not before the first progress line

    return diagnostics_of(folder / "run")


@click.command("demo")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="A new folder for everything.")
def command(folder: Path) -> None:
    """Four sites adapt one model to 600 real handwritten digits at epsilon 4, and the release is verified.

    The folder holds what you would write yourself: data/ with one imagefolder for each site, study.toml, and run/
    with the release.
    """
    again = ["undertone", "simulate", str(folder / "study.toml"), "--out", str(folder / "run"), "--resume"]
    with resumable(folder / "run", again), Bars() as bars, reporting(bars):
        distances = demo(folder)
    from undertone_cli.diagnostics import LABEL  # torch

    table(
        "distance (KID) from generated images to held-out private ones",
        ["", "KID"],
        [(name, f"{value:.3f}") for name, value in distances.items()],
    )
    out.print(LABEL, style="italic")
    show_result(folder / "run", folder / "run" / "release")
