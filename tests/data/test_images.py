"""Image files of every kind become the pixels a person expects, or one named error."""

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.images import pixels, write_images
from undertone.data.images import load_image, read_images
from undertone.errors import DataError


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "gif", "webp"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.8])
def test_a_truncated_image(tmp_path: Path, ending: str, keep: float) -> None:
    path = tmp_path / f"image.{ending}"
    Image.fromarray(pixels(1, 64)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="cannot be read as an image"):
        load_image(path, 8)


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"%PDF-1.4"])
def test_what_is_no_image(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"image\.png"):
        load_image(path, 8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ending=st.sampled_from(["png", "jpg", "tif", "bmp", "gif", "webp"]),
    position=st.integers(0, 10**6),
    byte=st.integers(0, 255),
)
def test_a_damaged_image_is_read_or_refused(tmp_path: Path, ending: str, position: int, byte: int) -> None:
    path = tmp_path / f"image.{ending}"
    Image.fromarray(pixels(1, 16)).save(path)
    data = bytearray(path.read_bytes())
    data[position % len(data)] = byte
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        assert load_image(path, 8).shape == (8, 8, 3)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels(1, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"million pixels are more than 2\^26.*make it smaller"):
        load_image(tmp_path / "bomb.png", 8)


def test_pixels_of_the_right_size_come_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(pixels(1, 16)).save(tmp_path / "image.png")
    np.testing.assert_array_equal(load_image(tmp_path / "image.png", 16), pixels(1, 16))


def grey_of(path: Path, size: int = 16) -> np.ndarray:
    found = load_image(path, size)
    assert (found == found[..., :1]).all()
    return found[..., 0]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_deep_grey_uses_the_depth_that_holds_its_largest_value(tmp_path: Path, ending: str, bits: int) -> None:
    """A 12-bit scan in a 16-bit file is not black; what is dark within a depth stays dark."""
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) << (bits - 8)
    Image.fromarray(grey).save(tmp_path / f"grey.{ending}")
    np.testing.assert_array_equal(grey_of(tmp_path / f"grey.{ending}"), np.arange(256).reshape(16, 16))
    dark = np.full((16, 16), (1 << bits) // 2, dtype=np.uint16)
    Image.fromarray(dark).save(tmp_path / f"dark.{ending}")
    assert grey_of(tmp_path / f"dark.{ending}")[0, 0] == 128


def test_whole_numbers_below_zero_begin_at_the_smallest(tmp_path: Path) -> None:
    hounsfield = np.linspace(-1024, 3071, 256).astype(np.int32).reshape(16, 16)
    Image.fromarray(hounsfield).save(tmp_path / "ct.tif")
    np.testing.assert_array_equal(grey_of(tmp_path / "ct.tif"), (hounsfield + 1024) >> 4)
    Image.fromarray(hounsfield * 1_000_000 // 2).save(tmp_path / "deep.tif")
    assert np.ptp(grey_of(tmp_path / "deep.tif").astype(int)) >= 119  # 32 bits, not all of them in use


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, 255), (0, 0.5, 128), (0, 200, 200), (-3, 7, 255), (0, 1e30, 255), (5, 5, 5)]
)
def test_floating_point_tiffs(tmp_path: Path, low: float, high: float, expected: int) -> None:
    values = np.linspace(low, high, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "float.tif")
    found = grey_of(tmp_path / "float.tif")
    assert found.max() == expected
    assert (np.diff(found.astype(int).reshape(-1)) >= 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    values = np.zeros((16, 16), dtype=np.float32)
    values[3, 3] = bad
    Image.fromarray(values).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="not finite numbers"):
        load_image(tmp_path / "float.tif", 16)


def test_palette_grey_one_bit_and_cmyk_become_rgb(tmp_path: Path) -> None:
    colours = Image.fromarray(pixels(1, 16)).quantize(16)
    for mode, image in (
        ("P", colours),
        *((m, colours.convert("RGB").convert(m)) for m in ("L", "LA", "RGBA", "1", "CMYK", "YCbCr")),
    ):
        path = tmp_path / f"{mode}.{'tif' if mode in ('CMYK', 'YCbCr') else 'png'}"
        image.save(path)
        assert Image.open(path).mode == mode
        np.testing.assert_allclose(load_image(path, 16), np.asarray(image.convert("RGB")), atol=1)


