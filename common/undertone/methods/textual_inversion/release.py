"""Files of learned words, for `load_textual_inversion`: one word, or one for each class of a study."""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from undertone.core import classes
from undertone.core.text import shown
from undertone.errors import UnfitWeights
from undertone.methods.release_format import Description, Respelled, Shapes, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout

EMBEDS = "learned_embeds.safetensors"
WORDS = "learned_words.safetensors"
MOST_VECTORS = 16
TOKEN_PATTERN = r"<[a-z0-9-]{1,40}>"


class WordFile:
    """One tensor [vectors, width], or [width] for one vector, named by the token."""

    files: tuple[str, ...] = (EMBEDS,)
    most_words = 1

    def write(self, layout: Layout, w: NDArray[np.float32]) -> Weights:
        """The layout's tensors, each a word."""
        words = layout.unflatten(w).items()
        return {self.files[0]: {token: tensor if len(tensor) > 1 else tensor[0] for token, tensor in words}}

    def layout(self, shapes: Mapping[str, Shapes]) -> Layout | None:
        """Tensors [vectors, width], in the order of their names; a file of words of one vector may spell them [width].

        All words of a file have one shape.
        """
        held = shapes[self.files[0]]
        if not 1 <= len(held) <= self.most_words or len(set(held.values())) != 1:
            return None
        shape = next(iter(held.values()))
        if len(shape) not in (1, 2):
            return None
        whole = (1, *shape) if len(shape) == 1 else shape
        return Layout(tuple((token, whole) for token in sorted(held)))

    def attach(self, base: Base, weights: Weights) -> None:
        """Add the words to tokenizer and encoder.

        Raises:
            UnfitWeights: they are not new words, each as long as the base's own, or are more than such a file holds.
        """
        (file,) = self.files
        width, known = base.pinned.embedding_width, base.pipeline.tokenizer.get_vocab()
        if len(weights[file]) > self.most_words:
            raise UnfitWeights(f"{file} holds {len(weights[file])} words, and has {self.most_words} at most")
        for name, array in weights[file].items():
            many = array.ndim == 2 and 1 <= len(array) <= MOST_VECTORS and array.shape[1] == width
            if not (array.shape == (width,) or many):
                raise UnfitWeights(
                    f"{file} holds {shown(name, 80)} {list(array.shape)}; this base's words have {width} values"
                )
            if not re.fullmatch(TOKEN_PATTERN, name) or name in known:
                raise UnfitWeights(f'{file} names its word "{shown(name, 80)}", which is no new word such as <private>')
        from undertone.methods.textual_inversion.trained import load_words  # torch

        load_words(base, weights[file])

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


class WordsFile(WordFile):
    """One tensor for each class of a study, named by its token: several words, each as in a `WordFile`.

    It has a name of its own because no loader of diffusers takes several words from one file by itself.
    """

    files = (WORDS,)
    most_words = classes.MOST

    def describe(self) -> Description:
        """Words for `load_textual_inversion`."""
        meaning = "new words of the model's language, one for each class: asked for one, the model draws such images"
        load = (
            "from safetensors.torch import load_file\n"
            f'words = load_file("{WORDS}")\n'
            "pipeline.load_textual_inversion([{token: word} for token, word in words.items()])"
        )
        return Description("learned words, one for each class", meaning, load)


WORD_FILE, WORDS_FILE = WordFile(), WordsFile()
