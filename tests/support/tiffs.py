"""TIFF and PNG files that Pillow cannot write, from arrays."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHORT, _LONG = 3, 4
_FORMATS = {"u": 1, "i": 2, "f": 3}
_SIDE = 16  # of a tile


def write_tiff(
    path: Path,
    image: NDArray[Any],
    *,
    photometric: int | None,
    order: str = "<",
    layout: str = "strips",
    bits: int | None = None,
    planar: bool = False,
    extra: Sequence[int] = (),
    orientation: int = 1,
) -> Path:
    """A TIFF of image [h, w] or [h, w, channels], sides that 16 divides.

    Args:
        path: where to.
        image: the samples; their type is the file's, but where `bits` says how many of 8 or 16 are packed.
        photometric: 0 is white-is-zero; None leaves the tag out.
        order: "<" or ">".
        layout: "strips" of 8 rows, one "strip", "tiles", "deflate" (strips) or "deflated tiles".
        bits: 1, 4 or 12.
        planar: whether each channel lies by itself.
        extra: what the last channels are: 0 unknown, 1 premultiplied alpha, 2 alpha.
        orientation: as EXIF has it.
    """
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    planes = [image[..., index] for index in range(channels)] if planar else [image]
    blocks = [_packed(block, bits, order) for plane in planes for block in _blocks(plane, layout)]
    blocks = [zlib.compress(block) for block in blocks] if layout.startswith("deflate") else blocks
    depth = bits or image.dtype.itemsize * 8
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [depth] * channels),
        259: (_SHORT, [8 if layout.startswith("deflate") else 1]),
        274: (_SHORT, [orientation]),
        277: (_SHORT, [channels]),
        284: (_SHORT, [2 if planar else 1]),
        339: (_SHORT, [_FORMATS[image.dtype.kind]] * channels),
    }
    if photometric is not None:
        tags[262] = (_SHORT, [photometric])
    if extra:
        tags[338] = (_SHORT, list(extra))
    starts = [8 + sum(map(len, blocks[:index])) for index in range(len(blocks))]
    if layout.endswith("tiles"):
        tags |= {322: (_LONG, [_SIDE]), 323: (_LONG, [_SIDE])}
        tags |= {324: (_LONG, starts), 325: (_LONG, [len(block) for block in blocks])}
    else:
        tags[278] = (_LONG, [height if layout == "strip" else 8])
        tags |= {273: (_LONG, starts), 279: (_LONG, [len(block) for block in blocks])}
    body = b"".join(blocks)
    body += bytes(len(body) % 2)
    path.write_bytes(_assembled(body, tags, order))
    return path


def _blocks(plane: NDArray[Any], layout: str) -> list[NDArray[Any]]:
    height, width = plane.shape[:2]
    if layout.endswith("tiles"):
        corners = [(top, left) for top in range(0, height, _SIDE) for left in range(0, width, _SIDE)]
        return [plane[top : top + _SIDE, left : left + _SIDE] for top, left in corners]
    rows = height if layout == "strip" else 8
    return [plane[top : top + rows] for top in range(0, height, rows)]


def _packed(block: NDArray[Any], bits: int | None, order: str) -> bytes:
    if bits is None:
        return block.astype(block.dtype.newbyteorder(order)).tobytes()
    spread = (block.astype(np.uint16)[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.astype(np.uint8).reshape(len(block), -1), axis=1).tobytes()


def _assembled(body: bytes, tags: dict[int, tuple[int, Sequence[int]]], order: str) -> bytes:
    directory = 8 + len(body)
    after = directory + 2 + 12 * len(tags) + 4
    entries, long = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        if len(data) > 4:
            where = struct.pack(f"{order}I", after + len(long))
            long += data + bytes(len(data) % 2)
        else:
            where = data.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + where
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", directory)
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + long


def png_chunk(name: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png16(path: Path, image: NDArray[np.uint16], transparent: Sequence[int] = ()) -> Path:
    """A PNG of 16 bits from [h, w, channels]: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; `transparent` is one colour."""
    height, width, channels = image.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + (png_chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b"")
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    return path
