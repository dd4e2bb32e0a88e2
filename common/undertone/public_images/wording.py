"""What a picture shows, as parts from which captions of any length are made."""

import re
from typing import NamedTuple

import numpy as np

_DROP_SHARE = 0.2  # of a description's parts are left out of a caption
_NUMBERS = ("", "", "two", "three", "four")
_SPECIAL_PLURALS = {"cross": "crosses"}
PLURAL_KINDS = frozenset({"stripes", "checks", "dots", "waves", "clouds"})


class Subject(NamedTuple):
    """One picture in words: `before` stands before the noun ("small", "red"), `after` behind ("on black").

    `kind` is what a classifier of kinds is asked for: "circle", "digit", "chest". `noun` is how the caption names it:
    "digit three", "phantom of a chest". `number` things of the kind are shown.
    """

    kind: str
    noun: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    number: int = 1

    def words(self) -> str:
        """The full description: "two small red circles on blue"."""
        return self._join(self.before, self.noun, self.after)

    def bare(self) -> str:
        """The kind alone: "a circle"; several are "circles"."""
        return self._join((), self.kind, ())

    def some_words(self, rng: np.random.Generator) -> str:
        """The description without a part here and there."""
        before = tuple(word for word in self.before if rng.random() > _DROP_SHARE)
        after = tuple(phrase for phrase in self.after if rng.random() > _DROP_SHARE)
        return self._join(before, self.noun, after)

    def _join(self, before: tuple[str, ...], noun: str, after: tuple[str, ...]) -> str:
        if self.number > 1:
            return " ".join((_NUMBERS[self.number], *before, plural(noun), *after))
        words = " ".join((*before, noun, *after))
        return words if noun in PLURAL_KINDS else with_article(words)


def plural(noun: str) -> str:
    """The plural of a shape."""
    return _SPECIAL_PLURALS.get(noun, noun + "s")


def with_article(words: str) -> str:
    """The words after "a", or "an" before a vowel."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def words_of(caption: str) -> list[str]:
    """The words of a caption as the tokenizer cuts them: "x-ray" is x, - and ray."""
    return re.findall(r"[a-z]+|-", caption)
