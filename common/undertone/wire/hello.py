"""A site proves its name before it is asked anything: it signs the coordinator's fresh challenge with its key.

The key is the one that the federation manifest names (docs/secure-aggregation.md, 3). A challenge is asked once and of
one node, so nobody can answer with what another site said.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undertone.core.canonical import sha256_hex
from undertone.core.federation import Federation
from undertone.core.keys import HELLO_DOMAIN, check_signature, sign
from undertone.errors import NotApproved

CHALLENGE_BYTES = 32
PROOF_BYTES = 64


def prove(identity: Ed25519PrivateKey, site: str, challenge: bytes) -> bytes:
    """The site's signature, 64 bytes; empty where the challenge has another length."""
    if len(challenge) != CHALLENGE_BYTES:
        return b""
    return bytes.fromhex(sign(identity, HELLO_DOMAIN, _digest(site, challenge)))


def proves(federation: Federation, site: str, challenge: bytes, proof: bytes) -> bool:
    """Whether `proof` is the signature of `site` over this challenge."""
    try:
        check_signature(federation.sites[site], HELLO_DOMAIN, _digest(site, challenge), proof.hex())
    except (KeyError, NotApproved):
        return False
    return True


def _digest(site: str, challenge: bytes) -> str:
    return sha256_hex(challenge + site.encode())
