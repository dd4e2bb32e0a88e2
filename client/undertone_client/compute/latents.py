"""Latents of a site's images, encoded once and kept on the site's disk.

    NAME/latents-<records>-<model>.npy        [records, c, h, w] float32
    NAME/latents-<records>-<model>.seals.npy  for each record its file's length and time, and a digest of both and of
                                              its latents

NAME is the data set's. The one key is a digest of the records' names and bytes, the other of the autoencoder and the
size. Each record is sealed by itself: a file that was touched, latents that were damaged or made by other arithmetic,
or a write that a kill cut short leave a seal that does not fit, and that record alone is encoded anew, if its file
still holds the bytes that were registered. So nothing is lost by stopping, and nothing need be flushed in any order. A
record that cannot be read is not sealed and becomes a zero row (PRIVACY 17).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import Json, digest_of
from undertone.core.failpoints import reached
from undertone.data.images import read_images
from undertone.data.records import RecordTable, moved
from undertone.errors import DataError
from undertone.models.base import LoadedBase
from undertone.models.pinned import PinnedBase
from undertone.privacy.unit_randomness import row_generator
from undertone_client.compute.disk_array import DiskArray
from undertone_client.compute.latent_files import stem_of

_BATCH = 16
_DECODER = "images/2"  # another word where `images.py` makes other pixels of the same file
_VERIFIED_AT_ONCE = 1 << 24  # bytes
_SIZE, _DIGEST = 0, slice(2, 4)  # a seal: length, time in ns, 16 bytes of SHA-256 as two numbers
Seals = NDArray[np.int64]
Log = Callable[[str], None]
_measured: WeakKeyDictionary[LoadedBase, dict[str, int]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Latents:
    """What is on disk of a table's records; `readable` [records] says which have latents."""

    array: DiskArray
    readable: NDArray[np.bool_]

    def of(self, positions: list[int]) -> NDArray[np.float32]:
        """Latents [k, c, h, w] of readable records."""
        return self.array.read(positions).astype(np.float32)


def cached_latents(
    cache: Path,
    table: RecordTable,
    present: NDArray[np.bool_],
    needed: NDArray[np.bool_],
    pinned: PinnedBase,
    base: LoadedBase,
    log: Log,
    progress: Callable[[int], None],
) -> Latents:
    """Bring the cache up to date and return it.

    Args:
        cache: the site's cache folder.
        table: the registered records.
        present: [records], the others are not looked at.
        needed: [records], those whose latents are checked against their digests; of the rest only file times.
        pinned: whose autoencoder it is.
        base: that autoencoder in memory.
        log: told of each record that cannot be read.
        progress: told how many records are done.

    Raises:
        FolderError: the cache cannot be read or written.
    """
    at_once = _images_at_once(base, log)
    # Which images were encoded when depends on how many there are: none may keep what other arithmetic made of it.
    made_by = f"{base.arithmetic}, {at_once} at once".encode()
    present = _without_moved(table, present, log)
    name = f"{stem_of(table)}-{_model_key(pinned)[:16]}"
    latents = DiskArray(cache / f"{name}.npy", (len(table.records), *base.latent_shape), "<f4")
    seals = DiskArray(cache / f"{name}.seals.npy", (len(table.records), 4), "<i8")
    wanted, kept = _stamps(table, present), seals.read(range(len(table.records)))
    good = present & (wanted[:, _SIZE] >= 0) & (wanted[:, :2] == kept[:, :2]).all(axis=1)
    _check_digests(latents, kept, made_by, good, np.flatnonzero(good & needed))
    todo = np.flatnonzero(present & ~good)
    progress(len(good) - len(todo))
    bytes_of = {table.records[index].file: table.records[index].sha256 for index in todo}
    images = read_images(table.root, list(bytes_of), base.image_size, bytes_of)
    for batch in np.split(todo, range(at_once, len(todo), at_once)):
        found, encoded = _encode(base, images, batch, at_once, log)
        reached("latents/computed")
        latents.write(found, encoded)
        seals.write(found, _sealed(wanted[found], made_by, found, encoded))
        good[found] = True
        progress(len(batch))
    if len(todo):
        latents.sync()
        seals.sync()
        reached("latents/durable")
    return Latents(latents, good)


