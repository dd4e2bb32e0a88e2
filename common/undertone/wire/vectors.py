"""Vectors as they arrive: bytes in numpy's file format, checked before an array is made of them.

`numpy.load` trusts the header: a header of 100 bytes can ask for terabytes, for objects or for an archive. Here the
header must be the one that `numpy.save` writes for the vector that is due, and exactly that vector's bytes must follow.
"""

import io
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from undertone.errors import ProtocolError

_STYPE = "numpy.ndarray"
_ALIGNED = 64
LARGEST_HEADER = 512
# Format version 1.0 (numpy.lib.format), one dimension; at most 10 digits, and a longer vector is never due.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<size>..)"
    rb"\{'descr': '(?P<descr>[<|][uf][124])', 'fortran_order': False, 'shape': \((?P<length>[0-9]{1,10}),\), \} *\n",
    re.DOTALL,
)
_ScalarT = TypeVar("_ScalarT", bound=np.generic)


@dataclass(frozen=True)
class Packed:
    """A vector that has not been read: what its sender claims about it, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: bytes = field(repr=False)

    def read(self, dtype: type[_ScalarT], length: int) -> NDArray[_ScalarT]:
        """The vector [length] of `dtype` that is due; no copy is made, so it is read-only.

        Raises:
            ProtocolError: it is another vector, or none.
        """
        name = np.dtype(dtype).name
        if (self.dtype, self.shape, self.stype) != (name, (length,), _STYPE):
            raise ProtocolError(f"a vector is not said to be {length} values of {name}")
        return read_vector(self.data, dtype, length)


def packed(vector: NDArray[Any]) -> Packed:
    """A vector as it travels."""
    file = io.BytesIO()
    np.save(file, vector, allow_pickle=False)
    return Packed(vector.dtype.name, vector.shape, _STYPE, file.getvalue())


def read_vector(data: bytes, dtype: type[_ScalarT], length: int) -> NDArray[_ScalarT]:
    """[length] of `dtype` from the bytes of an npy file; no copy is made, so it is read-only.

    Raises:
        ProtocolError: the header is not that vector's, or bytes are missing or follow.
    """
    little = np.dtype(dtype).newbyteorder("<")
    start = _after_header(data, little, length)
    if len(data) != start + length * little.itemsize:
        raise ProtocolError(f"a vector of {length} values has too few bytes, or bytes behind it")
    if length == 0:
        return np.zeros(0, dtype=dtype)
    values: NDArray[Any] = np.frombuffer(data, dtype=little, count=length, offset=start)
    return values.astype(dtype, copy=False)


def _after_header(data: bytes, dtype: "np.dtype[Any]", length: int) -> int:
    """Where the values begin."""
    found = _HEADER.match(data[:LARGEST_HEADER])
    if not found or (found["descr"], found["length"]) != (dtype.str.encode(), str(length).encode()):
        raise ProtocolError(f"the header of a vector is not that of {length} values of {dtype.name}")
    if found.end() % _ALIGNED or int.from_bytes(found["size"], "little") != found.end() - found.start("size") - 2:
        raise ProtocolError("the header of a vector does not say its own length")
    return found.end()
