"""Public images, drawn by procedure: the data of `embedded:tiny`, the public side of clip calibration.

Image (seed, index) is a pure function of its two numbers (a Philox stream with that key), so any one
can be drawn without the others. The streams are public on purpose; nothing private is ever drawn here.
This module imports no torch.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from undertone.errors import InputError
from undertone.public_images.glyphs import DIGITS, LETTERS, PLACES, handwritten_digit, sharp_glyph, soft_glyph
from undertone.public_images.letters import white_letter
from undertone.public_images.palette import GREYS, HUES, Pixels
from undertone.public_images.phantoms import ORGANS, TONES, phantom
from undertone.public_images.shapes import SHAPES, TEXTURES, shape, texture
from undertone.public_images.wording import Subject, plural

NEUTRAL_CAPTION = "a picture"
NEUTRAL_SHARE = 0.08  # of images carry the neutral caption instead of their own
NOUN_SHARE = 0.2  # carry one noun, as in "a chest": where a learned token stands, nouns must mean something
_SHORT_SHARE = 0.2  # of descriptions leave out "a picture of"
_SHORT_NOUN_SHARE = 0.5  # and of single nouns
SMALLEST = 16

_FRAME_WORDS = (
    *("a", "an", "picture", "of", "on", "at", "the", "and", "phantom", "-", "x", "ray"),
    *("digit", "letter", "soft", "handwritten", "small", "large"),
)
_COUNTS = ("two", "three", "four")
WORDS: tuple[str, ...] = tuple(
    sorted(
        {*_FRAME_WORDS, *DIGITS, *LETTERS, *PLACES, *GREYS, *HUES, *TEXTURES, *ORGANS, *TONES, *_COUNTS} - {""}
        | {*SHAPES, *map(plural, SHAPES)}
    )
)
KINDS: tuple[str, ...] = ("digit", "letter", *SHAPES, *TEXTURES, *ORGANS)

_Drawer = Callable[[np.random.Generator, int], tuple[Pixels, Subject]]
_KINDS: tuple[tuple[float, _Drawer], ...] = (  # shares add up to 1
    (0.24, phantom),
    (0.12, handwritten_digit),
    (0.06, soft_glyph),
    (0.14, sharp_glyph),
    (0.26, shape),
    (0.18, texture),
)
SHARES: dict[str, float] = {drawer.__name__: share for share, drawer in _KINDS}


_TRIES = 100_000  # a kind that is one of fifty turns up in all of so many drawings


class PublicImage(NamedTuple):
    """One drawn image: pixels uint8 [size, size, 3], its caption, whose words are all in WORDS, and what it shows."""

    pixels: Pixels
    caption: str
    subject: Subject


def draw(seed: int, index: int, size: int, kinds: Sequence[str] | None = None) -> PublicImage:
    """Draw public image number `index` of the series `seed`, whatever else is drawn.

    With `kinds` it is an image of another series, which has these kinds of drawings alone, each as often. Letters are
    then white on black, in one box (`letters.py`), and where no digit is asked for none is drawn.

    Args:
        seed: which series, 0 <= seed < 2^64.
        index: which image of it, 0 <= index < 2^64.
        size: height and width in pixels, at least 16.
        kinds: of `KINDS`, at least one; None: all, as often as `SHARES` says.

    Returns:
        Pixels uint8 [size, size, 3], the caption, and the subject in words.

    Raises:
        InputError: a number out of range, or a kind that is not known.
    """
    if size < SMALLEST:
        raise InputError(f"a public image of {size} pixels is too small to draw; ask for {SMALLEST} or more")
    if not (0 <= seed < 2**64 and 0 <= index < 2**64):
        raise InputError(f"seed {seed} and index {index} must be from 0 to 2^64 - 1; choose others")
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    drawer = _pick_kind(rng.random()) if kinds is None else _drawer_of(kinds, rng)
    pixels, subject = drawer(rng, size)
    return PublicImage(pixels, _caption(rng, subject), subject)


def _caption(rng: np.random.Generator, subject: Subject) -> str:
    kind = rng.random()
    if kind < NEUTRAL_SHARE:
        return NEUTRAL_CAPTION
    if kind < NEUTRAL_SHARE + NOUN_SHARE:
        words, short = subject.bare(), _SHORT_NOUN_SHARE
    else:
        words, short = subject.some_words(rng), _SHORT_SHARE
    return words if rng.random() < short else f"a picture of {words}"


def captions(seed: int, indices: Iterable[int], size: int) -> list[str]:
    """Captions of the images `indices` of the series `seed`, in order."""
    return [draw(seed, index, size).caption for index in indices]


def _pick_kind(u: float) -> _Drawer:
    """The kind whose interval of cumulated shares holds u in 0..1."""
    for share, drawer in _KINDS:
        if u < share:
            return drawer
        u -= share
    return _KINDS[-1][1]


def _drawer_of(kinds: Sequence[str], rng: np.random.Generator) -> _Drawer:
    """What draws one of these kinds, each as likely as the other.

    Raises:
        InputError: there are none, or one is not known.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise InputError(f"there are no drawings of {', '.join(unknown) or 'no kind'}; known are {', '.join(KINDS)}")
    kind = sorted(set(kinds))[int(rng.integers(len(set(kinds))))]
    if kind == "letter":
        return white_letter
    shared = {"digit": handwritten_digit} | dict.fromkeys(SHAPES, shape) | dict.fromkeys(TEXTURES, texture)
    drawer = shared.get(kind, phantom)

    def until_found(rng: np.random.Generator, size: int) -> tuple[Pixels, Subject]:
        found = (drawer(rng, size) for _ in range(_TRIES))
        return next(one for one in found if one[1].kind == kind)

    return until_found
