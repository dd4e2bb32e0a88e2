"""Files that only this node can have written: bytes with a MAC under the node's secret behind them."""

import hmac
from hashlib import sha256
from pathlib import Path

from undertone.core.durable import write_durable
from undertone.errors import FolderError

_SEAL_BYTES = 65  # hexadecimal, and a line end


def mac(secret: bytes, domain: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 under the node's secret, [32]; each part is hashed first, so that no two lists of parts are one."""
    return hmac.digest(secret, domain + b"".join(sha256(part).digest() for part in parts), "sha256")


def write_sealed(path: Path, secret: bytes, domain: bytes, body: bytes) -> None:
    """Write `body` and its seal durably, in the place of what was there.

    Raises:
        FolderError: the disk is full or the folder cannot be written.
    """
    write_durable(path, sealed(secret, domain, body))


def sealed(secret: bytes, domain: bytes, body: bytes) -> bytes:
    """`body` and its seal."""
    return body + _seal(secret, domain, body)


def read_sealed(path: Path, secret: bytes, domain: bytes) -> bytes:
    """What `write_sealed` wrote under this secret and domain.

    Raises:
        FolderError: the file cannot be read, is damaged, or is another's.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}; restore it from your backup") from None
    return opened(path, data, secret, domain)


def opened(path: Path, data: bytes, secret: bytes, domain: bytes) -> bytes:
    """The body of what `sealed` made under this secret and domain; `path` is for the message.

    Raises:
        FolderError: it is damaged, or another's.
    """
    body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if not hmac.compare_digest(seal, _seal(secret, domain, body)):
        raise FolderError(f"{path} is damaged, or not this node's; restore it from your backup")
    return body


def _seal(secret: bytes, domain: bytes, body: bytes) -> bytes:
    return mac(secret, domain, b"seal", body).hex().encode() + b"\n"
