"""Samples of more than 8 bits as 8-bit images, in strips, so that memory holds little beside the decoded file.

Pillow decodes 16-bit colour to the high byte of each channel and inverts white-is-zero TIFFs of up to 8 bits only. So
16-bit colour whose values are small is decoded a second time for its low bytes, and deeper TIFFs are inverted here.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from undertone.errors import DataError

_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
_AT_ONCE = 1 << 18  # pixels
_PHOTOMETRIC, _BITS, _PLANAR, _FORMAT = 262, 258, 284, 339
_SIGNED = (2,)
Strip = NDArray[Any]

# Kinds of TIFF that Pillow can unpack but does not list: (order, photometric, format, fill order, bits, extra) -> mode,
# raw mode. Photometric 0 is inverted below.
for _order, _big in ((b"II", ""), (b"MM", "B")):
    for _white in (0, 1):
        for _format, _bits, _kind in (
            (1, 12, ("I;16", "I;12")),
            (1, 16, (f"I;16{_big}", f"I;16{_big}")),
            (2, 8, ("L", "L")),
            (2, 16, ("I", f"I;16{_big}S")),
            (1, 32, ("I", f"I;32{_big}S")),
            (2, 32, ("I", f"I;32{_big}S")),
            (3, 64, ("F", f"F;64{_big}F")),
        ):
            TiffImagePlugin.OPEN_INFO.setdefault((_order, _white, (_format,), 1, (_bits,), ()), _kind)

# libtiff hands out samples in the machine's own order, whatever the file's. Pillow minds that for unsigned ones only.
_NATIVE = {
    f"{kind}{order}{end}": f"{kind}N{end}"
    for kind, end in (("I;16", "S"), ("I;32", "S"), ("F;32", "F"), ("F;64", "F"))
    for order in ("", "B")
}


def decoded(opened: ImageFile.ImageFile, again: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """Load `opened` and return it upright, with 8 bits a channel.

    Args:
        opened: as `Image.open` returns it, not loaded yet.
        again: opens the same file once more.

    Raises:
        DataError: it holds values that are not finite, or deep samples that cannot be read right.
    """
    _mend_order(opened)
    if _is_wide(opened):
        return _from_wide(opened, again)
    tags = _tags(opened)
    signed = tags.get(_FORMAT) == _SIGNED
    unsigned_32 = bool(tags) and opened.mode == "I" and tags.get(_BITS) == (32,) and not signed
    inverted = bool(tags) and tags.get(_PHOTOMETRIC, 0) == 0
    _load(opened)
    if opened.mode == "F":
        return _from_floats(opened, inverted)
    if opened.mode.startswith("I") or (opened.mode == "L" and signed):
        kind: Any = np.int8 if opened.mode == "L" else np.uint32 if unsigned_32 else None
        return _from_whole_numbers(opened, kind, inverted)
    return opened


def _load(opened: ImageFile.ImageFile) -> None:
    opened.load()
    ImageOps.exif_transpose(opened, in_place=True)


def by_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """A new image of `mode`, made of strips of `image` that `convert` has changed."""
    made = Image.new(mode, image.size)
    for top, strip in _strips(image):
        made.paste(convert(strip), (0, top))
    return made


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(_AT_ONCE // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _mend_order(opened: ImageFile.ImageFile) -> None:
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        opened.tile = [
            _with_raw(tile, _NATIVE.get(_raw(tile), _raw(tile))) if tile[0] == "libtiff" else tile
            for tile in opened.tile
        ]


def _tags(opened: ImageFile.ImageFile) -> Any:  # noqa: ANN401 - Pillow's own class of tags
    return getattr(opened, "tag_v2", {})


def _raw(tile: Any) -> str:  # noqa: ANN401 - Pillow's decoders differ in their arguments
    return str(tile[3] if isinstance(tile[3], str) else tile[3][0])


def _with_raw(tile: Any, raw: str) -> Any:  # noqa: ANN401
    return tile._replace(args=raw if isinstance(tile[3], str) else (raw, *tile[3][1:]))


def _depth(largest: int) -> int:
    return next(depth for depth in _DEPTHS if largest < 1 << depth)


# --- grey -----------------------------------------------------------------------------------------


def _from_whole_numbers(image: Image.Image, kind: Any, inverted: bool) -> Image.Image:  # noqa: ANN401 - a numpy type
    """Grey of 16 or 32 bits, or signed of 8; `kind` is what the samples are where the mode does not say it."""
    transparent = image.info.pop("transparency", None)

    def samples(strip: Image.Image) -> Strip:
        grey = np.asarray(strip)
        grey = grey if kind is None else grey.view(kind)
        return grey if transparent is None else np.where(grey == transparent, np.zeros((), grey.dtype), grey)

    ends = [(int(grey.min()), int(grey.max())) for grey in (samples(strip) for _, strip in _strips(image))]
    lowest = min(0, *(low for low, _ in ends))
    depth = _depth(max(high for _, high in ends) - lowest)

    def shown(strip: Image.Image) -> Image.Image:
        grey = samples(strip)
        above_zero = grey.astype(np.int64) - lowest if lowest else grey
        return _grey((above_zero >> (depth - 8)).astype(np.uint8), inverted)

    return by_strips(image, "L", shown)


def _from_floats(image: Image.Image, inverted: bool) -> Image.Image:
    ends = [(float(grey.min()), float(grey.max())) for grey in (np.asarray(strip) for _, strip in _strips(image))]
    if not np.isfinite(ends).all():
        raise DataError("it holds values that are not finite numbers; give every pixel a number")
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0

    def shown(strip: Image.Image) -> Image.Image:
        grey = np.asarray(strip).astype(np.float64)
        return _grey(np.rint((grey - low) * (255 / max(high - low, 1e-300))).astype(np.uint8), inverted)

    return by_strips(image, "L", shown)


def _grey(values: NDArray[np.uint8], inverted: bool) -> Image.Image:
    return Image.fromarray(255 - values if inverted else values)


# --- 16-bit colour, and 16-bit grey with alpha ----------------------------------------------------


def _is_wide(opened: ImageFile.ImageFile) -> bool:
    deep = 16 in tags.get(_BITS, ()) if (tags := _tags(opened)) else bool(opened.tile) and ";16" in _raw(opened.tile[0])
    return deep and len(opened.getbands()) > 1


def _from_wide(opened: ImageFile.ImageFile, again: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    if _raw(opened.tile[0]).startswith("LA;16"):
        return _from_wide_grey(opened)
    premultiplied = _raw(opened.tile[0]).startswith("RGBa")
    transparent = opened.info.pop("transparency", None)
    _read_halves(opened, high=True)
    _load(opened)
    tops = [int(top) for _, top in opened.getextrema()]  # type: ignore[misc]
    alpha = opened.mode == "RGBA"
    colours = tops[:3] if alpha else tops
    depths = [_depth(max(colours) << 8 | 255) if max(colours) else 8] * len(colours)
    depths += [_depth(tops[3] << 8 | 255) if tops[3] else 8] if alpha else []
    if transparent is not None or min(depths) < 16:
        with again() as other:
            _read_halves(other, high=False)
            _load(other)
            _join(opened, other, np.array(depths) - 8, transparent)
    return opened.convert("RGB") if premultiplied else opened  # multiplied with alpha is laid on black already


def _read_halves(opened: ImageFile.ImageFile, *, high: bool) -> None:
    """Let Pillow take the high or the low byte of each 16-bit sample: which one follows from the order it believes."""
    tiles = []
    for tile in opened.tile:
        raw = _raw(tile)
        if tile[0] == "libtiff" and _tags(opened).get(_PLANAR, 1) == 2 and not high:
            raise DataError(
                "it is a compressed TIFF of 16 bits in separate planes, whose small values cannot be read; "
                "save it uncompressed, or with its channels interleaved"
            )
        if ";16" not in raw:  # one plane of several: Pillow takes it for 8 bits
            raw = f"{raw};16{'L' if _tags(opened).prefix == b'II' else 'B'}"
        big = raw[-1] == "B" or (raw[-1] == "N" and sys.byteorder == "big")
        raw = raw.replace("RGBa", "RGBA")
        tiles.append(_with_raw(tile, raw if high else raw[:-1] + ("L" if big else "B")))
    opened.tile = tiles


def _join(high: Image.Image, low: Image.Image, shifts: NDArray[np.intp], transparent: Any) -> None:  # noqa: ANN401
    """Put 8 of each sample's 16 bits into `high`; one transparent colour becomes black."""
    for (top, upper), (_, lower) in zip(_strips(high), _strips(low), strict=True):
        samples = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
        if transparent is not None:
            samples[(samples[..., :3] == transparent).all(axis=-1)] = 0
        eight = (samples >> shifts.astype(np.uint16)).astype(np.uint8)
        high.paste(Image.frombytes(high.mode, upper.size, eight.tobytes()), (0, top))


def _from_wide_grey(opened: ImageFile.ImageFile) -> Image.Image:
    """Four bytes a pixel: grey and alpha, 16 bits each, the high byte first."""
    opened.tile = [_with_raw(tile, "RGBA") for tile in opened.tile]
    _load(opened)
    tops = [int(top) for _, top in opened.getextrema()]  # type: ignore[misc]
    shifts = np.array([(_depth(tops[at] << 8 | 255) if tops[at] else 8) - 8 for at in (0, 2)], dtype=np.uint16)

    def shown(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip).astype(np.uint16)
        eight = (values[..., 0::2] << 8 | values[..., 1::2]) >> shifts
        seen = Image.fromarray(eight.astype(np.uint8), "LA").convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, (0, 0, 0, 255)), seen).convert("L")

    return by_strips(opened, "L", shown)
