"""Ed25519 signatures over digests, and key files that only their owner can read."""

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from undertone.errors import FolderError, NotApproved

# Each kind of statement has a domain, so a signature of one kind never passes for another.
PLAN_DOMAIN = b"undertone/1/plan\x00"
RELEASE_DOMAIN = b"undertone/1/release\x00"
FEDERATION_DOMAIN = b"undertone/1/federation\x00"
SECAGG_DOMAIN = b"undertone/1/secagg\x00"
HELLO_DOMAIN = b"undertone/1/hello\x00"
SITE_REQUEST_DOMAIN = b"undertone/1/site-request\x00"
WELCOME_DOMAIN = b"undertone/1/welcome\x00"


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a key from the operating system's entropy and write it 0600.

    Raises:
        FolderError: the file is already there.
    """
    key = Ed25519PrivateKey.generate()
    write_secret(path, key.private_bytes_raw())
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a key file.

    Raises:
        FolderError: it is missing or is not a key.
    """
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except (OSError, ValueError):
        raise FolderError(f"{path} is not a readable Ed25519 key of 32 bytes") from None


def write_secret(path: Path, secret: bytes) -> None:
    """Write a secret that only its owner may read; never overwrites.

    Raises:
        FolderError: the file is already there, or cannot be written; a file half written is removed.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FolderError(f"{path} exists already; a secret is never overwritten") from None
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror}; make room or fix the rights") from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secret)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        path.unlink()
        raise FolderError(f"{path} cannot be written: {error.strerror}; make room, then try again") from None


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public half as 64 hexadecimal characters."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def sign(key: Ed25519PrivateKey, domain: bytes, digest: str) -> str:
    """Signature over `domain || digest` as hexadecimal."""
    return key.sign(domain + digest.encode()).hex()


def check_signature(public: str, domain: bytes, digest: str, signature: str) -> None:
    """Check that `signature` over `domain || digest` was made with the private half of `public`.

    Raises:
        NotApproved: it was not, or key or signature is malformed.
    """
    try:
        verifier = Ed25519PublicKey.from_public_bytes(_from_hex(public))
        verifier.verify(_from_hex(signature), domain + digest.encode())
    except (ValueError, InvalidSignature):
        raise NotApproved(f"the signature over {digest[:8]} is not by the key {public[:16]}") from None


def _from_hex(text: str) -> bytes:
    """Bytes of a hexadecimal text, which must be written as `sign` writes it: no capitals, no spaces."""
    value = bytes.fromhex(text)
    if value.hex() != text:
        raise ValueError("not the canonical spelling")
    return value
