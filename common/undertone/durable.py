"""Files that are written atomically and survive a power cut.

Behind the last byte of an array stands a seal, the SHA-256 of what was written; numpy ignores it. So a bit that flips
on a disk never becomes another sum, another noised value or another model unnoticed.
"""

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.canonical import Json
from undertone.errors import FolderError
from undertone.failpoints import reached

_SEAL_BYTES = 32


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn errors of files and disks within the context into `FolderError`; errors of a network pass.

    Raises:
        FolderError: a full disk, missing rights, a file where a folder should be.
    """
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        where, why = error.filename or folder, error.strerror or error
        raise FolderError(f"{where} cannot be used: {why}; make room or fix the rights, then resume") from None


@contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Hold the lock beside `folder`: within the context no other command on this machine creates or resumes it.

    Raises:
        FolderError: another process has it, or nothing can be written there.
    """
    place = folder.resolve()
    lock = place.with_name(f".{place.name}.lock")
    with storage_errors(folder):
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = _locked(lock)
    if stream is None:
        raise FolderError(f"another process is at work on {folder}; wait for it, or choose another --out")
    with stream:  # closing it gives the lock back, as the end of the process does
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(lock: Path) -> io.TextIOWrapper | None:
    """The lock's file, open and locked; None where another process holds the lock."""
    while True:
        stream = lock.open("w", encoding="ascii")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                return stream
        except BlockingIOError:
            stream.close()
            return None
        except FileNotFoundError:
            pass  # its holder removed it between the two calls: as below
        stream.close()  # the path now leads to another file, and that one is the lock


def part_of(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`; a crash in between leaves it there."""
    return path.with_name(path.name + ".part")


def write_durable(path: Path, data: bytes) -> None:
    """Write next to `path`, flush to disk, rename into place, flush the folder.

    Raises:
        FolderError: the disk is full or the folder cannot be written; `path` is then unchanged.
    """
    part = part_of(path)
    with storage_errors(path):
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            reached("durable/written")
            os.fsync(stream.fileno())
        reached("durable/synced")
        part.replace(path)
        reached("durable/renamed")
        sync(path.parent)


def write_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write a numpy array and its seal durably."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    data = stream.getvalue()
    write_durable(path, data + hashlib.sha256(data).digest())


def read_array(path: Path) -> NDArray[np.generic]:
    """Read what `write_array` wrote.

    Raises:
        FolderError: the file is missing or damaged.
    """
    sealed = read_bytes(path)
    data, seal = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
    if hashlib.sha256(data).digest() != seal:
        raise FolderError(f"{path} is damaged: it is not what was written there; restore it, then resume")
    try:
        array: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FolderError(f"{path} is not an array: {error}; restore it, then resume") from None
    return array


def read_json(path: Path) -> Json:
    """Read a JSON file.

    Raises:
        FolderError: the file is missing or damaged.
    """
    try:
        value: Json = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        raise FolderError(f"{path} is damaged: it is not JSON; restore it, then resume") from None
    return value


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        FolderError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror or error}; restore it, then resume") from None


def sync(path: Path) -> None:
    """Flush a file's content, or the renames within a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
