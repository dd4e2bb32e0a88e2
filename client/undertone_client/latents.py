"""Latents of a site's images, encoded once and kept on the site's disk.

A record that cannot be read after approval becomes NaN here and a zero row later (PRIVACY 17).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.canonical import Json, digest_of
from undertone.durable import read_array, write_array
from undertone.errors import DataError
from undertone.failpoints import reached
from undertone.models.base import LoadedBase
from undertone.models.pinned import PinnedBase
from undertone_client.images import load_image
from undertone_client.records import RecordTable

_BATCH = 16


def cached_latents(
    cache: Path,
    table: RecordTable,
    pinned: PinnedBase,
    base: LoadedBase,
    note: Callable[[str], None],
    progress: Callable[[int], None],
) -> NDArray[np.float32]:
    """Latents [records, c, h, w] float32 in the table's order; unreadable records are NaN."""
    path = cache / f"latents-{_key(table, pinned)[:16]}.npy"
    if path.is_file():
        progress(len(table.records))
        return read_array(path).astype(np.float32)
    latents = np.full((len(table.records), *base.latent_shape), np.nan, dtype=np.float32)
    for start in range(0, len(table.records), _BATCH):
        end = min(start + _BATCH, len(table.records))
        # Every batch has the same shape, so that no image can move another's latents (see slots.py).
        pixels = np.zeros((_BATCH, base.image_size, base.image_size, 3), dtype=np.uint8)
        readable = _read_into(pixels, table, start, end, note)
        latents[start:end][readable] = base.encode(pixels)[: end - start][readable]
        progress(end - start)
    reached("latents/computed")
    write_array(path, latents)
    reached("latents/durable")
    return latents


def _read_into(
    pixels: NDArray[np.uint8], table: RecordTable, start: int, end: int, note: Callable[[str], None]
) -> NDArray[np.bool_]:
    """Records start..end into the first places of `pixels`; which of them could be read."""
    readable = np.zeros(end - start, dtype=np.bool_)
    for place, record in enumerate(table.records[start:end]):
        try:
            pixels[place] = load_image(table.root / record.file, pixels.shape[1])
            readable[place] = True
        except DataError as error:
            note(f"zero row: {error}")
    return readable


def _key(table: RecordTable, pinned: PinnedBase) -> str:
    """Changes with the autoencoder, the size of the images, or any file's name, length or time."""
    files: list[Json] = [[record.file, *_stat(table.root / record.file)] for record in table.records]
    vae: list[Json] = [[name, digest] for name, digest in pinned.files.items() if name.startswith("vae/")]
    return digest_of([vae, pinned.image_size, files])


def _stat(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return [-1, -1]
    return [found.st_size, found.st_mtime_ns]
