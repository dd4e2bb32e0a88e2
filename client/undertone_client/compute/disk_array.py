"""A .npy file that is read and written in places.

It is not memory-mapped: under a map a full disk or a file that was cut short kills the process (SIGBUS), and
the pages that were touched count as resident memory. numpy can still open it with `mmap_mode`.
"""

import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from undertone.core.durable import part_of, sync
from undertone.errors import FolderError

# What numpy says of a header that is none: it reads it as Python.
_NO_HEADER = (ValueError, SyntaxError, TokenError)


class DiskArray:
    """An array [n, ...] on disk, zeros when it is made; items are addressed by their first index."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path, self.shape = path, shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._item = self.dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        try:
            offset = self._offset_if_good()
            self._offset = self._create() if offset is None else offset
        except OSError as error:
            raise self._cannot("opened", error) from None

    @classmethod
    def found(cls, path: Path) -> "DiskArray":
        """The array that is there, whatever its shape.

        Raises:
            FolderError: the file is no array.
        """
        try:
            with path.open("rb") as stream:
                npy.read_magic(stream)
                shape, _, dtype = npy.read_array_header_1_0(stream)
        except (OSError, *_NO_HEADER) as error:
            raise FolderError(f"{path} cannot be read: {error}; delete it, it is made anew") from None
        return cls(path, shape, dtype)

    def read(self, indices: Sequence[int] | NDArray[np.intp]) -> NDArray[Any]:
        """The items at `indices`, [k, ...].

        Raises:
            FolderError: the file cannot be read, or has become too short.
        """
        try:
            with self.path.open("rb", buffering=0) as stream:
                data = b"".join(self._items_at(stream, first, count) for first, count in _runs(indices))
        except OSError as error:
            raise self._cannot("read", error) from None
        if len(data) != self._item * len(indices):
            raise FolderError(f"{self.path} is too short; delete it, it is made anew")
        return np.frombuffer(data, dtype=self.dtype).reshape(-1, *self.shape[1:]).copy()

    def write(self, indices: Sequence[int] | NDArray[np.intp], values: NDArray[Any]) -> None:
        """Put `values` [k, ...] at `indices`; durable after `sync`.

        Raises:
            FolderError: the disk is full.
        """
        try:
            with self.path.open("r+b") as stream:
                done = 0
                for first, count in _runs(indices):
                    stream.seek(self._offset + first * self._item)
                    stream.write(values[done : done + count].astype(self.dtype).tobytes())
                    done += count
        except OSError as error:
            raise self._cannot("written", error) from None

    def sync(self) -> None:
        """Flush to disk."""
        with self.path.open("r+b") as stream:
            os.fsync(stream.fileno())

    def _items_at(self, stream: FileIO, first: int, count: int) -> bytes:
        stream.seek(self._offset + first * self._item)
        parts, missing = [], count * self._item
        while missing and (part := stream.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _offset_if_good(self) -> int | None:
        """Where the items begin; None where the file is not there or is another array's."""
        if not self.path.exists():
            return None
        with self.path.open("rb") as stream:
            try:
                npy.read_magic(stream)
                shape, _, dtype = npy.read_array_header_1_0(stream)
            except _NO_HEADER:
                return None
            offset = stream.tell()
        whole = self.path.stat().st_size == offset + self._item * self.shape[0]
        return offset if whole and shape == self.shape and dtype == self.dtype else None

    def _create(self) -> int:
        part = part_of(self.path)
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        with part.open("wb") as stream:
            npy.write_array_header_1_0(stream, header)
            offset = stream.tell()
            stream.truncate(offset + self._item * self.shape[0])
            os.fsync(stream.fileno())
        part.replace(self.path)
        sync(self.path.parent)
        return offset

    def _cannot(self, what: str, error: OSError) -> FolderError:
        return FolderError(f"{self.path} cannot be {what}: {error.strerror or error}; make room or fix the rights")


def _runs(indices: Sequence[int] | NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """(first, count) of each run of indices that follow each other."""
    listed = np.asarray(indices, dtype=np.intp)
    for run in np.split(listed, np.flatnonzero(np.diff(listed) != 1) + 1):
        if len(run):
            yield int(run[0]), len(run)
