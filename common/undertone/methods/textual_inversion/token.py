"""What the methods that learn a word share: its options, its caption, its place among the base's words."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.core.bounds import NAME
from undertone.core.captions import TOKEN, caption_fields, fill_caption, placeholders
from undertone.core.config import Section
from undertone.errors import StudyError
from undertone.methods.textual_inversion.release import MOST_VECTORS, TOKEN_PATTERN
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase


class TokenOptions(Section):
    """[method] keys of a learned word: its name, the word it starts at, of how many vectors it is."""

    token: str = Field(default="<private>", pattern=f"^{TOKEN_PATTERN}$")
    initial_word: str = Field(default="picture", min_length=1, max_length=NAME)
    vectors: int = Field(default=1, ge=1, le=MOST_VECTORS)


def check_word(options: TokenOptions, base: PinnedBase, caption: str) -> None:
    """The caption names the token once; the initial word is one token of the base, the new one is none.

    Raises:
        StudyError, ModelError: see above.
    """
    _check_caption(caption)
    _check_token(options, base)
    base.embedding_of(options.initial_word)


def word_layout(options: TokenOptions, base: PinnedBase) -> Layout:
    """One tensor [vectors, width] named by the token."""
    return Layout(((options.token, (options.vectors, base.embedding_width)),))


def first_word(options: TokenOptions, base: PinnedBase) -> NDArray[np.float32]:
    """The initial word's embedding, repeated for each vector, [vectors * width]."""
    return np.tile(base.embedding_of(options.initial_word), options.vectors)


def word_prompts(options: TokenOptions, caption: str) -> tuple[str, str]:
    """The caption with the initial word, and with the token; its columns stay empty."""
    return fill_caption(caption, options.initial_word, {}), fill_caption(caption, options.token, {})


def _check_caption(caption: str) -> None:
    if caption_fields(caption).count(TOKEN) != 1:
        raise StudyError(f'data.caption = "{caption}" must hold {{token}} once, as in "a {{token}}"')


def _check_token(options: TokenOptions, base: PinnedBase) -> None:
    """The word to learn is none that the base has, nor are the further names that several vectors get.

    Raises:
        StudyError: it is: no loader would put a released embedding in its place.
    """
    known = {text.removesuffix("</w>").strip().casefold() for text in base.known_tokens()}
    taken = [name for name in placeholders(options.token, options.vectors) if name in known]
    if taken:
        raise StudyError(
            f'method.token = "{options.token}": {base.reference} knows {taken[0]} already, and no loader would put '
            "another embedding in its place; choose another token"
        )
