"""Files that are either wholly there or not at all, and stay there after a power cut."""

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.errors import FolderError
from undertone.failpoints import reached


def write_durable(path: Path, data: bytes) -> None:
    """Write next to `path`, flush to disk, rename into place, flush the folder.

    Raises:
        FolderError: the disk is full or the folder cannot be written; nothing is left half done.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            reached("durable/written")
            os.fsync(stream.fileno())
        reached("durable/synced")
        part.replace(path)
        reached("durable/renamed")
        sync_folder(path.parent)
    except OSError as error:
        raise FolderError(
            f"{path} cannot be written: {error.strerror}; make room or fix the rights, then resume"
        ) from None


def write_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write a numpy array durably."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_durable(path, stream.getvalue())


def read_array(path: Path) -> NDArray[np.generic]:
    """Read what `write_array` wrote.

    Raises:
        FolderError: the file is missing or damaged.
    """
    try:
        array: NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from None
    return array


def sync_folder(folder: Path) -> None:
    """Make renames within a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
