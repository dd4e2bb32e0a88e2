"""federation.json and federation.sig: the manifest as a site and the coordinator keep it in their folders."""

from pathlib import Path

from undertone.core.durable import write_durable
from undertone.core.federation import Federation
from undertone.errors import FolderError

_MANIFEST, _SIGNATURE = "federation.json", "federation.sig"


def write_federation(folder: Path, federation: Federation, signature: str) -> None:
    """Write both files, durably."""
    write_durable(folder / _MANIFEST, federation.to_bytes())
    write_durable(folder / _SIGNATURE, signature.encode())


def federation_files(folder: Path) -> tuple[bytes, str]:
    """The manifest's bytes and the coordinator's signature, hexadecimal: what `read_federation` checks.

    Raises:
        FolderError: one of the two is missing or cannot be read.
    """
    try:
        return (folder / _MANIFEST).read_bytes(), (folder / _SIGNATURE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        raise FolderError(f"{folder} has no readable {_MANIFEST} and {_SIGNATURE}") from None
