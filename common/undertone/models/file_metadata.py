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


def name_base(path: Path, base: str) -> None:
    """Write the base's name into a whole safetensors file; its tensors are copied as they are."""
    part = path.with_name(path.name + ".part")
    with path.open("rb") as source, part.open("wb") as target:
        length = int.from_bytes(source.read(_LENGTH_BYTES), "little")
        header = json.loads(source.read(length))
        header["__metadata__"] = header.get("__metadata__", {}) | weights_metadata(base)
        written = json.dumps(header, separators=(",", ":")).encode()
        written += b" " * (-len(written) % _ALIGNMENT)  # tensors begin at a multiple of 8 bytes
        target.write(len(written).to_bytes(_LENGTH_BYTES, "little") + written)
        shutil.copyfileobj(source, target)
    part.replace(path)