def _images_at_once(base: LoadedBase, log: Log) -> int:
    """A batch of images, or one image where the device does not keep a batch's images apart, by random ones.

    Which images share a batch, and in which places, depends on which are new: one record more pushes those behind it to
    other places. Measured once for each base in memory, on processors too: with three threads and more the place of an
    image can decide how its sums are split between them.
    """
    measured = _measured.setdefault(base, {})
    if base.arithmetic not in measured:
        shape = (_BATCH + 1, base.image_size, base.image_size, 3)
        pixels = row_generator(hashlib.sha256(b"undertone/encoder").digest()).integers(0, 256, shape, dtype=np.uint8)
        # Each image one place further, behind a stranger: equal for all means that all places are alike.
        first, second = base.encode(pixels[1:]), base.encode(pixels[:_BATCH])
        apart = np.array_equal(first[:-1], second[1:], equal_nan=True)
        measured[base.arithmetic] = _BATCH if apart else 1
        if not apart:
            log(f"{base.arithmetic}: one image at a time, since latents would change with an image's place in a batch")
    return measured[base.arithmetic]


def _encode(
    base: LoadedBase, images: Iterator[NDArray[np.uint8] | DataError], batch: NDArray[np.intp], at_once: int, log: Log
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The positions of a batch whose images could be read, and their latents."""
    # Every batch has the same shape, so that no image can move another's latents (see padding.py).
    pixels = np.zeros((at_once, base.image_size, base.image_size, 3), dtype=np.uint8)
    readable = np.zeros(at_once, dtype=np.bool_)
    for place, image in enumerate(islice(images, len(batch))):
        if isinstance(image, DataError):
            log(f"zero row: {image}")
        else:
            pixels[place], readable[place] = image, True
    if not readable.any():
        return batch[:0], np.zeros((0, *base.latent_shape), dtype=np.float32)
    encoded = base.encode(pixels)
    readable &= np.isfinite(encoded).all(axis=(1, 2, 3))
    return batch[readable[: len(batch)]], encoded[readable]


def _without_moved(table: RecordTable, present: NDArray[np.bool_], log: Log) -> NDArray[np.bool_]:
    """`present` without records whose link leads elsewhere than when they were registered: zero rows (PRIVACY 17)."""
    kept = present.copy()
    for index in moved(table):
        if kept[index]:
            log(f"zero row: {table.root / table.records[index].file} leads to another file than when it was registered")
        kept[index] = False
    return kept


def _stamps(table: RecordTable, present: NDArray[np.bool_]) -> Seals:
    """Each file's length and time now, [records, 4] without digest; length -1 where there is no file to look at."""
    stamps = np.zeros((len(table.records), 4), dtype=np.int64)
    stamps[:, _SIZE] = -1
    root = os.fspath(table.root)
    for index in np.flatnonzero(present):
        try:
            found = os.stat(os.path.join(root, table.records[index].file))
        except (OSError, ValueError):
            continue
        stamps[index, :2] = found.st_size, found.st_mtime_ns
    return stamps


def _check_digests(
    latents: DiskArray, kept: Seals, made_by: bytes, good: NDArray[np.bool_], positions: NDArray[np.intp]
) -> None:
    """Clear `good` where the latents on disk are not those that were sealed, by this arithmetic."""
    size = max(_VERIFIED_AT_ONCE // max(4 * int(np.prod(latents.shape[1:])), 1), 1)
    for block in np.split(positions, range(size, len(positions), size)):
        good[block] = (_sealed(kept[block], made_by, block, latents.read(block)) == kept[block]).all(axis=1)


def _sealed(stamps: Seals, made_by: bytes, positions: NDArray[np.intp], latents: NDArray[np.float32]) -> Seals:
    """`stamps` [k, 4] with the digest of each record's position, stamp, arithmetic and latents [k, c, h, w]."""
    seals = stamps.copy()
    for place, (index, values) in enumerate(zip(positions, latents.astype("<f4", copy=False), strict=True)):
        stamp = np.array([index, *seals[place, :2]], dtype="<i8")
        digest = hashlib.sha256(stamp.tobytes() + values.tobytes() + made_by).digest()[:16]
        seals[place, _DIGEST] = np.frombuffer(digest, dtype="<i8")
    return seals


def _model_key(pinned: PinnedBase) -> str:
    """Changes with how images are decoded, the autoencoder, or the size of the images."""
    folder = f"{pinned.folder_of('vae')}/"
    vae: list[Json] = [[name, digest] for name, digest in pinned.files.items() if name.startswith(folder)]
    # Without an autoencoder there are pixels, of one channel or of three.
    seen: list[Json] = [] if vae else [pinned.config("unet").get("in_channels")]
    return digest_of([_DECODER, vae, pinned.image_size, *seen])
