"""`learned_embeds.safetensors`: one learned word, for `load_textual_inversion`."""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from undertone.core.text import shown
from undertone.errors import UnfitWeights
from undertone.methods.release_format import Description, Respelled, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout

EMBEDS = "learned_embeds.safetensors"
MOST_VECTORS = 16
TOKEN_PATTERN = r"<[a-z0-9-]{1,40}>"


class WordFile:
    """One tensor [vectors, width], or [width] for one vector, named by the token."""

    files = (EMBEDS,)

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """The layout's one tensor."""
        ((token, tensor),) = layout.unflatten(w).items()
        return {EMBEDS: {token: tensor if len(tensor) > 1 else tensor[0]}}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """One tensor [vectors, width]; a file of one vector may spell it [width]."""
        held = shapes[EMBEDS]
        if len(held) != 1:
            return None
        ((token, shape),) = held.items()
        return Layout(((token, (1, *shape) if len(shape) == 1 else shape),)) if len(shape) in (1, 2) else None

    def attach(self, base: Base, weights: Weights) -> None:
        """Add the word to tokenizer and encoder.

        Raises:
            UnfitWeights: it is not one new word, as long as the base's own.
        """
        (name, array), *more = weights[EMBEDS].items()
        width = base.pinned.embedding_width
        many = array.ndim == 2 and 1 <= len(array) <= MOST_VECTORS and array.shape[1] == width
        if more or not (array.shape == (width,) or many):
            raise UnfitWeights(
                f"{EMBEDS} holds {shown(name, 80)} {list(array.shape)}; this base's words have {width} values"
            )
        if not re.fullmatch(TOKEN_PATTERN, name) or name in base.pipeline.tokenizer.get_vocab():
            raise UnfitWeights(f'{EMBEDS} names its word "{shown(name, 80)}", which is no new word such as <private>')
        from undertone.methods.textual_inversion.trained import load_words  # torch

        load_words(base, weights[EMBEDS])

    def fuse(self, base: Base) -> None:
        """Nothing: tokenizer and encoder hold the word and are saved with it."""

    def respelled(self, program: str, weights: Weights) -> Respelled | None:
        """None: the file is read as it is by programs that read words."""
        del program, weights
        return None

    def describe(self) -> Description:
        """A word for `load_textual_inversion`."""
        meaning = "a new word of the model's language: asked for it, the model draws images like the sites'"
        return Description("a learned word", meaning, f'pipeline.load_textual_inversion("{EMBEDS}")')


WORD_FILE = WordFile()
