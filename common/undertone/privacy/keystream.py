"""Uniform 64-bit words for noise: AES-256 in counter mode, keyed afresh by `Entropy` for every call.

Generating bits from a key is several times faster than asking the kernel for each of them. Telling the words
from uniform ones means breaking AES-256, or seeing that 128-bit blocks of one stream never repeat: with n words
that shows with probability below n^2 / 2^131, which is 2^-71 for a billion.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from undertone.privacy.entropy import Entropy

KEY_BYTES = 32
WORD_BITS = 64
_WORD_BYTES = WORD_BITS // 8


class WordStream:
    """The words of stream `index` under `key`, in order, each handed out once.

    The counter block is the index (8 bytes), then the block's number: streams of one key share no block as
    long as each has fewer than 2^64 of them.
    """

    def __init__(self, key: bytes, index: int) -> None:
        self._keystream = Cipher(AES(key), CTR(index.to_bytes(8, "big") + bytes(8))).encryptor()

    def take(self, n: int) -> NDArray[np.uint64]:
        """The next `n` words, [n] uint64."""
        return np.frombuffer(self._keystream.update(bytes(_WORD_BYTES * n)), dtype="<u8").astype(np.uint64, copy=False)

    def one(self) -> int:
        """The next word."""
        return int.from_bytes(self._keystream.update(bytes(_WORD_BYTES)), "little")


def fresh_key(entropy: Entropy) -> bytes:
    """A key for one call; it is never stored and never used for another."""
    return entropy.bytes(KEY_BYTES)
