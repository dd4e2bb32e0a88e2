"""A file that cannot be read as an image is named as what it is, with the way on."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.images import pixels
from tests.support.tiffs import png_chunk, write_tiff
from undertone.data.images import load_image
from undertone.errors import DataError


def saved(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(1, 64)).save(stream, kind, **options)
    return stream.getvalue()


def packed(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, pixels(1, 16))
    elif kind == "npz":
        np.savez(stream, pixels=pixels(1, 16))
    elif kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a.png", saved("PNG"))
    else:
        with tarfile.open(fileobj=stream, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("a.png"))
    return stream.getvalue()


def ftyp(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(200)


def nifti(magic: bytes) -> bytes:
    return struct.pack("<i", 348) + bytes(340) + magic + bytes(500)


def large_png(width: int, height: int) -> bytes:
    """A PNG header; pixels are never looked at."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
NAMED: dict[str, tuple[bytes, str]] = {
    "DICOM": (bytes(128) + b"DICM" + bytes(200), "a DICOM file.*convert it to PNG or TIFF first"),
    "DICOM with a preamble": (b"II*\0" + bytes(124) + b"DICM" + bytes(200), "a DICOM file.*convert it"),
    "JPEG 2000": (saved("JPEG2000"), "a JPEG 2000 image; convert it to PNG or TIFF"),
    "JPEG 2000 codestream": (saved("JPEG2000", no_jp2=True), "a JPEG 2000 codestream; convert it to PNG or TIFF"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "a JPEG XL image; convert"),
    "JPEG XL codestream": (b"\xff\x0a" + bytes(99), "a JPEG XL image; convert"),
    "JPEG XR": (b"II\xbc\x01" + bytes(99), "a JPEG XR image; convert"),
    "JPEG-LS": (b"\xff\xd8\xff\xf7" + bytes(99), "a JPEG-LS image; convert"),
    "AVIF": (saved("AVIF"), "an AVIF image.*convert it"),
    "HEIC": (ftyp(b"heic"), "a HEIC image.*convert it"),
    "HEIF": (ftyp(b"mif1"), "a HEIC image.*convert it"),
    "CR3": (ftyp(b"crx "), "a Canon raw image.*convert it"),
    "video": (ftyp(b"isom"), "a video"),
    "Matroska": (b"\x1a\x45\xdf\xa3" + bytes(99), "Matroska or WebM video.*remove it"),
    "PDF": (saved("PDF"), "a PDF document; export its pages as PNG"),
    "PostScript": (saved("EPS"), "a PostScript document; convert"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing; export it as PNG"),
    "SVG with a head": (b'<?xml version="1.0"?>\n<!-- c -->\n<svg/>', "an SVG drawing; export it as PNG"),
    "XML": (b'<?xml version="1.0"?><annotation/>', "an XML document"),
    "HTML": (b"\n<!DOCTYPE html>\n<html><body>Log in</body></html>", "a web page.*download the image itself"),
    "HTML with a BOM": (b"\xef\xbb\xbf<HTML>", "a web page.*download the image itself"),
    "git-lfs": (LFS, "a git-lfs pointer.*git lfs pull"),
    "text": (b"file not found\n", "it is text"),
    "JSON": (b'{"error": 404}', "it is text"),
    "NIfTI": (nifti(b"n+1\0"), "a NIfTI volume; save its slices"),
    "NIfTI pair": (nifti(b"ni1\0"), "a NIfTI header; save"),
    "NIfTI-2": (struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(600), "a NIfTI volume; save"),
    "NIfTI in gzip": (gzip.compress(nifti(b"n+1\0")), "a gzip file; unpack it"),
    "NRRD": (b"NRRD0005\ntype: short\n", "an NRRD volume; save its slices"),
    "MetaImage": (b"ObjectType = Image\n", "a MetaImage volume; save its slices"),
    "NumPy": (packed("npy"), "a NumPy array; save it as PNG or TIFF"),
    "NumPy archive": (packed("npz"), "a ZIP archive; unpack it"),
    "ZIP": (packed("zip"), "a ZIP archive; unpack it"),
    "tar": (packed("tar"), "a tar archive; unpack it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file; save its images"),
    "MATLAB": (b"MATLAB 5.0 MAT-file" + bytes(200), "a MATLAB file; save its images"),
    "FITS": (b"SIMPLE  =                    T" + bytes(200), "a FITS image; convert"),
    "OpenEXR": (b"v/1\x01" + bytes(99), "an OpenEXR image; convert"),
    "Photoshop": (b"8BPS\0\1" + bytes(99), "a Photoshop document; convert"),
    "icon": (saved("ICO"), "a Windows icon; convert"),
    "PGM": (b"P5\n2 2\n255\n\0\0\0\0", "a PNM image.*convert"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0" + bytes(99), "an AppleDouble file of macOS.*remove it"),
    "SQLite": (b"SQLite format 3\0" + bytes(99), "an SQLite database"),
    "empty": (b"", r"empty \(0 bytes\); copy it again"),
    "zeros": (bytes(1000), r"nothing but zeros.*copy it again"),
    "many zeros": (bytes(100_000), r"nothing but zeros.*copy it again"),
    "TGA": (saved("TGA"), "none of PNG, JPEG, TIFF, BMP, GIF and WebP.*convert it"),
    "noise": (np.random.Generator(np.random.Philox(key=1)).bytes(5000), "none of PNG, JPEG, TIFF, BMP, GIF and WebP"),
    "300 megapixels": (
        large_png(20_000, 15_000),
        "300 million pixels are more than 2.26.*67 megapixels.*make it smaller",
    ),
    "100 megapixels": (large_png(10_000, 10_000), "10000 x 10000 pixels are more than 2.26.*make it smaller"),
    "a long strip": (large_png(70_000, 2), "70000 x 2 pixels.*a side is above 2.16.*make it smaller"),
}


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tiff"])
@pytest.mark.parametrize("kind", NAMED)
def test_a_file_of_another_kind_is_named_whatever_its_ending(tmp_path: Path, kind: str, ending: str) -> None:
    data, named = NAMED[kind]
    path = tmp_path / f"x{ending}"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"cannot be read as an image: .*{named}") as caught:
        load_image(path, 8)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("ending", [".dcm", ".DCM", ".dicom", ".ima"])
def test_a_dicom_without_its_preamble_is_known_by_its_ending(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"scan{ending}").write_bytes(b"\x08\0\5\0CS\x0a\0ISO_IR 100" + bytes(range(200)))
    with pytest.raises(DataError, match="a DICOM file"):
        load_image(tmp_path / f"scan{ending}", 8)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def garbled(data: bytes) -> bytes:
    return data[:20] + bytes(byte ^ 0x5A for byte in data[20:])


KINDS = {"PNG": "a PNG", "JPEG": "a JPEG", "TIFF": "a TIFF", "BMP": "a BMP", "GIF": "a GIF", "WEBP": "a WebP image"}


@pytest.mark.parametrize(("kind", "harm"), [(kind, harm) for kind in KINDS for harm in (cut, garbled)])
def test_a_damaged_image_is_said_to_be_one(tmp_path: Path, kind: str, harm: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(harm(saved(kind)))
    try:
        load_image(path, 8)
    except DataError as error:
        why = str(error)
    else:  # bytes of pixels, which may be anything
        assert (kind, harm) == ("BMP", garbled)
        return
    if (kind, harm) == ("GIF", garbled):  # its sizes are garbled too
        assert "million pixels" in why
    else:
        assert f"it begins as {KINDS[kind]} and is cut off or damaged" in why
        assert "copy it again" in why


def test_a_damaged_header_of_a_tiff_is_quoted_in_numbers_alone(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "x.tif", pixels(1, 16), photometric=2)
    data = path.read_bytes()
    entry = struct.pack("<HHI", 258, 3, 3)
    path.write_bytes(data.replace(entry, struct.pack("<HHI", 258, 2, 3)))  # the bits as text
    with pytest.raises(DataError, match="cut off or damaged"):
        load_image(path, 8)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.png").write_bytes(saved("PNG"))
    monkeypatch.setattr(Image, "open", refused)
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DataError, match=r"cannot be opened \(Permission denied\)"):
        load_image(tmp_path / "x.png", 8)


def test_no_more_than_the_beginning_of_a_file_is_read(tmp_path: Path) -> None:
    """A file that is no image and 8 TB long (all but empty on disk) is named at once."""
    path = tmp_path / "x.png"
    with path.open("wb") as stream:
        stream.write(b"%PDF-1.7")
        stream.truncate(1 << 43)
    with pytest.raises(DataError, match="a PDF document"):
        load_image(path, 8)
