"""The federation manifest: which Ed25519 key speaks for which site (docs/secure-aggregation.md, 3).

Signed by the coordinator, which says who wrote it and not that the sites are real: each site approves its
digest once, out of band, and pins it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undertone.core.canonical import canonical_json, sha256_hex
from undertone.core.keys import FEDERATION_DOMAIN, SECAGG_DOMAIN, check_signature, public_hex, sign
from undertone.errors import NotApproved

_FORMAT = 1
_LARGEST_BYTES = 1 << 18
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Federation:
    """Sites and their keys.

    Attributes:
        name: of the federation.
        coordinator: the coordinator's public key, 64 hexadecimal characters.
        sites: site -> its public key, 64 hexadecimal characters.
    """

    name: str
    coordinator: str
    sites: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse names that are no names, keys that are no keys, and one key under two names.

        Raises:
            NotApproved: says which.
        """
        object.__setattr__(self, "sites", MappingProxyType(dict(self.sites)))
        keys = [self.coordinator, *self.sites.values()]
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in (self.name, *self.sites)):
            raise NotApproved("the federation manifest holds a name that is not made of a-z, 0-9, - and _")
        if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys):
            raise NotApproved("the federation manifest holds a key that is not 64 hexadecimal characters")
        if len(self.sites) < 2 or len(set(keys)) != len(keys):
            raise NotApproved("the federation manifest needs two sites or more, each with a key of its own")

    def to_bytes(self) -> bytes:
        """Canonical JSON: what is hashed, signed and stored."""
        return canonical_json(
            {
                "coordinator": self.coordinator,
                "federation": _FORMAT,
                "name": self.name,
                "sites": dict(self.sites),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Federation":
        """Read a manifest in its one spelling. Neither signature nor digest is checked here.

        Raises:
            NotApproved: not a manifest, or not canonical.
        """
        whole = len(data) <= _LARGEST_BYTES
        try:
            content = json.loads(data) if whole else {}
            federation = cls(content["name"], content["coordinator"], dict(content["sites"]))
            whole = whole and federation.to_bytes() == data
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            whole = False
        if not whole:
            raise NotApproved("the federation manifest is malformed, or not in canonical form; fetch it again")
        return federation

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_hex(self.to_bytes())

    def signed_by(self, site: str, digest: bytes, signature: bytes) -> bool:
        """Whether `signature` is `site`'s over the 32-byte digest of a statement of secure aggregation."""
        try:
            check_signature(self.sites[site], SECAGG_DOMAIN, digest.hex(), signature.hex())
        except (KeyError, NotApproved):
            return False
        return True


def sign_federation(federation: Federation, coordinator: Ed25519PrivateKey) -> str:
    """The coordinator's signature over the manifest's digest, as hexadecimal.

    Raises:
        NotApproved: the manifest names another coordinator.
    """
    if public_hex(coordinator) != federation.coordinator:
        raise NotApproved("the federation manifest names another coordinator; sign it with that key")
    return sign(coordinator, FEDERATION_DOMAIN, federation.digest)


def read_federation(data: bytes, signature: str, digest: str) -> Federation:
    """Read the manifest that a site approved.

    Args:
        data: its bytes.
        signature: the coordinator's.
        digest: what the site pinned when it approved.

    Raises:
        NotApproved: malformed, not signed by the coordinator that it names, or not the one that was approved.
    """
    federation = Federation.from_bytes(data)
    check_signature(federation.coordinator, FEDERATION_DOMAIN, federation.digest, signature)
    if federation.digest != digest:
        raise NotApproved(
            f"the federation manifest is {federation.digest[:8]}, this site approved {digest[:8]}; "
            "compare the two, then approve the new one"
        )
    return federation
