"""Entropy for tests alone: repeatable, scripted, or forbidden."""

import random


class InsecureTestEntropy:
    """Seeded bits, for tests that must repeat. Whoever knows the seed can subtract the noise."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def bytes(self, n: int) -> bytes:
        return self._random.randbytes(n)

    def bits(self, k: int) -> int:
        return self._random.getrandbits(k) if k else 0


class FixedBits:
    """Answers every `bits` with one value: to walk through all values a draw can take."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.asked: list[int] = []

    def bytes(self, n: int) -> bytes:
        raise AssertionError(f"{n} bytes asked for")

    def bits(self, k: int) -> int:
        self.asked.append(k)
        return self.value


class KeyScript:
    """Answers the first request for bytes with zeros, the next with ones, and so on; notes how many were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def bytes(self, n: int) -> bytes:
        self.asked.append(n)
        return bytes([len(self.asked) - 1]) * n

    def bits(self, k: int) -> int:
        raise AssertionError(f"{k} bits asked for")
