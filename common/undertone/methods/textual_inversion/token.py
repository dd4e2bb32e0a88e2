"""What the methods that learn words share: their options, their caption, their place among the base's words."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.bounds import NAME
from undertone.core.captions import TOKEN, caption_fields, fill_caption, placeholders
from undertone.core.classes import MOST
from undertone.core.config import Section
from undertone.errors import MechanismViolation, StudyError
from undertone.methods.classes import ClassShown, shares_of
from undertone.methods.protocol import UnitRecords
from undertone.methods.release_format import ReleaseFormat
from undertone.methods.textual_inversion.release import MOST_VECTORS, TOKEN_PATTERN, WORD_FILE, WORDS_FILE
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase


class TokenOptions(Section):
    """[method] keys of learned words: their name, the word they start at, of how many vectors each is.

    per_class: a word for each class of the study, `<token-class>`; class_names: those classes, which `plan` fills in.
    """

    token: str = Field(default="<private>", pattern=f"^{TOKEN_PATTERN}$")
    initial_word: str = Field(default="picture", min_length=1, max_length=NAME)
    vectors: int = Field(default=1, ge=1, le=MOST_VECTORS)
    per_class: bool = False
    class_names: list[str] = Field(default_factory=list, max_length=MOST)


class Words:
    """The words that a study learns: `tokens`, in the order of their names, in which w and rows hold them too.

    One, or with `per_class` one for each class. Until the classes are known there is one.
    """

    def __init__(self, options: TokenOptions) -> None:
        self.options = options
        self._of_class = class_tokens(options.token, options.class_names)
        self.tokens = tuple(sorted(self._of_class or [options.token]))
        # Class -> place of its token in `tokens`.
        self._place = np.array([self.tokens.index(token) for token in self._of_class], dtype=np.int64)

    @property
    def first(self) -> str:
        """The word of the first class: what stands in captions until a record's own class is put in its place."""
        return self._of_class[0] if self._of_class else self.options.token

    @property
    def release_format(self) -> ReleaseFormat:
        """A file of one word, or of several."""
        return WORDS_FILE if self.options.per_class else WORD_FILE

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption names the token once; the initial word is one token of the base, the new ones are none.

        Raises:
            StudyError, ModelError: see above.
        """
        if caption_fields(caption).count(TOKEN) != 1:
            raise StudyError(f'data.caption = "{caption}" must hold {{token}} once, as in "a {{token}}"')
        self._check_new(base)
        base.embedding_of(self.options.initial_word)

    def layout(self, base: PinnedBase) -> Layout:
        """One tensor [vectors, width] for each word, named by its token."""
        shape = (self.options.vectors, base.embedding_width)
        return Layout(tuple((token, shape) for token in self.tokens))

    def start(self, base: PinnedBase) -> NDArray[np.float32]:
        """The initial word's embedding, repeated for each vector of each word, [words * vectors * width]."""
        return np.tile(base.embedding_of(self.options.initial_word), len(self.tokens) * self.options.vectors)

    def by_class(self, unit: UnitRecords) -> UnitRecords:
        """The unit with each record's own word in its caption, in place of the first class's.

        Raises:
            MechanismViolation: a word for each class, and a unit whose records have none.
        """
        if not self._of_class:
            return unit
        pairs = zip(unit.captions, self._classes(unit), strict=True)
        return replace(unit, captions=tuple(text.replace(self.first, self._of_class[place]) for text, place in pairs))

    def shares(self, units: Sequence[UnitRecords]) -> NDArray[np.float64]:
        """How each unit's records fall into the words' classes, w [n, words].

        Raises:
            MechanismViolation: as `by_class`.
        """
        found = [shares_of(self._place[self._classes(unit)], len(self.tokens)) for unit in units]
        return np.array(found, dtype=np.float64).reshape(len(units), len(self.tokens))

    def prompts(self, caption: str, of: ClassShown | None) -> tuple[str, str]:
        """The caption with the initial word, and with the class's; its columns but that of the class stay empty."""
        columns = {} if of is None else of.columns
        word = self.first if of is None or not self._of_class else self._of_class[of.place]
        return fill_caption(caption, self.options.initial_word, columns), fill_caption(caption, word, columns)

    def _classes(self, unit: UnitRecords) -> NDArray[np.int64]:
        if unit.classes is None or not self._of_class or unit.classes.max() >= len(self._of_class):
            raise MechanismViolation("a word for each class needs records that have a class of the plan's list")
        return unit.classes

    def _check_new(self, base: PinnedBase) -> None:
        """No word to learn is one that the base has, nor are the further names that several vectors get.

        Raises:
            StudyError: one is: no loader would put a released embedding in its place.
        """
        known = {text.removesuffix("</w>").strip().casefold() for text in base.known_tokens()}
        names = [name for token in self.tokens for name in placeholders(token, self.options.vectors)]
        taken = [name for name in names if name in known]
        if taken:
            raise StudyError(
                f'method.token = "{self.options.token}": {base.reference} knows {taken[0]} already, and no loader '
                "would put another embedding in its place; choose another token"
            )


class LearnsWords:
    """What methods share whose release is words: one, or with `per_class` one for each class."""

    formats: ClassVar[tuple[ReleaseFormat, ...]] = (WORD_FILE, WORDS_FILE)
    words: Words

    @property
    def release_format(self) -> ReleaseFormat:
        """One word, or one for each class."""
        return self.words.release_format

    @property
    def token(self) -> str:
        """The word to learn; of several that of the first class."""
        return self.words.first

    @property
    def counted_by(self) -> str:
        """With a word for each class rows hold shares of classes."""
        return "class" if self.per_class else ""

    @property
    def per_class(self) -> bool:
        """Whether it learns a word for each class."""
        return self.words.options.per_class

    @property
    def classes(self) -> Sequence[str]:
        """Those of its words."""
        return self.words.options.class_names


def class_tokens(token: str, names: Sequence[str]) -> list[str]:
    """The token of each class, in the order of the list: <private> and "No finding" give <private-no-finding>.

    Where names give no tokens, two the same, or one that is too long, classes are numbered: <private-1>, <private-2>.
    """
    stem = token[1:-1]
    ascii_ = [unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower() for name in names]
    slugs = [re.sub(r"[^a-z0-9]+", "-", name).strip("-") for name in ascii_]
    spelled = [f"<{stem}-{slug}>" for slug in slugs]
    fit = all(slugs) and all(re.fullmatch(TOKEN_PATTERN, one) for one in spelled)
    if fit and len(set(spelled)) == len(spelled):
        return spelled
    return [f"<{stem[:36]}-{number}>" for number in range(1, len(names) + 1)]
