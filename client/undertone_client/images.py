"""Image files as pixels: upright, RGB, square. Each file is judged by itself, never beside others (PRIVACY 3).

grey, 8 bits          as it is
grey, 16 or 32 bits   whole numbers: of 8, 10, 12, 14, 16, 24 and 32 bits the fewest that hold the largest value
                      become 0..255, so a 12-bit scan in a 16-bit file is not black. Where values lie below
                      zero (CT), the smallest becomes 0 first
grey, floating point  0..1 and 0..255 are taken as such; anything else runs from smallest to largest; NaN and
                      infinity are refused
colour, 16 bits       the high byte of each channel
1 bit, palette,       as RGB; colour profiles are not applied
CMYK, YCbCr
transparent pixels    laid on black, the background of a scan (RGBA, LA, palettes, one transparent colour)
turned by EXIF        upright
frames or pages       the first
not square            the largest square in the middle
too large             more than 2^26 pixels, or a side above 2^16: refused, it would fill the memory
other formats         refused but for PNG, JPEG, TIFF, BMP, GIF, WebP: some can start other programs (EPS)
"""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from undertone.errors import DataError

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
_MOST_PIXELS, _LONGEST_SIDE = 1 << 26, 1 << 16
_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
_READERS, _GROUP, _GROUPS = 2, 4, 8

# Pillow warns of odd but readable files; a person is told by `node check` or not at all.
warnings.filterwarnings("ignore", module=r"PIL\.")


def load_image(path: Path, size: int) -> NDArray[np.uint8]:
    """Decode an image to [size, size, 3] uint8 by the table above.

    Raises:
        DataError: the file is not an image, is truncated, or is too large.
    """
    try:
        return _decode(path, size)
    except DataError as error:
        raise DataError(f"{path} cannot be read as an image: {error}; repair or remove it") from None
    except Exception as error:  # noqa: BLE001 - decoders raise whatever damage leads them to
        raise DataError(f"{path} cannot be read as an image ({type(error).__name__}); repair or remove it") from None


def read_images(root: Path, files: Iterable[str], size: int) -> Iterator[NDArray[np.uint8] | DataError]:
    """Each file under `root` as `load_image` gives it, or why not, in order; a few are decoded ahead.

    Decoders release Python's lock, so two threads keep reading while the caller computes. Memory holds
    at most 32 images beside those being decoded.
    """
    rest = iter(files)
    waiting: deque[Future[list[NDArray[np.uint8] | DataError]]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="images") as readers:
        try:
            while True:
                while len(waiting) < _GROUPS and (group := list(islice(rest, _GROUP))):
                    waiting.append(readers.submit(_images_or_errors, root, group, size))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _images_or_errors(root: Path, files: Sequence[str], size: int) -> list[NDArray[np.uint8] | DataError]:
    found: list[NDArray[np.uint8] | DataError] = []
    for file in files:
        try:
            found.append(load_image(root / file, size))
        except DataError as error:
            found.append(error)
    return found


def _decode(path: Path, size: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError("there is no such file")  # a pipe would be waited for
    with Image.open(path, formats=_FORMATS) as opened:
        if opened.width * opened.height > _MOST_PIXELS or max(opened.size) > _LONGEST_SIDE:
            raise DataError(f"{opened.width} x {opened.height} pixels are more than 2^26, or a side is above 2^16")
        opened.load()
        image = _rgb(ImageOps.exif_transpose(opened))
    fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(fitted, dtype=np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_from_whole_numbers(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(_from_floats(np.asarray(image, dtype=np.float64))).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, (0, 0, 0, 255)), seen).convert("RGB")
    return image.convert("RGB")


def _from_whole_numbers(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """[h, w] of 16 or 32 bits -> uint8."""
    lowest = min(int(grey.min()), 0)
    largest = int(grey.max()) - lowest
    depth = next(depth for depth in _DEPTHS if largest < 1 << depth)
    above_zero = grey.astype(np.int64) - lowest if lowest else grey
    return np.asarray(above_zero >> (depth - 8), dtype=np.uint8)


def _from_floats(grey: NDArray[np.float64]) -> NDArray[np.uint8]:
    """[h, w] float -> uint8."""
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite([low, high]).all():
        raise DataError("it holds values that are not finite numbers")
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    return np.rint((grey - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)
