"""Words that a test writes down, in the place of `undertone.privacy.keystream.WordStream`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class ScriptedWords:
    """Hands out the given words in order and fails when there are none left."""

    def __init__(self, words: Sequence[int]) -> None:
        self._words = list(words)

    def take(self, n: int) -> NDArray[np.uint64]:
        return np.array([self.one() for _ in range(n)], dtype=np.uint64)

    def one(self) -> int:
        return self._words.pop(0)

    @property
    def left(self) -> int:
        return len(self._words)
