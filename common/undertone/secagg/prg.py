"""The mask kernel: AES-256-CTR keystreams added to a vector in place, and the 24-bit wire.

`PRG(key)` is the keystream of AES-256 in counter mode, counter block 0 first, read as little-endian
32-bit words (docs/secure-aggregation.md, 4; Bonawitz et al., CCS 2017, section 4). Its key is used for
one pair of sites in one session, so starting at counter 0 repeats nothing. All 2^32 values of a word
are used as they come: no rejection and no modulo bias.

The vector is walked through once, in chunks that stay in cache; for each chunk every keystream writes into one
buffer and is added at once. So memory beyond the vector is two chunks, whatever d and n are.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from undertone.errors import MechanismViolation

KEY_BYTES = 32
_BLOCK_BYTES = 16
_BLOCK_WORDS = 4
_WORD = np.dtype("<u4")
# Measured from 8 KiB to 4 MiB: below 64 KiB the calls cost more than the cipher, above 1 MiB chunk and buffer
# leave the second-level cache. From 128 KiB to 1 MiB the rate differs by less than one part in twenty.
_CHUNK_BYTES = 1 << 18
_ZEROS = memoryview(bytes(_CHUNK_BYTES))
_LINE_BYTES = 64
# Below 2 MiB the thread costs more than it takes off (measured at 400 kB).
_WORDS_WORTH_A_THREAD = 1 << 19
_PACKED_BYTES = 3


def add_masks(
    accumulator: NDArray[np.uint32],
    plus: Sequence[bytes],
    minus: Sequence[bytes],
    *,
    chunk_bytes: int = _CHUNK_BYTES,
    finished: Callable[[NDArray[np.uint32]], None] | None = None,
) -> None:
    """Add PRG(k) for each key in `plus` and subtract it for each in `minus`, modulo 2^32, in place.

    One thread: the cipher holds Python's lock, and a second thread was measured to gain nothing.

    Args:
        accumulator: [d] uint32, contiguous, d >= 0.
        plus: keys of 32 bytes.
        minus: keys of 32 bytes.
        chunk_bytes: how much of the vector is worked on at a time, a multiple of 16. It changes the
            time, never the result.
        finished: called with each chunk, in order, once every mask is in it; what it does to a chunk stays.

    Raises:
        MechanismViolation: the accumulator, a key or an option is not what is said here. The
            accumulator is then unchanged.
    """
    _check_accumulator(accumulator)
    _check_keys([*plus, *minus])
    if chunk_bytes < _BLOCK_BYTES or chunk_bytes % _BLOCK_BYTES:
        raise MechanismViolation(f"chunk_bytes {chunk_bytes} is not a positive multiple of {_BLOCK_BYTES}")
    signed = [(np.add, _keystream(key, 0)) for key in plus] + [(np.subtract, _keystream(key, 0)) for key in minus]
    size = min(chunk_bytes, accumulator.nbytes)
    zeros = _ZEROS[:size] if size <= len(_ZEROS) else memoryview(bytes(size))
    # `update_into` wants a block less one byte to spare, though a stream never fills it.
    buffer = _aligned(size + _BLOCK_BYTES)
    mask = buffer[:size].view(_WORD)
    for start in range(0, accumulator.size, max(mask.size, 1)):
        piece = accumulator[start : start + mask.size]
        plain, words = zeros[: piece.nbytes], mask[: piece.size]
        for combine, stream in signed:
            stream.update_into(plain, buffer.data)
            combine(piece, words, out=piece)
        if finished is not None:
            finished(piece)


class WordsDigest:
    """`sealing.words_digest` of a vector that comes in pieces, computed behind the caller's back.

    Hashing lets go of Python's lock and the cipher does not, so one thread hashes what the other has masked.
    A piece must stay as it is until `digest` has answered. A short vector is not worth the thread.
    """

    def __init__(self, size: int) -> None:
        """`size`: how many words will come."""
        self._hash = hashlib.sha256()
        self._behind = ThreadPoolExecutor(1) if size >= _WORDS_WORTH_A_THREAD else None

    def update(self, piece: NDArray[np.uint32]) -> None:
        """The next words."""
        data = np.ascontiguousarray(piece, dtype="<u4").data
        if self._behind is None:
            self._hash.update(data)
        else:
            self._behind.submit(self._hash.update, data)

    def digest(self) -> bytes:
        """Of all the words that came; 32 bytes."""
        if self._behind is not None:
            self._behind.shutdown()
        return self._hash.digest()


def words_at(key: bytes, offset: int, count: int) -> NDArray[np.uint32]:
    """Words offset, offset + 1, ... of PRG(key): [count] uint32, without computing those before.

    Raises:
        MechanismViolation: a key that is not 32 bytes, or a negative offset or count.
    """
    _check_keys([key])
    if offset < 0 or count < 0:
        raise MechanismViolation(f"words {offset} to {offset} + {count} of a mask do not exist; both must be >= 0")
    skipped = offset % _BLOCK_WORDS
    stream = _keystream(key, offset - skipped).update(bytes((skipped + count) * _WORD.itemsize))
    return np.frombuffer(stream, dtype=_WORD)[skipped:].astype(np.uint32)


def pack24(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The three low bytes of each word: [d] uint32 -> [3d] uint8, word by word, low byte first.

    2^24 divides 2^32, so a masked word cut to 24 bits opens to the sum modulo 2^24. Nothing else is lost.

    Raises:
        MechanismViolation: not a contiguous vector of uint32.
    """
    _check_vector(words)
    source = words.astype(_WORD, copy=False).view(np.uint8)
    packed = np.empty(_PACKED_BYTES * words.size, dtype=np.uint8)
    for start, end in _blocks(words.size):
        for byte in range(_PACKED_BYTES):
            packed[3 * start + byte : 3 * end : 3] = source[4 * start + byte : 4 * end : 4]
    return packed


