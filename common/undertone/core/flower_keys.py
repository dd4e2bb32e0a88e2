"""A site's key for Flower: ECDSA over P-384, by which the SuperLink knows the site's SuperNode.

It authenticates a connection and nothing else: who a site is to the other sites is its Ed25519 identity.
"""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from undertone.core.keys import write_secret
from undertone.errors import FolderError, NotApproved

LONGEST = 300


def create_flower_key(path: Path) -> str:
    """Make a key from the operating system's entropy, write it 0600 as `flower-supernode` reads it.

    Returns:
        The public half, as `public_flower_key`.

    Raises:
        FolderError: the file is already there.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return _public_text(key)


def public_flower_key(path: Path) -> str:
    """The public half of a key file, one line of OpenSSH text without a comment.

    Raises:
        FolderError: it is missing or is no such key.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FolderError(f"{path} is not a readable OpenSSH key of ECDSA over P-384; restore it from your backup")
    return _public_text(key)


def registered_form(public: str) -> bytes:
    """A public key as the SuperLink keeps it: PEM.

    Args:
        public: what `public_flower_key` gives.

    Raises:
        NotApproved: it is not the one spelling of a key of ECDSA over P-384.
    """
    try:
        key = load_ssh_public_key(public.encode()) if len(public) <= LONGEST else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    whole = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    if not whole or not isinstance(key, ec.EllipticCurvePublicKey) or _openssh(key) != public:
        raise NotApproved("a site's Flower key is not an OpenSSH public key of ECDSA over P-384, in one line")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _public_text(key: ec.EllipticCurvePrivateKey) -> str:
    return _openssh(key.public_key())


def _openssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
