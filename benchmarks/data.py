"""Images per second of a site's data: reading, encoding, inverting; and what 100,000 images cost a node.

python benchmarks/data.py [--images 100000] [--keep FOLDER]

Reading stands beside one image at a time, encoding and inverting beside batches of one. The large site is prepared in
a process of its own with the tests' dummy base, so its memory is what the node needs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from report import Row, parser, publish

from undertone.data.images import load_image, read_images
from undertone.methods.protocol import UnitRecords
from undertone.methods.textual_inversion.dpagg_ti import DPAggTI, DPAggTIOptions
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin

ROOT = Path(__file__).parents[1]
LIMIT_MIB = 2048.0


def rate(count: int, work: Callable[[], object]) -> float:
    """`count` per second of wall time, the best of three."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    return count / min(times)


def write_pictures(folder: Path, side: int, ending: str, count: int) -> list[str]:
    """`count` files, eight different pictures of side x side."""
    folder.mkdir(parents=True)
    names = [f"{number:05d}.{ending}" for number in range(count)]
    for number, name in enumerate(names):
        if number >= 8:
            os.link(folder / names[number % 8], folder / name)
            continue
        rng = np.random.Generator(np.random.Philox(key=number))
        blocks = np.kron(rng.integers(0, 240, (8, 8, 3)), np.ones((side // 8, side // 8, 1)))
        Image.fromarray((blocks + rng.integers(0, 16, blocks.shape)).astype(np.uint8)).save(folder / name)
    return names


def reading(folder: Path) -> list[Row]:
    """Small and large files, decoded to the size of the base."""
    rows = []
    for side, ending, size, count in ((32, "png", 32, 4000), (1024, "jpg", 512, 64), (1024, "png", 512, 64)):
        here = folder / f"{side}-{ending}"
        names = write_pictures(here, side, ending, count)
        ours = rate(count, lambda here=here, names=names, size=size: list(read_images(here, names, size)))  # type: ignore[misc]
        peer = rate(count, lambda here=here, names=names, size=size: [load_image(here / name, size) for name in names])  # type: ignore[misc]
        rows.append(Row(f"reading {side} x {side} {ending}", "images per second", ours, peer, "one after the other"))
    return rows


def encoding(base: LoadedBase) -> Row:
    """The embedded base's autoencoder in the node's batches."""
    images = np.random.Generator(np.random.Philox(key=1)).integers(0, 256, (256, base.image_size, base.image_size, 3))
    pixels = images.astype(np.uint8)
    ours = rate(256, lambda: [base.encode(pixels[first : first + 16]) for first in range(0, 256, 16)])
    peer = rate(256, lambda: [base.encode(pixels[first : first + 1]) for first in range(256)])
    return Row("encoding, embedded:tiny", "images per second", ours, peer, "batches of one")


def inverting(base: LoadedBase, pinned: PinnedBase) -> Row:
    """Units of one image each, 20 steps, in the node's default batches of 32."""
    method = DPAggTI(DPAggTIOptions())
    start = method.initial_state(pinned)

    def units(count: int) -> list[UnitRecords]:
        latents = np.zeros((1, *base.latent_shape), dtype=np.float32)
        return [
            UnitRecords(latents, ("a <private>",), np.random.Generator(np.random.Philox(key=n))) for n in range(count)
        ]

    ours = rate(64, lambda: [method.rows(base, start, units(32), lambda _steps: None) for _ in range(2)])
    peer = rate(8, lambda: [method.rows(base, start, units(1), lambda _steps: None) for _ in range(8)])
    return Row("inverting, embedded:tiny, 20 steps", "images per second", ours, peer, "one unit at a time")


def large_site(folder: Path, images: int) -> list[Row]:
    """Peak memory and speed of a node with very many images."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.support.large", str(folder), str(images)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout.splitlines()[-1])
    if found["bad"] or not found["answered"]:
        sys.exit(f"the node did not answer; {folder / 'north' / 'node.log'} says why, with --keep")
    case = f"a site of {images} images"
    rows = [
        Row(case, "peak memory MiB", found["peak_mib"], LIMIT_MIB, "limit"),
        Row(case, "of it libraries, MiB", found["libraries_mib"], found["peak_mib"], "peak memory MiB"),
    ]
    seconds = found["seconds"]
    return rows + [
        Row(case, f"{name}, images per second", images / max(seconds[name], 0.01), images / seconds["check"], "check")
        for name in ("register", "prepare", "prepare again", "plain_input")
    ]


def main() -> None:
    """Measure, tabulate, and fail where the site does not fit."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--images", type=int, default=100_000)
    arguments.add_argument("--keep", type=Path, help="keep the files in this folder")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    root = chosen.keep or Path(tempfile.mkdtemp(prefix="undertone-data-"))
    pinned = pin("embedded:tiny")
    base = load_base(pinned)
    rows = [*reading(root / "pictures"), encoding(base), inverting(base, pinned)]
    rows += large_site(root / "site", chosen.images)
    publish("data at size", rows, chosen.json)
    if chosen.keep is None:
        shutil.rmtree(root)
    if any(row.metric == "peak memory MiB" and row.ours > LIMIT_MIB for row in rows):
        sys.exit("the site does not fit into 2 GB")


if __name__ == "__main__":
    main()