def unpack24(packed: bytes | NDArray[np.uint8]) -> NDArray[np.uint32]:
    """What `pack24` packed, modulo 2^24: 3d bytes -> [d] uint32, each below 2^24.

    Raises:
        MechanismViolation: neither bytes nor a contiguous vector of uint8, or not three bytes for each word.
    """
    source = np.frombuffer(packed, dtype=np.uint8) if isinstance(packed, bytes) else packed
    if not (isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim == 1):
        raise MechanismViolation("a packed vector must be bytes or a vector of uint8")
    if source.size % _PACKED_BYTES:
        raise MechanismViolation(f"a packed vector of {source.size} bytes is not 3 bytes for each word")
    words = np.zeros(source.size // _PACKED_BYTES, dtype=_WORD)
    target = words.view(np.uint8)
    for start, end in _blocks(words.size):
        for byte in range(_PACKED_BYTES):
            target[4 * start + byte : 4 * end : 4] = source[3 * start + byte : 3 * end : 3]
    return words.astype(np.uint32, copy=False)


def _keystream(key: bytes, word: int) -> CipherContext:
    """A cipher whose next output is word `word`, a multiple of 4, of PRG(key)."""
    counter = (word // _BLOCK_WORDS).to_bytes(_BLOCK_BYTES, "big")
    return Cipher(AES(key), CTR(counter)).encryptor()


def _aligned(size: int) -> NDArray[np.uint8]:
    """An array of `size` bytes at the start of a cache line: a misaligned one costs a tenth of the rate."""
    raw = np.empty(size + _LINE_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % _LINE_BYTES
    return raw[start : start + size]


def _blocks(size: int) -> list[tuple[int, int]]:
    """(start, end) of each cache-sized block of `size` words."""
    step = _CHUNK_BYTES // _WORD.itemsize
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _check_accumulator(accumulator: NDArray[np.uint32]) -> None:
    """Raise MechanismViolation unless masks can be added to it in place."""
    _check_vector(accumulator)
    if not accumulator.flags.writeable:
        raise MechanismViolation("masks are added in place; give a vector that may be written to")


def _check_vector(words: NDArray[np.uint32]) -> None:
    """Raise MechanismViolation unless it is a contiguous vector of uint32."""
    if not (isinstance(words, np.ndarray) and words.dtype == np.uint32 and words.ndim == 1):
        raise MechanismViolation("a masked vector is a numpy vector of uint32; convert it with `to_ring`")
    if not words.flags.c_contiguous:
        raise MechanismViolation("a masked vector is contiguous; copy it first")


def _check_keys(keys: Sequence[bytes]) -> None:
    """Raise MechanismViolation unless each is 32 bytes."""
    if any(not isinstance(key, bytes) or len(key) != KEY_BYTES for key in keys):
        raise MechanismViolation(f"each mask key is {KEY_BYTES} bytes; a shorter one would be a guessable mask")
