"""Digits and letters in matplotlib's fonts: sharp in any colour, or soft, grey and frame-filling.

Soft glyphs look like a scan of very few pixels drawn large, light on black: small real-world digit
sets look like this, and without such images no words of the model reach them.
"""

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from undertone.pretraining.palette import Mask, Pixels, colour, paint, pick, to_mask, two_names, with_article

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
    "cmtt10",
)
_EM = 96  # pixels per em of the glyph before it is placed
_CANVAS = 128  # pixels of the square on which it is placed
_DIGIT_SHARE = 0.6


def sharp_glyph(rng: np.random.Generator, size: int) -> tuple[Pixels, str]:
    """A digit or letter in two colours: pixels uint8 [size, size, 3] and its caption."""
    character, words = _character(rng)
    front, back = two_names(rng)
    height = rng.uniform(0.6, 0.92)
    canvas = _place(rng, _outline(rng, character, stroke=0), height, width=rng.uniform(0.9, 1.1), slack=0.5)
    pixels = paint(to_mask(canvas, size), colour(rng, front), colour(rng, back))
    return pixels, with_article(f"{front} {words} on {back}")


def soft_glyph(rng: np.random.Generator, size: int) -> tuple[Pixels, str]:
    """A blurred, thick, light digit or letter on black: pixels uint8 [size, size, 3] and its caption."""
    character, words = _character(rng)
    name = "white" if rng.random() < 0.75 else "grey"
    outline = _outline(rng, character, stroke=int(rng.integers(2, 9)))
    canvas = _place(rng, outline, height=rng.uniform(0.82, 1.06), width=rng.uniform(0.85, 1.25), slack=0.2)
    mask = _soften(to_mask(canvas, int(rng.integers(8, 15))), size)
    front = colour(rng, name)
    pixels = paint(mask / np.float32(max(0.5, float(mask.max()))), front, np.zeros(3, dtype=np.float32))
    ending = " on black" if rng.random() < 0.3 else ""
    return pixels, f"a soft {name} {words}{ending}"


def _character(rng: np.random.Generator) -> tuple[str, str]:
    """The character to draw and the words that name it."""
    if rng.random() < _DIGIT_SHARE:
        value = int(rng.integers(10))
        return str(value), f"digit {DIGITS[value]}"
    letter = pick(rng, LETTERS)
    return (letter.upper() if rng.random() < 0.6 else letter), f"letter {letter}"


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


def _outline(rng: np.random.Generator, character: str, stroke: int) -> Image.Image:
    return _glyph(pick(rng, FONTS), character, stroke)


def _place(rng: np.random.Generator, glyph: Image.Image, height: float, width: float, slack: float) -> Image.Image:
    """Put a glyph on the canvas: scaled, turned a little, its corners moved a little.

    Args:
        rng: source of the small movements.
        glyph: the glyph cut to its ink.
        height: of the ink, in units of the canvas.
        width: factor on the glyph's own width.
        slack: share of the free space by which the glyph may leave the centre.
    """
    tall = max(8, round(height * _CANVAS))
    wide = max(6, min(round(glyph.width * tall / glyph.height * width), round(1.06 * _CANVAS)))
    scaled = glyph.resize((wide, tall), Image.Resampling.BILINEAR)
    free_x, free_y = (_CANVAS - wide) / 2, (_CANVAS - tall) / 2
    x = free_x + slack * abs(free_x) * rng.uniform(-1, 1)
    y = free_y + slack * abs(free_y) * rng.uniform(-1, 1)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    canvas.paste(scaled, (round(x), round(y)))
    corners = np.array([(0, 0), (0, 1), (1, 1), (1, 0)]) * _CANVAS + rng.normal(0, 0.035 * _CANVAS, (4, 2))
    quad = tuple(float(value) for value in corners.ravel())
    return canvas.transform((_CANVAS, _CANVAS), Image.Transform.QUAD, quad, resample=Image.Resampling.BILINEAR)


def _soften(mask: Mask, size: int) -> Mask:
    """A coarse mask [k, k], enlarged to [size, size] by linear interpolation."""
    coarse = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
    smooth = coarse.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(smooth, dtype=np.float32) / np.float32(255)
