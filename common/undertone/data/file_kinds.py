"""What a file is that cannot be read as an image, by its first bytes, and what to do about it.

At most 64 KiB of a file are read.
"""

import contextlib
import re
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

_HEAD = 1 << 16
_AGAIN = "copy it again from where it came from, or remove it"
_CONVERT = "convert it to PNG, JPEG or TIFF, or remove it"
_ELSEWHERE = "it is no picture: remove it from the data"
_FULL = "convert it to PNG or TIFF first, or remove it"
_DICOM = (
    "a DICOM file, which is not read here: convert it to PNG or TIFF first (DCMTK's dcmj2pnm does; mind the window), "
    "or remove it"
)

# (offset, first bytes, what it is, what to do)
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image", _FULL),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream", _FULL),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"II\xbc\x01", "a JPEG XR image", _CONVERT),
    (0, b"\xff\xd8\xff\xf7", "a JPEG-LS image", _FULL),
    (0, b"%PDF", "a PDF document", "export its pages as PNG, or remove it"),
    (0, b"\x93NUMPY", "a NumPy array", "save it as PNG or TIFF (PIL.Image.fromarray), or remove it"),
    (344, b"n+1\0", "a NIfTI volume", "save its slices as PNG or TIFF, or remove it"),
    (344, b"ni1\0", "a NIfTI header", "save the slices of its volume as PNG or TIFF, or remove it"),
    (4, b"n+2\0", "a NIfTI volume", "save its slices as PNG or TIFF, or remove it"),
    (4, b"ni2\0", "a NIfTI header", "save the slices of its volume as PNG or TIFF, or remove it"),
    (0, b"NRRD", "an NRRD volume", "save its slices as PNG or TIFF, or remove it"),
    (0, b"ObjectType", "a MetaImage volume", "save its slices as PNG or TIFF, or remove it"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "save its images as PNG or TIFF, or remove it"),
    (0, b"MATLAB 5.0", "a MATLAB file", "save its images as PNG or TIFF, or remove it"),
    (0, b"SIMPLE  =", "a FITS image", _FULL),
    (0, b"v/1\x01", "an OpenEXR image", _FULL),
    (0, b"#?RADIANCE", "a Radiance HDR image", _FULL),
    (0, b"8BPS", "a Photoshop document", _CONVERT),
    (0, b"%!PS", "a PostScript document", _CONVERT),
    (0, b"\xc5\xd0\xd3\xc6", "an Encapsulated PostScript document", _CONVERT),
    (0, b"\0\0\1\0", "a Windows icon", _CONVERT),
    (0, b"\0\5\x16\7", "an AppleDouble file of macOS, which only describes another file", "remove it"),
    (0, b"\0\5\x16\0", "an AppleSingle file of macOS", "copy the image itself, or remove it"),
    (0, b"version https://git-lfs.github.com/spec/", "a git-lfs pointer", "fetch the image itself with `git lfs pull`"),
    (0, b"PK\3\4", "a ZIP archive", "unpack it, or remove it"),
    (0, b"\x1f\x8b", "a gzip file", "unpack it, or remove it"),
    (0, b"BZh", "a bzip2 file", "unpack it, or remove it"),
    (0, b"\xfd7zXZ\0", "an xz file", "unpack it, or remove it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it, or remove it"),
    (0, b"Rar!", "a RAR archive", "unpack it, or remove it"),
    (257, b"ustar", "a tar archive", "unpack it, or remove it"),
    (0, b"SQLite format 3\0", "an SQLite database", _ELSEWHERE),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video", _ELSEWHERE),
)
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"crx ": "a Canon raw image"}
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif")
_READ = (
    (b"\x89PNG", "a PNG"),
    (b"\xff\xd8\xff", "a JPEG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    *((prefix, "a TIFF") for prefix in TiffImagePlugin.PREFIXES),
)
_SAMPLES = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}


def too_many_pixels(size: str) -> str:
    """Why an image of `size` is refused, and how to make it smaller."""
    return (
        f"{size} pixels are more than 2^26 (67 megapixels), or a side is above 2^16; make it smaller first, for "
        "example with ImageMagick's `convert -resize 4096x4096`, or cut it into tiles"
    )


def what_it_is(path: Path, error: Exception) -> str:
    """What the file at `path` is, and the way on. `error` is what its decoder raised."""
    if isinstance(error, Image.DecompressionBombError):
        return too_many_pixels(
            f"{int(found[0]) / 1e6:.0f} million" if (found := re.findall(r"\d+", str(error))) else "its"
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except (OSError, ValueError) as failure:
        why = getattr(failure, "strerror", None) or failure
        return f"the file cannot be opened ({why}); mend its name or its rights, or remove it"
    return _by_content(path, head) or _damaged(path, head, error)


def _by_content(path: Path, head: bytes) -> str | None:
    """What it is, where that is no image of a kind that is read."""
    if not head:
        return f"it is empty (0 bytes); {_AGAIN}"
    if head[128:132] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return f"it is {_DICOM}"
    if not head.strip(b"\0"):
        return f"it is nothing but zeros (the first {len(head)} bytes), a copy that never ended; {_AGAIN}"
    for offset, magic, kind, way in _MAGIC:
        if head.startswith(magic, offset):
            return f"it is {kind}; {way}"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        kind = _BRANDS.get(brand, "a HEIC image" if brand in _HEIC else "a video, or an image of a phone,")
        return f"it is {kind} ({brand.decode('ascii', 'replace').strip()!a}); {_CONVERT}"
    return _text(head)


def _text(head: bytes) -> str | None:
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "it is an SVG drawing; export it as PNG, or remove it"
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "it is a web page, such as a login or an error page saved as an image; download the image itself"
    if start.startswith(b"<?xml"):
        return f"it is an XML document; {_ELSEWHERE}"
    if re.match(rb"p[1-7]\s", start):
        return f"it is a PNM image (PBM, PGM or PPM); {_FULL}"
    with contextlib.suppress(UnicodeDecodeError):
        if head[:1024].decode("ascii").replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
            return f"it is text; {_ELSEWHERE}"
    return None


def _damaged(path: Path, head: bytes, error: Exception) -> str:
    kind = next((kind for magic, kind in _READ if head.startswith(magic)), None)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        kind = "a WebP image"
    name = type(error).__name__
    if kind is None:
        return f"it is none of PNG, JPEG, TIFF, BMP, GIF and WebP ({name}); {_CONVERT}"
    if kind == "a TIFF" and isinstance(error, UnidentifiedImageError | ValueError) and (samples := _samples(path)):
        return f"it is a TIFF of {samples}, which cannot be read right; save it as 8-bit or 16-bit grey or RGB"
    return f"it begins as {kind} and is cut off or damaged ({name}); {_AGAIN}"


def _samples(path: Path) -> str | None:
    """What a TIFF's header says of its samples, where it has a header."""
    try:
        with path.open("rb") as stream:
            tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
            stream.seek(tags.next)
            tags.load(stream)
        bits, kind, photometric = tags[258][:8], tags.get(339, (1,))[0], tags.get(262, 0)
        if not all(isinstance(value, int) for value in (*bits, photometric)):
            return None
        planes = ", in separate planes" if tags.get(284, 1) == 2 else ""
        return f"{'+'.join(map(str, bits))} bits, {_SAMPLES.get(kind, 'other')}{planes} (photometric {photometric})"
    except Exception:  # noqa: BLE001 - a damaged header: it is named as that
        return None
