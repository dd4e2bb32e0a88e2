"""Mask words: the AES-256-CTR keystream of a key, added to or taken from a vector in place (section 4)."""

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

_CHUNK_WORDS = 1 << 16


def add_masks(accumulator: NDArray[np.uint32], plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add PRG(key) for each key in `plus` and take it off for each in `minus`, modulo 2^32, in place.

    Args:
        accumulator: [d] uint32, contiguous; changed.
        plus: keys of 32 bytes, each fresh in this session.
        minus: the same.
    """
    zeros = bytes(4 * _CHUNK_WORDS)
    buffer = bytearray(4 * _CHUNK_WORDS)
    for keys, combine in ((plus, np.add), (minus, np.subtract)):
        for key in keys:
            stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
            for start in range(0, accumulator.size, _CHUNK_WORDS):
                part = accumulator[start : start + _CHUNK_WORDS]
                stream.update_into(memoryview(zeros)[: 4 * part.size], buffer)
                combine(part, np.frombuffer(buffer, dtype="<u4", count=part.size), out=part)
