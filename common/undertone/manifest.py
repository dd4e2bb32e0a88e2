"""MANIFEST.json: the SHA-256 of every file of a release, signed by the coordinator."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undertone.canonical import Json, canonical_json, file_sha256, sha256_hex
from undertone.durable import write_durable
from undertone.errors import NotApproved, NotVerified
from undertone.keys import RELEASE_DOMAIN, check_signature, public_hex, sign

MANIFEST, SIGNATURE = "MANIFEST.json", "MANIFEST.sig"


def write_manifest(folder: Path, key: Ed25519PrivateKey) -> None:
    """Hash and sign what is in `folder`."""
    files: dict[str, Json] = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    data = canonical_json({"coordinator": public_hex(key), "files": files})
    write_durable(folder / MANIFEST, data)
    write_durable(folder / SIGNATURE, sign(key, RELEASE_DOMAIN, sha256_hex(data)).encode())


def check_manifest(folder: Path) -> str:
    """Check signature and every file; return the coordinator's public key.

    Raises:
        NotVerified: names the file that was changed, added or is missing.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
        signature = (folder / SIGNATURE).read_text(encoding="ascii")
        listed = json.loads(data)
        coordinator, files = str(listed["coordinator"]), dict(listed["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise NotVerified(
            f"{folder}: {MANIFEST} or {SIGNATURE} is missing or damaged; fetch the release again"
        ) from None
    try:
        check_signature(coordinator, RELEASE_DOMAIN, sha256_hex(data), signature)
    except NotApproved:
        raise NotVerified(f"{MANIFEST} or {SIGNATURE} was changed: the coordinator's signature does not hold") from None
    present = {path.name for path in folder.iterdir()} - {MANIFEST, SIGNATURE}
    for name in sorted(set(files) | present):
        if name not in present:
            raise NotVerified(f"{name} is missing from the release")
        if name not in files:
            raise NotVerified(f"{name} does not belong to the release; it was added later")
        if not (folder / name).is_file() or file_sha256(folder / name) != files[name]:
            raise NotVerified(f"{name} was changed after the release was signed")
    return coordinator
