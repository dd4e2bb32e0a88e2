"""Digits and letters: in matplotlib's fonts, sharp in any colour or soft, grey and frame-filling; or handwritten.

Soft glyphs look like a scan of very few pixels drawn large, light on black: small real-world digit
sets look like this, and without such images no words of the model reach them.
"""

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from undertone.public_images.handwriting import written_digit
from undertone.public_images.palette import Mask, Pixels, colour, paint, pick, to_mask, two_names
from undertone.public_images.wording import Subject

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmti10",
    "cmtt10",
)
_EM = 96  # pixels per em of the glyph before it is placed
_CANVAS = 128  # pixels of the square on which it is placed
_DIGIT_SHARE = 0.6
_SMALL_SHARE = 0.3
_COARSE_SHARE = 0.35
# Where a small thing stands: its offset from the middle in units of the picture.
PLACES = {"left": (-0.25, 0.0), "right": (0.25, 0.0), "top": (0.0, -0.25), "bottom": (0.0, 0.25), "middle": (0.0, 0.0)}


def sharp_glyph(rng: np.random.Generator, size: int) -> tuple[Pixels, Subject]:
    """A digit or letter in two colours, in any place: pixels uint8 [size, size, 3] and its words."""
    character, kind, noun = _character(rng)
    front, back = two_names(rng)
    height, before, place = rng.uniform(0.6, 0.95), [front], ""
    offset = (0.0, 0.0)
    if rng.random() < _SMALL_SHARE:
        height, before = rng.uniform(0.28, 0.42), ["small", front]
        place = pick(rng, tuple(PLACES))
        offset = PLACES[place]
    canvas = _place(rng, _outline(rng, character, stroke=0), height, width=rng.uniform(0.9, 1.1), slack=0.3, at=offset)
    pixels = paint(to_mask(canvas, size), colour(rng, front), colour(rng, back))
    after = (f"on {back}", f"at the {place}") if place else (f"on {back}",)
    return pixels, Subject(kind, noun, tuple(before), after)


def soft_glyph(rng: np.random.Generator, size: int) -> tuple[Pixels, Subject]:
    """A blurred, thick, light digit or letter on black: pixels uint8 [size, size, 3] and its words."""
    character, kind, noun = _character(rng)
    outline = _outline(rng, character, stroke=int(rng.integers(2, 9)))
    canvas = _place(rng, outline, height=rng.uniform(0.82, 1.06), width=rng.uniform(0.85, 1.25), slack=0.2)
    return _scan(rng, canvas, size, cells=(8, 20), kind=kind, noun=noun, style="soft")


def handwritten_digit(rng: np.random.Generator, size: int) -> tuple[Pixels, Subject]:
    """A digit drawn by a hand, light on black, large: pixels uint8 [size, size, 3] and its words."""
    value = int(rng.integers(10))
    canvas = written_digit(rng, value)
    cells = (8, 12) if rng.random() < _COARSE_SHARE else (18, 40)
    return _scan(rng, canvas, size, cells, kind="digit", noun=f"digit {DIGITS[value]}", style="handwritten")


def _scan(
    rng: np.random.Generator, canvas: Image.Image, size: int, cells: tuple[int, int], kind: str, noun: str, style: str
) -> tuple[Pixels, Subject]:
    """What a scanner of few cells makes of a canvas, enlarged: light on black, true greys."""
    name = "white" if rng.random() < 0.75 else "grey"
    mask = _enlarge(to_mask(canvas, int(rng.integers(*cells))), size)
    pixels = paint(mask / np.float32(max(0.5, float(mask.max()))), colour(rng, name), np.zeros(3, dtype=np.float32))
    return pixels, Subject(kind, noun, (style, name), ("on black",))


def _character(rng: np.random.Generator) -> tuple[str, str, str]:
    """The character to draw, its kind, and the words that name it."""
    if rng.random() < _DIGIT_SHARE:
        value = int(rng.integers(10))
        return str(value), "digit", f"digit {DIGITS[value]}"
    letter = pick(rng, LETTERS)
    return (letter.upper() if rng.random() < 0.6 else letter), "letter", f"letter {letter}"


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    # The bundled files alone, never the system's: the images must not depend on the machine.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), _EM)


@lru_cache(maxsize=4096)
def _glyph(name: str, character: str, stroke: int) -> Image.Image:
    """The glyph in white on black, cut to its ink."""
    font = _font(name)
    left, top, right, bottom = font.getbbox(character, stroke_width=stroke)
    width, height = int(right - left) + 1, int(bottom - top) + 1
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, stroke_width=stroke)
    return image.crop(image.getbbox())


def outline_of(font: str, character: str) -> Image.Image:
    """The glyph in white on black, cut to its ink; of one of `FONTS`."""
    return _glyph(font, character, 0)


def _outline(rng: np.random.Generator, character: str, stroke: int) -> Image.Image:
    return _glyph(pick(rng, FONTS), character, stroke)


def _place(
    rng: np.random.Generator,
    glyph: Image.Image,
    height: float,
    width: float,
    slack: float,
    at: tuple[float, float] | None = None,
) -> Image.Image:
    """Put a glyph on the canvas: scaled, turned a little, its corners moved a little.

    Args:
        rng: source of the small movements.
        glyph: the glyph cut to its ink.
        height: of the ink, in units of the canvas.
        width: factor on the glyph's own width.
        slack: share of the free space by which the glyph may leave the centre.
        at: offset of the centre, in units of the canvas; the slack is then small.
    """
    tall = max(8, round(height * _CANVAS))
    wide = max(6, min(round(glyph.width * tall / glyph.height * width), round(1.06 * _CANVAS)))
    scaled = glyph.resize((wide, tall), Image.Resampling.BILINEAR)
    free_x, free_y = (_CANVAS - wide) / 2, (_CANVAS - tall) / 2
    reach = (slack * abs(free_x), slack * abs(free_y)) if at in (None, (0.0, 0.0)) else (0.06 * _CANVAS,) * 2
    off_x, off_y = at or (0.0, 0.0)
    x = free_x + off_x * _CANVAS + reach[0] * rng.uniform(-1, 1)
    y = free_y + off_y * _CANVAS + reach[1] * rng.uniform(-1, 1)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    canvas.paste(scaled, (round(x), round(y)))
    corners = np.array([(0, 0), (0, 1), (1, 1), (1, 0)]) * _CANVAS + rng.normal(0, 0.035 * _CANVAS, (4, 2))
    quad = tuple(float(value) for value in corners.ravel())
    return canvas.transform((_CANVAS, _CANVAS), Image.Transform.QUAD, quad, resample=Image.Resampling.BILINEAR)


def _enlarge(mask: Mask, size: int) -> Mask:
    """A coarse mask [k, k], enlarged to [size, size] by linear interpolation."""
    coarse = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
    smooth = coarse.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(smooth, dtype=np.float32) / np.float32(255)
