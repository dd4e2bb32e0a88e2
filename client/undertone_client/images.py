"""Image files as pixels: upright, RGB, square."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from undertone.errors import DataError


def load_image(path: Path, size: int) -> NDArray[np.uint8]:
    """Decode an image to [size, size, 3] uint8: EXIF-upright, 16-bit greys scaled, centre square.

    Raises:
        DataError: the file is not an image, is truncated, or is a decompression bomb.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
            fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({type(error).__name__}); repair or remove it") from None
    return np.asarray(fitted, dtype=np.uint8)
