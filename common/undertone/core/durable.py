"""Files that are written atomically and survive a power cut.

Behind the last byte of an array stands a seal, the SHA-256 of what was written; numpy ignores it. So a bit that flips
on a disk never becomes another sum, another noised value or another model unnoticed.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import Json
from undertone.core.failpoints import reached
from undertone.errors import FolderError

_SEAL_BYTES = 32
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


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
    """Within, no other command on this machine makes `folder` or goes on with it.

    Two things are locked: a file beside the folder, and the folder itself where it exists. Whoever may not write
    beside it locks that file only where it is there, and must have the folder. So any two meet: a folder is there when
    the second of them begins, or the first holds the file from before it was.

    Raises:
        FolderError: another process has it, or nothing can be written there.
    """
    place = folder.resolve()
    lock = place.with_name(f".{place.name}.lock")
    with ExitStack() as held:
        with storage_errors(folder):
            _hold(held, lock, place)
        yield


class _Busy(Exception):
    """Another process holds a lock."""


def _hold(held: ExitStack, lock: Path, place: Path) -> None:
    """Hold both locks until `held` is closed, as the end of the process does too."""
    try:
        refused: OSError | None = None
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(_locked(lock, "w"))
            held.callback(lock.unlink, missing_ok=True)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            refused = error
        if not place.is_dir():
            if refused is not None:
                raise refused
            return
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _Busy from None
        except OSError:
            # Where folders cannot be locked (NFS), whoever depends on that stops; the file is enough for the rest.
            if refused is not None:
                raise
        if refused is not None:  # after the folder: whoever locked the file before there was one still has it
            with suppress(FileNotFoundError):
                held.enter_context(_locked(lock, "r"))
    except _Busy:
        raise FolderError(f"another process is at work on {place}; wait for it, or choose another folder") from None


def _locked(lock: Path, mode: Literal["r", "w"]) -> io.TextIOWrapper:
    """The lock's file, held; in mode "r" it must be there.

    Raises:
        _Busy: another process holds it.
    """
    while True:
        stream = lock.open(mode, encoding="ascii")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                return stream
        except BlockingIOError:
            stream.close()
            raise _Busy from None
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
