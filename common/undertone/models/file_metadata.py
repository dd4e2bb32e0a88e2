"""What safetensors files say of themselves: how they were saved, and for which base. No torch.

Loaders ask for `format`; people and programs that find a file alone, for the base.
"""

import json
import shutil
from pathlib import Path

_LENGTH_BYTES, _ALIGNMENT = 8, 8


def weights_metadata(base: str) -> dict[str, str]:
    """The metadata of weights that belong to a base, by the name that its plan has."""
    return {"format": "pt", "base_model": base}


def named_for(data: bytes, base: str) -> bytes:
    """A whole safetensors file in memory with the base's name in it: the same bytes from process to process.

    The library itself writes several keys in an order that changes; a study that is resumed releases the same bytes.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    end = _LENGTH_BYTES + length
    return _header_for(data[_LENGTH_BYTES:end], base) + data[end:]


def name_base(path: Path, base: str) -> None:
    """Write the base's name into a whole safetensors file; its tensors are copied as they are."""
    part = path.with_name(path.name + ".part")
    with path.open("rb") as source, part.open("wb") as target:
        length = int.from_bytes(source.read(_LENGTH_BYTES), "little")
        target.write(_header_for(source.read(length), base))
        shutil.copyfileobj(source, target)
    part.replace(path)


def _header_for(header: bytes, base: str) -> bytes:
    """A file's header of JSON with the base's name in its metadata, behind its length in 8 bytes."""
    fields = json.loads(header)
    fields["__metadata__"] = dict(sorted((fields.get("__metadata__", {}) | weights_metadata(base)).items()))
    written = json.dumps(fields, separators=(",", ":")).encode()
    written += b" " * (-len(written) % _ALIGNMENT)  # tensors begin at a multiple of 8 bytes
    return len(written).to_bytes(_LENGTH_BYTES, "little") + written
