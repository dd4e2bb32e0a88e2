"""Images of more than 8 bits, and white-is-zero ones, look like their 8-bit twins."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.tiffs import write_png16, write_tiff
from undertone.data.images import load_image
from undertone.errors import DataError

SIZE = 32
LAYOUTS = ["strips", "strip", "tiles", "deflate", "deflated tiles"]
TWIN = np.random.Generator(np.random.Philox(key=1)).permutation(1024).reshape(SIZE, SIZE).astype(np.uint8)
COLOURS = np.stack([TWIN, TWIN.T, 255 - TWIN], axis=-1)

# What a kind of file holds for the 8-bit picture, and the bits that are packed.
GREY: dict[str, tuple[Any, int | None]] = {
    "1 bit": (lambda grey: grey >> 7, 1),
    "4 bits": (lambda grey: grey >> 4, 4),
    "8 bits": (lambda grey: grey, None),
    "signed 8 bits": (lambda grey: (grey.astype(int) - 128).astype(np.int8), None),
    "12 bits packed": (lambda grey: grey.astype(np.uint16) * 16, 12),
    "8 of 16 bits": (lambda grey: grey.astype(np.uint16), None),
    "12 of 16 bits": (lambda grey: grey.astype(np.uint16) * 16, None),
    "16 bits": (lambda grey: grey.astype(np.uint16) * 257, None),
    "signed 16 bits": (lambda grey: (grey.astype(int) * 257 - 32768).astype(np.int16), None),
    "24 of 32 bits": (lambda grey: grey.astype(np.uint32) << 16, None),
    "32 bits": (lambda grey: grey.astype(np.uint32) << 24, None),
    "signed 32 bits": (lambda grey: ((grey.astype(np.int64) << 24) - (1 << 31)).astype(np.int32), None),
    "float32 to 1": (lambda grey: grey.astype(np.float32) / np.float32(255), None),
    "float32 to 255": (lambda grey: grey.astype(np.float32), None),
    "float32 of its own range": (lambda grey: grey.astype(np.float32) * 8 - 1020, None),
    "float64 to 1": (lambda grey: grey.astype(np.float64) / 255, None),
    "float64 to 255": (lambda grey: grey.astype(np.float64), None),
}


def twin_of(kind: str) -> NDArray[np.uint8]:
    return {"1 bit": (TWIN >> 7) * 255, "4 bits": (TWIN >> 4) * 17}.get(kind, TWIN)


def grey_of(path: Path) -> NDArray[np.uint8]:
    found = load_image(path, SIZE)
    assert (found == found[..., :1]).all()
    return found[..., 0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", GREY)
def test_grey_tiffs_of_every_depth_both_ways_round(tmp_path: Path, kind: str, layout: str, order: str) -> None:
    """White-is-zero (photometric 0, or no such tag) is inverted once and never twice."""
    samples, bits = GREY[kind]
    written = samples(TWIN)
    options: dict[str, Any] = {"order": order, "layout": layout, "bits": bits}
    twin = twin_of(kind)
    path = write_tiff(tmp_path / "grey.tif", written, photometric=1, **options)
    np.testing.assert_array_equal(grey_of(path), twin)
    for photometric in (0, None):
        path = write_tiff(tmp_path / "grey.tif", written, photometric=photometric, **options)
        np.testing.assert_array_equal(grey_of(path), 255 - twin)


@pytest.mark.parametrize("kind", GREY)
def test_a_white_is_zero_tiff_on_its_side(tmp_path: Path, kind: str) -> None:
    samples, bits = GREY[kind]
    path = write_tiff(tmp_path / "side.tif", samples(TWIN), photometric=0, bits=bits, orientation=6)
    np.testing.assert_array_equal(grey_of(path), 255 - np.rot90(twin_of(kind), -1))


COLOUR_KINDS: dict[str, tuple[int, tuple[int, ...]]] = {
    "RGB": (2, ()),
    "RGBA": (2, (2,)),
    "RGBX": (2, (0,)),
    "premultiplied": (2, (1,)),
    "CMYK": (5, ()),
}


def channels_of(kind: str) -> NDArray[np.uint8]:
    if kind == "CMYK":
        return np.concatenate([255 - COLOURS, np.zeros_like(COLOURS[..., :1])], axis=-1)
    full = np.full_like(COLOURS[..., :1], 255)
    return COLOURS if kind == "RGB" else np.concatenate([COLOURS, full], axis=-1)


def deep(image: NDArray[np.uint8], used: int) -> NDArray[np.uint16]:
    """16-bit samples of which `used` bits hold the picture; what is 255 is full."""
    return np.where(image == 255, (1 << used) - 1, image.astype(np.uint32) << (used - 8)).astype(np.uint16)


@pytest.mark.parametrize("used", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", COLOUR_KINDS)
def test_colour_tiffs_of_16_bits_use_the_depth_rule(tmp_path: Path, kind: str, layout: str, used: int) -> None:
    photometric, extra = COLOUR_KINDS[kind]
    samples = deep(channels_of(kind), used)
    for order in "<>":
        path = write_tiff(tmp_path / "c.tif", samples, photometric=photometric, order=order, layout=layout, extra=extra)
        np.testing.assert_array_equal(load_image(path, SIZE), COLOURS)


def read_or_refused(path: Path) -> bool:
    """Whether a file in separate planes is read; where it is not, it must be refused by name."""
    try:
        found = load_image(path, SIZE)
    except DataError as error:
        why = str(error)
    else:
        np.testing.assert_array_equal(found, COLOURS)
        return True
    assert re.search("separate planes.*save it", why), why
    return False


@pytest.mark.parametrize("used", [8, 12, 16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", COLOUR_KINDS)
def test_separate_planes_of_16_bits_are_read_right_or_refused(
    tmp_path: Path, kind: str, layout: str, used: int
) -> None:
    photometric, extra = COLOUR_KINDS[kind]
    samples = deep(channels_of(kind), used)
    readable = 0
    for order in "<>":
        path = write_tiff(
            tmp_path / "c.tif", samples, photometric=photometric, order=order, layout=layout, extra=extra, planar=True
        )
        readable += read_or_refused(path)
    if kind in ("RGB", "RGBA") and (used == 16 or not layout.startswith("deflate")):
        assert readable == 2


@pytest.mark.parametrize("kind", COLOUR_KINDS)
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_colour_tiffs_of_8_bits(tmp_path: Path, kind: str, planar: bool, layout: str) -> None:
    photometric, extra = COLOUR_KINDS[kind]
    path = write_tiff(
        tmp_path / "c.tif", channels_of(kind), photometric=photometric, planar=planar, extra=extra, layout=layout
    )
    assert read_or_refused(path) or (planar and kind in ("RGBX", "premultiplied"))


@pytest.mark.parametrize("used", [8, 9, 10, 11, 12, 13, 14, 15, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pngs_of_16_bits_use_the_depth_rule(tmp_path: Path, channels: int, used: int) -> None:
    """Grey, grey with alpha, RGB, RGBA; alpha is judged by itself, so full alpha beside 12-bit grey changes nothing."""
    picture = COLOURS if channels > 2 else COLOURS[..., :1]
    depth = next(depth for depth in (8, 10, 12, 14, 16) if used <= depth)
    seen = (deep(picture, used) >> (depth - 8)).astype(np.uint8)
    for alpha in (65535, (1 << depth) - 1):
        samples = deep(picture, used)
        if channels in (2, 4):
            samples = np.concatenate([samples, np.full_like(samples[..., :1], alpha)], axis=-1)
        path = write_png16(tmp_path / "deep.png", samples)
        np.testing.assert_array_equal(load_image(path, SIZE), np.broadcast_to(seen, COLOURS.shape))


@pytest.mark.parametrize("channels", [2, 4])
def test_what_is_transparent_in_16_bits_is_black(tmp_path: Path, channels: int) -> None:
    samples = deep(np.repeat(TWIN[..., None], channels, axis=-1), 12)
    samples[..., -1] = 65535
    samples[:, :16, -1] = 0
    samples[:, 16:20, -1] = 32768
    found = grey_of(write_png16(tmp_path / "deep.png", samples))
    assert not found[:, :16].any()
    np.testing.assert_allclose(found[:, 16:20], TWIN[:, 16:20] / 2, atol=1)
    np.testing.assert_array_equal(found[:, 20:], TWIN[:, 20:])


@pytest.mark.parametrize("used", [8, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_transparent_colour_of_16_bits_is_black(tmp_path: Path, channels: int, used: int) -> None:
    samples = deep(np.repeat(TWIN[..., None], channels, axis=-1), used)
    key = [int(value) for value in samples[3, 3]]
    found = grey_of(write_png16(tmp_path / "key.png", samples, transparent=key))
    np.testing.assert_array_equal(found, np.where(TWIN[3, 3] == TWIN, 0, TWIN))


def test_unsigned_32_bits_from_2_to_the_31_up_are_no_negatives(tmp_path: Path) -> None:
    written = np.linspace(1 << 31, (1 << 32) - 1, SIZE * SIZE).astype(np.uint32).reshape(SIZE, SIZE)
    found = grey_of(write_tiff(tmp_path / "u.tif", written, photometric=1))
    np.testing.assert_array_equal(found, written >> 24)


@pytest.mark.parametrize(
    ("dtype", "photometric", "channels", "named"),
    [
        (np.float16, 1, 1, "16 bits, floating-point"),
        (np.uint64, 1, 1, "64 bits, unsigned"),
        (np.uint16, 1, 2, "16\\+16 bits, unsigned"),
        (np.uint8, 0, 2, "8\\+8 bits, unsigned"),
        (np.float32, 2, 3, "32\\+32\\+32 bits, floating-point"),
        (np.uint32, 2, 3, "32\\+32\\+32 bits, unsigned"),
        (np.int16, 2, 3, "16\\+16\\+16 bits, signed"),
        (np.float64, 2, 3, "64\\+64\\+64 bits, floating-point"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_that_cannot_be_read_right_is_refused_by_name(
    tmp_path: Path, dtype: type, photometric: int, channels: int, named: str, order: str
) -> None:
    image = np.zeros((SIZE, SIZE, channels) if channels > 1 else (SIZE, SIZE), dtype=dtype)
    extra = (2,) if channels == 2 else ()
    path = write_tiff(tmp_path / "odd.tif", image, photometric=photometric, extra=extra, order=order)
    with pytest.raises(DataError, match=f"a TIFF of {named}.*save it as"):
        load_image(path, SIZE)


def test_premultiplied_grey_and_lab(tmp_path: Path) -> None:
    both = np.stack([TWIN // 2, np.full_like(TWIN, 128)], axis=-1)
    path = write_tiff(tmp_path / "la.tif", both, photometric=1, extra=(1,))
    assert Image.open(path).mode == "La"
    np.testing.assert_array_equal(grey_of(path), TWIN // 2)
    path = write_tiff(tmp_path / "lab.tif", COLOURS, photometric=8)
    with pytest.raises(DataError, match="save it as RGB"):
        load_image(path, SIZE)


PEAK = """
import sys
from pathlib import Path
from undertone.data.images import load_image

