"""Keys, seals, statements and commitments of a session (docs/secure-aggregation.md, 4).

Curves, key derivation and ciphers are `cryptography`'s; this module says what goes in.
"""

import hashlib

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from undertone.core.keys import SECAGG_DOMAIN, sign
from undertone.errors import UnfaithfulSite
from undertone.secagg.encoding import LABEL, index_list, tagged, u16
from undertone.secagg.messages import AdvertisedKeysList, Indices
from undertone.secagg.shamir import PRIME

# Each sealing key seals one plaintext: it is fresh in this session and differs by direction.
_NONCE = bytes(12)
# Any private key finds a public key of low order: the shared secret is zero for all of them.
_PROBE = X25519PrivateKey.from_private_bytes(bytes(range(32)))


def sign_statement(identity: Ed25519PrivateKey, digest: bytes) -> bytes:
    """A site's signature over the digest of a statement, 64 bytes."""
    return bytes.fromhex(sign(identity, SECAGG_DOMAIN, digest.hex()))


def public_of(private: bytes) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def private_key(private: bytes) -> X25519PrivateKey:
    """32 private bytes, made ready once for many exchanges: that costs as much as an exchange."""
    return X25519PrivateKey.from_private_bytes(private)


def exchange(private: bytes | X25519PrivateKey, public: bytes, site: str) -> bytes:
    """X25519.

    Raises:
        UnfaithfulSite: `site`'s public key has a low order: everybody would know the result.
    """
    key = private_key(private) if isinstance(private, bytes) else private
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise UnfaithfulSite(f"{site} sent a key that makes no secret; leave it out and start a new session") from None


def check_publics(*publics: bytes, site: str) -> None:
    """Insist that `site`'s X25519 keys make secrets.

    Raises:
        UnfaithfulSite: a key has a low order.
    """
    for public in publics:
        exchange(_PROBE, public, site)


def seal_key(shared: bytes, round_digest: bytes, sender: int, receiver: int) -> bytes:
    """The key under which `sender` seals shares for `receiver`."""
    return _derive(shared, round_digest, b"enc" + u16(sender) + u16(receiver))


def pair_mask_key(shared: bytes, round_digest: bytes, i: int, j: int) -> bytes:
    """The PRG key that sites i and j have in common."""
    return _derive(shared, round_digest, b"mask" + u16(min(i, j)) + u16(max(i, j)))


def self_mask_key(secret: bytes, round_digest: bytes, i: int) -> bytes:
    """The PRG key of site i's own mask."""
    return _derive(secret, round_digest, b"self" + u16(i))


def coefficients(seed: bytes, context: bytes, which: int, threshold: int) -> list[int]:
    """Of x, ..., x^(t - 1) of a sharing polynomial; `which` is 1 for b and 2 for cm.

    48 bytes modulo p: within 2^-126 of uniform.
    """
    infos = (b"shamir" + bytes((which,)) + u16(k) for k in range(1, threshold))
    return [int.from_bytes(_derive(seed, context, info, 48), "big") % PRIME for info in infos]


def seal(key: bytes, plaintext: bytes, round_digest: bytes, sender: int, receiver: int) -> bytes:
    """Encrypt and authenticate two shares, tied to the round and the direction."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, _about(round_digest, sender, receiver))


def unseal(key: bytes, sealed: bytes, round_digest: bytes, sender: int, receiver: int) -> bytes | None:
    """The two shares, or None where the tag does not hold."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, _about(round_digest, sender, receiver))
    except InvalidTag:
        return None


def commitment(context: bytes, i: int, self_secret: bytes) -> bytes:
    """h_i: what site i promises its self mask to be."""
    return tagged("commit", context, u16(i), self_secret)


def round_digest(context: bytes, key_list: AdvertisedKeysList) -> bytes:
    """R1: U1 and every key in it."""
    return tagged("adverts", context, key_list.entries)


def words_digest(words: NDArray[np.uint32]) -> bytes:
    """SHA-256 of a masked vector, 4 little-endian bytes a word whatever the wire."""
    return hashlib.sha256(np.ascontiguousarray(words, dtype="<u4").data).digest()


def advertised_keys_statement(context: bytes, i: int, seal_public: bytes, mask_public: bytes, commit: bytes) -> bytes:
    """What the signature over advertised keys is over."""
    return tagged("advert", context, u16(i), seal_public, mask_public, commit)


def sealed_shares_statement(context: bytes, r1: bytes, i: int, entries: bytes) -> bytes:
    """What the signature over sealed shares is over."""
    return tagged("sealed", context, r1, u16(i), entries)


def masked_input_statement(context: bytes, r1: bytes, i: int, masked_for: Indices, digest: bytes) -> bytes:
    """What the signature in a masked input proof is over."""
    return tagged("masked", context, r1, u16(i), index_list(masked_for), digest)


def consistency_statement(context: bytes, r1: bytes, masked_for: Indices, survivors: Indices) -> bytes:
    """What a consistency signature is over: the same for every site."""
    return tagged("survivors", context, r1, index_list(masked_for), index_list(survivors))


def unmasking_statement(
    context: bytes, r1: bytes, i: int, masked_for: Indices, survivors: Indices, entries: bytes
) -> bytes:
    """What the signature over unmasking shares is over."""
    return tagged("shares", context, r1, u16(i), index_list(masked_for), index_list(survivors), entries)


def _derive(secret: bytes, salt: bytes, info: bytes, size: int = 32) -> bytes:
    """HKDF-SHA256."""
    return HKDF(SHA256(), size, salt, LABEL + info).derive(secret)


def _about(round_digest: bytes, sender: int, receiver: int) -> bytes:
    """The associated data of a seal."""
    return tagged("seal", round_digest, u16(sender), u16(receiver))
