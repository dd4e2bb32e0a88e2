"""The mask kernel: AES-256-CTR keystreams added to a vector in place, and the 24-bit wire.

`PRG(key)` is the keystream of AES-256 in counter mode, counter block 0 first, read as little-endian
32-bit words (docs/secure-aggregation.md, section 4; Bonawitz et al., CCS 2017, section 4). Its key is used for
one pair of sites in one session, so starting at counter 0 repeats nothing. All 2^32 values of a word
are used as they come: no rejection and no modulo bias.

The vector is walked through once, in chunks that stay in cache; for each chunk every keystream writes into one
buffer and is added at once. So memory beyond the vector is two chunks per thread, whatever d and n are.
"""

import os
import sys
from collections.abc import Sequence
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
# A thread is worth its start only for this much keystream: some 5 ms.
_BYTES_PER_THREAD = 1 << 25
_PACKED_BYTES = 3


def add_masks(
    accumulator: NDArray[np.uint32],
    plus: Sequence[bytes],
    minus: Sequence[bytes],
    *,
    threads: int | None = None,
    chunk_bytes: int = _CHUNK_BYTES,
) -> None:
    """Add PRG(k) for each key in `plus` and subtract it for each in `minus`, modulo 2^32, in place.

    Args:
        accumulator: [d] uint32, contiguous, d >= 0.
        plus: keys of 32 bytes.
        minus: keys of 32 bytes.
        threads: how many; None: one per core where each gets at least 32 MiB of keystream, else one.
            It changes the time, never the result.
        chunk_bytes: how much of the vector is worked on at a time, a multiple of 16. It changes the
            time, never the result.

    Raises:
        MechanismViolation: the accumulator, a key or an option is not what is said here. The
            accumulator is then unchanged.
    """
    _check_accumulator(accumulator)
    _check_keys([*plus, *minus])
    if chunk_bytes < _BLOCK_BYTES or chunk_bytes % _BLOCK_BYTES:
        raise MechanismViolation(f"chunk_bytes {chunk_bytes} is not a positive multiple of {_BLOCK_BYTES}")
    if threads is not None and threads < 1:
        raise MechanismViolation(f"threads {threads} is not positive; leave it out to have it chosen")
    if threads is None:
        threads = _threads_that_gain(accumulator.nbytes * (len(plus) + len(minus)))
    starts = _starts(accumulator.size, threads)
    parts = [accumulator[start:end] for start, end in zip(starts, [*starts[1:], accumulator.size], strict=True)]
    if len(parts) == 1:
        _add_from(accumulator, 0, plus, minus, chunk_bytes)
        return
    with ThreadPoolExecutor(max_workers=len(parts)) as pool:
        jobs = [
            pool.submit(_add_from, part, start, plus, minus, chunk_bytes)
            for part, start in zip(parts, starts, strict=True)
        ]
        for job in jobs:
            job.result()


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


def _add_from(
    part: NDArray[np.uint32], first: int, plus: Sequence[bytes], minus: Sequence[bytes], chunk_bytes: int
) -> None:
    """`add_masks` for the words of a vector that start at word `first`, a multiple of 4."""
    added = [_keystream(key, first) for key in plus]
    subtracted = [_keystream(key, first) for key in minus]
    chunk = min(chunk_bytes // _WORD.itemsize, part.size)
    zeros = memoryview(bytes(chunk * _WORD.itemsize))
    # `update_into` wants a block less one byte to spare, though a stream never fills it.
    buffer = bytearray(len(zeros) + _BLOCK_BYTES - 1)
    mask = np.frombuffer(buffer, dtype=_WORD, count=chunk)
    for start in range(0, part.size, max(chunk, 1)):
        piece = part[start : start + chunk]
        plain, words = zeros[: piece.size * _WORD.itemsize], mask[: piece.size]
        for stream in added:
            stream.update_into(plain, buffer)
            np.add(piece, words, out=piece)
        for stream in subtracted:
            stream.update_into(plain, buffer)
            np.subtract(piece, words, out=piece)


def _keystream(key: bytes, word: int) -> CipherContext:
    """A cipher whose next output is word `word`, a multiple of 4, of PRG(key)."""
    counter = (word // _BLOCK_WORDS).to_bytes(_BLOCK_BYTES, "big")
    return Cipher(AES(key), CTR(counter)).encryptor()


def _threads_that_gain(stream_bytes: int) -> int:
    """One thread per core, but none with less than `_BYTES_PER_THREAD` of keystream; at least one."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, stream_bytes // _BYTES_PER_THREAD))


def _starts(size: int, threads: int) -> list[int]:
    """Where each thread's part of a vector begins: whole cipher blocks, at most `threads` parts, none empty."""
    step = -(-size // threads)
    step += -step % _BLOCK_WORDS
    return list(range(0, size, step)) if size else [0]


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