def transparent(mode: str) -> Image.Image:
    """White, its left half seen through; what lies under it is white too and must not show."""
    alpha = np.full((16, 16), 255, dtype=np.uint8)
    alpha[:, :8] = 0
    white = Image.fromarray(np.full((16, 16, 3), 255, dtype=np.uint8))
    white.putalpha(Image.fromarray(alpha))
    return white.convert(mode)


def test_what_is_transparent_is_black(tmp_path: Path) -> None:
    black_and_white = np.zeros((16, 16), dtype=np.uint8)
    black_and_white[:, 8:] = 255
    for mode in ("RGBA", "LA"):
        transparent(mode).save(tmp_path / f"{mode}.png")
        np.testing.assert_array_equal(grey_of(tmp_path / f"{mode}.png"), black_and_white)
    half = transparent("RGBA")
    half.putalpha(128)
    half.save(tmp_path / "half.png")
    assert grey_of(tmp_path / "half.png")[0, 0] == 128
    two = Image.fromarray(np.repeat(np.uint8([[0] * 8 + [1] * 8]), 16, axis=0))
    palette = two.convert("P")
    palette.putpalette([255, 0, 255, 255, 255, 255])
    palette.save(tmp_path / "palette.png", transparency=0)
    np.testing.assert_array_equal(grey_of(tmp_path / "palette.png"), black_and_white)
    palette.save(tmp_path / "palette.gif", transparency=0)
    np.testing.assert_array_equal(grey_of(tmp_path / "palette.gif"), black_and_white)
    Image.fromarray(black_and_white + 1).convert("RGB").save(tmp_path / "key.png", transparency=(1, 1, 1))
    assert not load_image(tmp_path / "key.png", 16)[:, :8].any()


def test_the_first_frame_of_several(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(number, 16)).quantize(16) for number in range(3)]
    for ending in ("gif", "tif", "webp", "png"):
        path = tmp_path / f"frames.{ending}"
        options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(load_image(path, 16), np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize("size", [(1 << 14, 1 << 13), (70_000, 1)])
def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    Image.new("1", size).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image.Image, "load", lambda _self: pytest.fail("decoded"))
    with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels"):
        load_image(tmp_path / "huge.png", 8)


def test_formats_that_can_start_programs_are_no_images(tmp_path: Path) -> None:
    for ending in ("eps", "pdf", "ppm", "tga"):
        Image.fromarray(pixels(1, 16)).save(tmp_path / f"image.{ending}")
        (tmp_path / f"image.{ending}").rename(tmp_path / "image.png")
        with pytest.raises(DataError, match=r"PostScript|PDF|PNM|none of PNG, JPEG, TIFF, BMP, GIF and WebP"):
            load_image(tmp_path / "image.png", 8)


@pytest.mark.parametrize("kind", ["pipe", "loop", "folder", "long", "nul"])
def test_what_is_no_file_neither_hangs_nor_crashes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / {"long": "x" * 300, "nul": "a\0b"}.get(kind, "image.png")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(DataError, match="cannot be read as an image"):
        load_image(path, 8)


def test_images_come_in_order_and_bad_ones_as_errors(tmp_path: Path) -> None:
    names = write_images(tmp_path, 100)
    (tmp_path / names[40]).write_bytes(b"x")
    found = list(read_images(tmp_path, names, 8))
    assert isinstance(found[40], DataError)
    for number, image in enumerate(found):
        if number != 40:
            np.testing.assert_array_equal(image, pixels(number, 8))
    assert list(read_images(tmp_path, [], 8)) == []
    started = read_images(tmp_path, names, 8)
    next(started)
    started.close()  # stops its threads


def test_an_image_on_its_side_is_put_upright(tmp_path: Path) -> None:
    upright = Image.fromarray(pixels(3, 16))
    turned = upright.transpose(Image.Transpose.ROTATE_90)  # shown turned by 270 degrees: orientation 6
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png", 16), np.asarray(upright))


def test_the_middle_of_a_wide_image_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (load_image(tmp_path / "wide.png", 8) == 200).all()