def peak():  # of this program: ru_maxrss would be what its parent had when it started it
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

before = peak()
load_image(Path(sys.argv[1]), 64)
print(peak() - before)
"""
BYTES = {
    "float32": 4,
    "uint16": 2,
    "signed": 4,
    "uint8": 1,
    "RGB of 8 bits": 3,
    "RGB": 6,
    "RGBA": 8,
    "grey and alpha": 4,
}


def large(path: Path, kind: str, side: int) -> Path:
    """Square, all but empty: of 16 bits 12 are used, so all of it must be looked at twice."""
    channels = {"RGB": 3, "RGBA": 4, "RGB of 8 bits": 3, "grey and alpha": 2}.get(kind, 1)
    dtype = {"float32": np.float32, "signed": np.int32, "uint8": np.uint8, "RGB of 8 bits": np.uint8}
    image = np.zeros((side, side, channels), dtype=dtype.get(kind, np.uint16))
    image[:: side // 16] = 100 if image.dtype == np.uint8 else 4095
    if kind in ("float32", "signed"):
        image[0, 0] = -5
    if kind == "grey and alpha":
        return write_png16(path.with_suffix(".png"), image)
    extra = (2,) if kind == "RGBA" else ()
    photometric = 2 if channels > 2 else 0
    return write_tiff(path, image.squeeze(), photometric=photometric, extra=extra)


def peak_of(path: Path) -> float:
    """MiB that `load_image` needs beside what the program holds without it."""
    ended = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    return float(ended.stdout)


@pytest.mark.parametrize("kind", BYTES)
def test_memory_grows_with_the_decoded_image_alone(tmp_path: Path, kind: str) -> None:
    """At most 13 bytes a pixel, so 2^26 pixels need less than 0.9 GB."""
    assert peak_of(large(tmp_path / "large.tif", kind, 1 << 11)) < 13 * 4 + 12


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", BYTES)
def test_the_largest_images_fit_into_a_gigabyte(tmp_path: Path, kind: str) -> None:
    assert peak_of(large(tmp_path / "large.tif", kind, 1 << 13)) < 900
