"""Entropy for tests alone: repeatable, scripted, or forbidden."""

import inspect
import random
from collections.abc import Callable

from undertone.privacy.entropy import Entropy


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


class KeyedEntropy:
    """Seeded bits that a process killed and started again draws alike: one stream for each draw site.

    A draw site is what is being drawn for (`where()`: a site, a round, an attempt) and the module that asks, so
    what else was drawn before, and in which process, moves nothing. Within a process a stream goes on.
    """

    def __init__(self, seed: int, where: Callable[[], str]) -> None:
        self._seed, self._where = seed, where
        self._streams: dict[str, random.Random] = {}

    def _stream(self) -> random.Random:
        key = f"{self._seed}/{self._where()}/{asking_module()}"
        return self._streams.setdefault(key, random.Random(key))

    def bytes(self, n: int) -> bytes:
        return self._stream().randbytes(n)

    def bits(self, k: int) -> int:
        return self._stream().getrandbits(k) if k else 0


class WatchedEntropy:
    """Another entropy, and a call of `watch(module)` for each time that bits are drawn from it."""

    def __init__(self, inner: Entropy, watch: Callable[[str], None]) -> None:
        self._inner, self._watch = inner, watch

    def bytes(self, n: int) -> bytes:
        self._watch(asking_module())
        return self._inner.bytes(n)

    def bits(self, k: int) -> int:
        self._watch(asking_module())
        return self._inner.bits(k)


def asking_module() -> str:
    """The innermost module of the package on the stack: the one that asks for bits."""
    frame = inspect.currentframe()
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.split(".")[0] in ("undertone", "undertone_client", "undertone_server"):
            return name
        frame = frame.f_back
    return ""
