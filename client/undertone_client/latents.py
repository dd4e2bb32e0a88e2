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
from undertone.models.base import LoadedBase
from undertone.models.pinned import PinnedBase
from undertone_client.images import load_image
from undertone_client.records import RecordTable

_BATCH = 64


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
        found = _readable(table, start, base.image_size, note)
        if found:
            latents[list(found)] = base.encode(np.stack(list(found.values())))
        progress(min(_BATCH, len(table.records) - start))
    write_array(path, latents)
    return latents


def _readable(table: RecordTable, start: int, size: int, note: Callable[[str], None]) -> dict[int, NDArray[np.uint8]]:
    found: dict[int, NDArray[np.uint8]] = {}
    for index in range(start, min(start + _BATCH, len(table.records))):
        try:
            found[index] = load_image(table.root / table.records[index].file, size)
        except DataError as error:
            note(f"zero row: {error}")
    return found


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
