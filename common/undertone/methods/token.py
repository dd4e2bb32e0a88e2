"""What the methods that learn a word share: its options, its caption, its file."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from undertone.bounds import NAME
from undertone.captions import caption_fields, placeholders
from undertone.config import Section
from undertone.errors import StudyError
from undertone.layout import Layout
from undertone.methods.protocol import Shapes
from undertone.models.files import EMBEDS
from undertone.models.pinned import PinnedBase


class TokenOptions(Section):
    """[method] keys of a learned word: its name, the word it starts at, of how many vectors it is."""

    token: str = Field(default="<private>", pattern=r"^<[a-z0-9-]{1,40}>$")
    initial_word: str = Field(default="picture", min_length=1, max_length=NAME)
    vectors: int = Field(default=1, ge=1, le=16)


def check_caption(caption: str) -> None:
    """The caption names the token once.

    Raises:
        StudyError: it does not.
    """
    if caption_fields(caption).count("token") != 1:
        raise StudyError(f'data.caption = "{caption}" must hold {{token}} once, as in "a {{token}}"')


def check_token(options: TokenOptions, base: PinnedBase) -> None:
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


def token_layout(options: TokenOptions, file: str, shapes: Shapes) -> Layout | None:
    """The layout whose release this is: one tensor [vectors, width], or [width] for one vector, named by the token."""
    shape = shapes.get(options.token, ())
    wanted = (options.vectors, shape[-1]) if shape else ()
    if file != EMBEDS or len(shapes) != 1 or shape not in {wanted, wanted[options.vectors == 1 :]} or not shape:
        return None
    return Layout(((options.token, wanted),))


def token_weights(options: TokenOptions, w: NDArray[np.float32]) -> Mapping[str, Mapping[str, NDArray[np.float32]]]:
    """`learned_embeds.safetensors` with the token's [vectors, width] tensor ([width] for one vector)."""
    tensor = w.reshape(options.vectors, -1)
    return {EMBEDS: {options.token: tensor if len(tensor) > 1 else tensor[0]}}
