"""Image files as pixels: upright, RGB, square. Each file is judged by itself, never beside others (PRIVACY 3).

grey, 8 bits          as it is
grey, 16 or 32 bits   whole numbers: of 8, 10, 12, 14, 16, 24 and 32 bits the fewest that hold the largest value
                      become 0..255, so a 12-bit scan in a 16-bit file is not black. Where values lie below
                      zero (CT), the smallest becomes 0 first. Signed TIFFs of 8 bits likewise
grey, floating point  of 32 or 64 bits: 0..1 and 0..255 are taken as such; anything else runs from smallest to
                      largest; NaN and infinity are refused
colour, 16 bits       as grey: the fewest bits that hold the largest value of all colours; alpha by itself
white is zero         TIFFs that say so are inverted, after the rules above: of every depth
1 bit, palette,       as RGB; colour profiles are not applied
CMYK, YCbCr
transparent pixels    laid on black, the background of a scan (RGBA, LA, palettes, one transparent colour)
turned by EXIF        upright
frames or pages       the first
other samples         refused by name, such as half floats, or compressed 16-bit planes whose values are small
not square            the largest square in the middle
too large             more than 2^26 pixels, or a side above 2^16: refused, it would fill the memory
other formats         refused but for PNG, JPEG, TIFF, BMP, GIF, WebP: some can start other programs (EPS)
"""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from undertone.core.canonical import file_sha256
from undertone.data.depths import by_strips, decoded
from undertone.data.file_kinds import too_many_pixels, what_it_is
from undertone.errors import DataError

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
_MOST_PIXELS, _LONGEST_SIDE = 1 << 26, 1 << 16
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa")
_READERS, _GROUP, _GROUPS = 2, 4, 8

# Pillow warns of odd but readable files; a person is told by `node check` or not at all.
warnings.filterwarnings("ignore", module=r"PIL\.")


def load_image(path: Path, size: int, sha256: str = "") -> NDArray[np.uint8]:
    """Decode an image to [size, size, 3] uint8 by the table above; with `sha256`, that of its bytes, no other one.

    Raises:
        DataError: the file is not an image, is truncated, or is too large; or it holds other bytes than it should.
    """
    try:
        return _decode(path, size, sha256)
    except DataError as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from None
    except Exception as error:  # noqa: BLE001 - decoders raise whatever damage leads them to
        raise DataError(f"{path} cannot be read as an image: {what_it_is(path, error)}") from None


def dimensions(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels as the file's header says; None where it is no image that `load_image` reads."""
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            return opened.size
    except Exception:  # noqa: BLE001 - decoders raise whatever damage leads them to
        return None


def read_images(
    root: Path, files: Iterable[str], size: int, sha256: Mapping[str, str] | None = None
) -> Iterator[NDArray[np.uint8] | DataError]:
    """Each file under `root` as `load_image` gives it, or why not, in order; a few are decoded ahead.

    `sha256` has, by file, the digest that its bytes must have; a file that it lacks may hold any. Decoders release
    Python's lock, so two threads keep reading while the caller computes. Memory holds at most 32 images beside those
    being decoded.
    """
    rest = iter(files)
    waiting: deque[Future[list[NDArray[np.uint8] | DataError]]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="images") as readers:
        try:
            while True:
                while len(waiting) < _GROUPS and (group := list(islice(rest, _GROUP))):
                    waiting.append(readers.submit(_images_or_errors, root, group, size, sha256 or {}))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _images_or_errors(
    root: Path, files: Sequence[str], size: int, sha256: Mapping[str, str]
) -> list[NDArray[np.uint8] | DataError]:
    found: list[NDArray[np.uint8] | DataError] = []
    for file in files:
        try:
            found.append(load_image(root / file, size, sha256.get(file, "")))
        except DataError as error:
            found.append(error)
    return found


def _decode(path: Path, size: int, sha256: str) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError("there is no such file")  # a pipe would be waited for
    if sha256 and file_sha256(path) != sha256:
        raise DataError("it is not the file that was registered")
    with Image.open(path, formats=_FORMATS) as opened:
        if opened.width * opened.height > _MOST_PIXELS or max(opened.size) > _LONGEST_SIDE:
            raise DataError(too_many_pixels(f"{opened.width} x {opened.height}"))
        image = _flat(decoded(opened, lambda: Image.open(path, formats=_FORMATS)))
        fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(fitted.convert("RGB"), dtype=np.uint8)


def _flat(image: Image.Image) -> Image.Image:
    """L or RGB; what is transparent lies on black."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode == "LAB":
        raise DataError("its colours are CIE L*a*b*, which are not read; save it as RGB")
    if image.mode == "La":  # multiplied with alpha is laid on black already
        return image.getchannel(0)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return by_strips(image, "RGB", _on_black)
    return image.convert("RGB")


def _on_black(image: Image.Image) -> Image.Image:
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, (0, 0, 0, 255)), seen).convert("RGB")
