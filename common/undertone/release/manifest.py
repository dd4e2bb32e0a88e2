"""MANIFEST.json: the SHA-256 of every file of a release, signed by the coordinator."""

import json
import re
from itertools import islice
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undertone.core.bounds import MANIFEST_BYTES, RELEASE_FILES, SIGNATURE_BYTES
from undertone.core.canonical import Json, canonical_json, file_sha256, sha256_hex
from undertone.core.durable import write_durable
from undertone.core.keys import RELEASE_DOMAIN, check_signature, public_hex, sign
from undertone.core.text import shown
from undertone.errors import FolderError, NotApproved, NotVerified

MANIFEST, SIGNATURE = "MANIFEST.json", "MANIFEST.sig"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def write_manifest(folder: Path, key: Ed25519PrivateKey) -> None:
    """Hash and sign what is in `folder`."""
    files: dict[str, Json] = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    data = canonical_json({"coordinator": public_hex(key), "files": files})
    write_durable(folder / MANIFEST, data)
    write_durable(folder / SIGNATURE, sign(key, RELEASE_DOMAIN, sha256_hex(data)).encode())


def check_manifest(folder: Path, coordinator: str | None = None) -> str:
    """Check the signature and every file before anything else is read; return the public key that signed.

    Args:
        folder: the release.
        coordinator: the public key (64 hexadecimal digits) that must have signed it; None: whichever it names.

    Raises:
        NotVerified: names the file that was changed, added or is missing, or the key that signed instead.
        FolderError: there is no such folder.
    """
    if not folder.is_dir():
        raise FolderError(f"there is no folder {folder}; give a release, such as RUN/release")
    signer, files = _signed(folder)
    if coordinator is not None and coordinator != signer:
        raise NotVerified(f"the release is signed by {signer[:16]}, not by {coordinator[:16]}")
    there = [path.name for path in islice(folder.iterdir(), RELEASE_FILES + 3)]
    if len(there) > RELEASE_FILES + 2:
        raise NotVerified(
            f"{folder} holds more than {RELEASE_FILES} files besides its manifest; no release of ours does"
        )
    present = set(there) - {MANIFEST, SIGNATURE}
    for name in sorted(set(files) | present):
        if name not in present:
            raise NotVerified(f"{name} is missing from the release")
        if name not in files:
            raise NotVerified(f"{shown(name)} does not belong to the release; it was added later")
        if not (folder / name).is_file() or file_sha256(folder / name) != files[name]:
            raise NotVerified(f"{name} was changed after the release was signed")
    return signer


def read_part(folder: Path, name: str, most: int) -> bytes:
    """The bytes of a file of a release, which may have at most `most`.

    Raises:
        NotVerified: it is missing, cannot be read or is longer.
    """
    try:
        with (folder / name).open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise NotVerified(f"{name} cannot be read: {error.strerror or error}") from None
    if len(data) > most:
        raise NotVerified(f"{name} has more than {most} bytes; no release of ours has")
    return data


def _signed(folder: Path) -> tuple[str, dict[str, str]]:
    """The key and the files that a manifest names, its signature checked."""
    data, signature = read_part(folder, MANIFEST, MANIFEST_BYTES), read_part(folder, SIGNATURE, SIGNATURE_BYTES)
    try:
        listed = json.loads(data)
        if set(listed) != {"coordinator", "files"} or canonical_json(listed) != data:
            raise ValueError("not a manifest")
        signer, files = listed["coordinator"], listed["files"]
        check_signature(signer, RELEASE_DOMAIN, sha256_hex(data), signature.decode("ascii"))
    except NotApproved:
        raise NotVerified(f"{MANIFEST} or {SIGNATURE} was changed: the coordinator's signature does not hold") from None
    except (ValueError, TypeError, RecursionError):
        raise NotVerified(f"{MANIFEST} or {SIGNATURE} is damaged; fetch the release again") from None
    if not isinstance(files, dict) or len(files) > RELEASE_FILES:
        raise NotVerified(f"{MANIFEST} does not list at most {RELEASE_FILES} files")
    for name, digest in files.items():
        if not _NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
            raise NotVerified(f'{MANIFEST} lists "{shown(name)}", which is no plain name of a file in this folder')
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise NotVerified(f"{MANIFEST} has no SHA-256 for {name}")
    return signer, files
