"""A CLIPTokenizer of a few hundred symbols in which every word of the public captions is one token.

Any other text still has tokens: it falls back to byte pairs and single bytes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START = "<|startoftext|>"
END = "<|endoftext|>"
_WORD_END = "</w>"
_WORD = re.compile(r"[a-z]+|[0-9]|[!-/:-@\[-`{-~]+")  # runs of letters, single digits, runs of signs


def build_tokenizer(words: Sequence[str], length: int) -> CLIPTokenizer:
    """Byte-pair encoding (Sennrich et al. 2016, section 3.2) run until every word is one symbol.

    Args:
        words: lower-case words, each without spaces; the order does not matter.
        length: tokens per prompt, start and end included.

    Returns:
        A stock tokenizer: 512 byte symbols, the merges, and the start and end tokens.
    """
    symbols = sorted(ByteLevel.alphabet())
    merges, merged = _learn_merges(words)
    entries = [*symbols, *(symbol + _WORD_END for symbol in symbols), *merged, START, END]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def common_words(captions: Iterable[str], most: int = 1000) -> list[str]:
    """The words of the captions as CLIP's tokenizer cuts them, the most frequent first.

    Letters beyond ASCII are left to byte pairs.
    """
    counts = Counter(word for caption in captions for word in _WORD.findall(caption.lower()))
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]]


def _learn_merges(words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Merge the most frequent pair until no word has two symbols; ties go to the first in the alphabet."""
    spellings = [[*word[:-1], word[-1] + _WORD_END] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for parts in spellings for pair in pairwise(parts))
        if not counts:
            return merges, list(dict.fromkeys(left + right for left, right in merges))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spellings = [_merge(parts, best) for parts in spellings]


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Replace each occurrence of the pair, from the left, by its union."""
    joined: list[str] = []
    for part in parts:
        # A symbol that came from this very merge is never the left half again: it is longer than pair[0].
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined
