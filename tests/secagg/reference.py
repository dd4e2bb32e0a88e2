"""A second, slow implementation of docs/secure-aggregation.md, written from that page alone.

It shares no code with the package, and its cryptography comes from another library (pycryptodome, which Flower
brings along). Everything is plain Python integers and bytes; nothing is checked, nothing is fast (pure functions
are remembered, so that the vectors are made in seconds). The section numbers are that page's.
"""

import functools
import hashlib
import hmac
import itertools
import json
from dataclasses import dataclass

from Crypto.Cipher import AES, ChaCha20_Poly1305
from Crypto.Protocol import DH
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

P = 2**256 + 297
LABEL = b"undertone/secagg/1/"


# 1. Notation
def u8(value: int) -> bytes:
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def lp(field: bytes) -> bytes:
    return u32(len(field)) + field


def digest(label: str, *fields: bytes) -> bytes:
    """H(label, f1, f2, ...)."""
    return hashlib.sha256(lp(LABEL + label.encode("ascii")) + b"".join(map(lp, fields))).digest()


def listed(indices: list[int]) -> bytes:
    """LIST(S)."""
    return u16(len(indices)) + b"".join(u16(index) for index in sorted(indices))


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869: extract, then expand."""
    key = hmac.digest(salt, ikm, "sha256")
    blocks, last = b"", b""
    for number in itertools.count(1):
        if len(blocks) >= length:
            return blocks[:length]
        last = hmac.digest(key, last + info + u8(number), "sha256")
        blocks += last


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# 2. Parameters and context
def context_of(parameters: dict) -> bytes:
    return digest("context", canonical(parameters))


# 3. Federation manifest
@functools.cache
def ed25519_public(seed: bytes) -> bytes:
    return ECC.construct(curve="Ed25519", seed=seed).public_key().export_key(format="raw")


@functools.cache
def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    return eddsa.new(ECC.construct(curve="Ed25519", seed=seed), "rfc8032").sign(message)


def manifest_of(name: str, coordinator: bytes, sites: dict[str, bytes]) -> bytes:
    """The manifest's bytes; keys are given by their seeds."""
    keys = {site: ed25519_public(seed).hex() for site, seed in sites.items()}
    whole = {"ca_sha256": "", "coordinator": ed25519_public(coordinator).hex(), "expires": "9999-12-31T23:59:59Z"}
    return canonical(whole | {"federation": 2, "name": name, "predecessor": "", "serial": 1, "sites": keys})


def sign_manifest(coordinator: bytes, manifest: bytes) -> bytes:
    hexadecimal = hashlib.sha256(manifest).hexdigest().encode()
    return ed25519_sign(coordinator, b"undertone/1/federation\0" + hexadecimal)


# 4. Primitives
def sign(seed: bytes, statement: bytes) -> bytes:
    """A site's signature over one of the five digests D."""
    return ed25519_sign(seed, b"undertone/1/secagg\0" + statement.hex().encode())


@functools.cache
def x25519_public(private: bytes) -> bytes:
    return DH.import_x25519_private_key(private).public_key().export_key(format="raw")


@functools.cache
def x25519(private: bytes, public: bytes) -> bytes:
    own, other = DH.import_x25519_private_key(private), DH.import_x25519_public_key(public)
    return DH.key_agreement(static_priv=own, static_pub=other, kdf=lambda shared: shared)


def sealing_key(shared: bytes, r1: bytes, i: int, j: int) -> bytes:
    return hkdf(shared, r1, LABEL + b"enc" + u16(i) + u16(j), 32)


def pair_key(shared: bytes, r1: bytes, i: int, j: int) -> bytes:
    return hkdf(shared, r1, LABEL + b"mask" + u16(min(i, j)) + u16(max(i, j)), 32)


def self_key(b: bytes, r1: bytes, i: int) -> bytes:
    return hkdf(b, r1, LABEL + b"self" + u16(i), 32)


def commitment(context: bytes, i: int, b: bytes) -> bytes:
    return digest("commit", context, u16(i), b)


@functools.cache
def coefficient(seed: bytes, context: bytes, w: int, k: int) -> int:
    return int.from_bytes(hkdf(seed, context, LABEL + b"shamir" + u8(w) + u16(k), 48), "big") % P


def share_at(secret: bytes, seed: bytes, context: bytes, w: int, threshold: int, j: int) -> int:
    """Site j's share of a secret: the polynomial at x = j + 1, power by power."""
    value = int.from_bytes(secret, "big")
    for k in range(1, threshold):
        value += coefficient(seed, context, w, k) * (j + 1) ** k
    return value % P


def share_bytes(value: int) -> bytes:
    return value.to_bytes(33, "big")


def reconstruct(shares: dict[int, int]) -> int:
    """Lagrange interpolation at 0 from {site index: share}."""
    total = 0
    for i, value in shares.items():
        above, below = 1, 1
        for j in shares:
            if j != i:
                above = above * -(j + 1) % P
                below = below * (i - j) % P
        total += value * above * pow(below, -1, P)
    return total % P


def seal(key: bytes, r1: bytes, i: int, j: int, plaintext: bytes) -> bytes:
    """Ciphertext and tag of what i sends to j."""
    cipher = ChaCha20_Poly1305.new(key=key, nonce=bytes(12))
    cipher.update(digest("seal", r1, u16(i), u16(j)))
    return b"".join(cipher.encrypt_and_digest(plaintext))


@functools.cache
def word(key: bytes, k: int) -> int:
    """Word k of PRG(key), by encrypting its own counter block."""
    block = AES.new(key, AES.MODE_ECB).encrypt((k // 4).to_bytes(16, "big"))
    return int.from_bytes(block[4 * (k % 4) : 4 * (k % 4) + 4], "little")


def vector_sha256(words: list[int]) -> bytes:
    return hashlib.sha256(b"".join(value.to_bytes(4, "little") for value in words)).digest()


# 5. Messages, with the header that each starts with
def message(kind: int, context: bytes, body: bytes) -> bytes:
    return u8(1) + u8(kind) + context + body


@dataclass(frozen=True)
class Secrets:
    """What a site draws in a session, in this order."""

    b: bytes
    ce: bytes
    cm: bytes
    seed: bytes


@dataclass(frozen=True)
class Session:
    """All that an onlooker who knows everything would know."""

    parameters: dict
    identities: dict[str, bytes]  # site -> seed of its Ed25519 key
    secrets: dict[str, Secrets]

    @property
    def context(self) -> bytes:
        return context_of(self.parameters)

    @property
    def roster(self) -> list[str]:
        return self.parameters["roster"]

    def identity(self, i: int) -> bytes:
        return self.identities[self.roster[i]]

    def of(self, i: int) -> Secrets:
        return self.secrets[self.roster[i]]

    # Message 1 and 2
    def advertised_keys_body(self, i: int) -> bytes:
        own = self.of(i)
        fields = (x25519_public(own.ce), x25519_public(own.cm), commitment(self.context, i, own.b))
        return self.signed_keys(i, *fields)

    def signed_keys(self, i: int, e: bytes, m: bytes, h: bytes) -> bytes:
        signature = sign(self.identity(i), digest("advert", self.context, u16(i), e, m, h))
        return u16(i) + e + m + h + signature

    def advertised_keys(self, i: int) -> bytes:
        return message(1, self.context, self.advertised_keys_body(i))

    def key_list_entries(self, u1: list[int]) -> bytes:
        return u16(len(u1)) + b"".join(self.advertised_keys_body(i) for i in u1)

    def advertised_keys_list(self, u1: list[int]) -> bytes:
        return message(2, self.context, self.key_list_entries(u1))

    def r1(self, u1: list[int]) -> bytes:
        return digest("adverts", self.context, self.key_list_entries(u1))

    # Messages 3 and 4
    def share(self, owner: int, holder: int, w: int) -> int:
        own, threshold = self.of(owner), self.parameters["threshold"]
        return share_at(own.b if w == 1 else own.cm, own.seed, self.context, w, threshold, holder)

    def plaintext(self, i: int, j: int) -> bytes:
        return share_bytes(self.share(i, j, 1)) + share_bytes(self.share(i, j, 2))

    def sealed_for(self, i: int, j: int, u1: list[int]) -> bytes:
        return self.seal_anything(i, j, u1, self.plaintext(i, j))

    def seal_anything(self, i: int, j: int, u1: list[int], plaintext: bytes) -> bytes:
        key = sealing_key(x25519(self.of(i).ce, x25519_public(self.of(j).ce)), self.r1(u1), i, j)
        return seal(key, self.r1(u1), i, j, plaintext)

    def sealed_shares(self, i: int, u1: list[int]) -> bytes:
        entries = u16(len(u1) - 1) + b"".join(u16(j) + self.sealed_for(i, j, u1) for j in u1 if j != i)
        return self.sealed_shares_of(i, self.r1(u1), entries)

    def sealed_shares_of(self, i: int, r1: bytes, entries: bytes) -> bytes:
        signature = sign(self.identity(i), digest("sealed", self.context, r1, u16(i), entries))
        return message(3, self.context, u16(i) + r1 + entries + signature)

    def share_inbox(self, i: int, u1: list[int], u2: list[int]) -> bytes:
        return self.share_inbox_of(i, {j: self.sealed_for(j, i, u1) for j in u2 if j != i})

    def share_inbox_of(self, i: int, sealed: dict[int, bytes]) -> bytes:
        entries = u16(len(sealed)) + b"".join(u16(j) + text for j, text in sealed.items())
        return message(4, self.context, u16(i) + entries)

    # The vector and message 5
    def pair(self, i: int, j: int, r1: bytes) -> bytes:
        return pair_key(x25519(self.of(i).cm, x25519_public(self.of(j).cm)), r1, i, j)

    def masked(self, i: int, u1: list[int], u2: list[int], words: list[int]) -> list[int]:
        r1 = self.r1(u1)
        own = self_key(self.of(i).b, r1, i)
        pairs = [(1 if j > i else -1, self.pair(i, j, r1)) for j in u2 if j != i]
        modulus = 2 ** self.parameters["wire_bits"]
        return [
            (q + word(own, k) + sum(sign * word(key, k) for sign, key in pairs)) % modulus for k, q in enumerate(words)
        ]

    def masked_input_proof(self, i: int, u1: list[int], u2: list[int], masked: list[int]) -> bytes:
        fields = (self.context, self.r1(u1), u16(i), listed(u2), vector_sha256(masked))
        return message(5, self.context, u16(i) + fields[-1] + sign(self.identity(i), digest("masked", *fields)))

    # Messages 6, 7 and 8
    def consistency_lists(self, u2: list[int], u3: list[int]) -> bytes:
        return message(6, self.context, listed(u2) + listed(u3))

    def consistency_signature_of(self, i: int, u1: list[int], u2: list[int], u3: list[int]) -> bytes:
        return sign(self.identity(i), digest("survivors", self.context, self.r1(u1), listed(u2), listed(u3)))

    def consistency_signature(self, i: int, u1: list[int], u2: list[int], u3: list[int]) -> bytes:
        return message(7, self.context, u16(i) + self.consistency_signature_of(i, u1, u2, u3))

    def consistency_signatures_of(self, signatures: list[tuple[int, bytes]]) -> bytes:
        body = u16(len(signatures)) + b"".join(u16(j) + signature for j, signature in signatures)
        return message(8, self.context, body)

    def consistency_signatures(self, u1: list[int], u2: list[int], u3: list[int], u4: list[int]) -> bytes:
        return self.consistency_signatures_of([(j, self.consistency_signature_of(j, u1, u2, u3)) for j in u4])

    # Message 9
    def unmasking_shares(self, i: int, u1: list[int], u2: list[int], u3: list[int]) -> bytes:
        return self.unmasking_shares_of(i, u1, u2, u3, {j: self.share(j, i, 1 if j in u3 else 2) for j in u2})

    def unmasking_shares_of(self, i: int, u1: list[int], u2: list[int], u3: list[int], values: dict[int, int]) -> bytes:
        entries = u16(len(values)) + b"".join(u16(j) + share_bytes(value) for j, value in values.items())
        fields = (self.context, self.r1(u1), u16(i), listed(u2), listed(u3), entries)
        return message(9, self.context, u16(i) + entries + sign(self.identity(i), digest("shares", *fields)))

    def open(
        self, u1: list[int], u2: list[int], u3: list[int], vectors: dict[int, list[int]], shares: dict[int, dict]
    ) -> list[int]:
        """The sum, from masked vectors and revealed shares {holder: {owner: share}} alone (section 6)."""
        r1, t = self.r1(u1), self.parameters["threshold"]
        secrets = {
            owner: reconstruct({holder: shares[holder][owner] for holder in sorted(shares)[:t]}).to_bytes(32, "big")
            for owner in u2
        }
        masks = [(-1, self_key(secrets[j], r1, j)) for j in u3]
        for gone in set(u2) - set(u3):
            for j in u3:
                shared = x25519(secrets[gone], x25519_public(self.of(j).cm))
                # What j added for a larger index it is taken off again, and the other way round.
                masks.append((-1 if gone > j else 1, pair_key(shared, r1, gone, j)))
        modulus = 2 ** self.parameters["wire_bits"]
        return [
            (sum(vector[k] for vector in vectors.values()) + sum(sign * word(key, k) for sign, key in masks)) % modulus
            for k in range(self.parameters["dimension"])
        ]


# 6. The chain of survivor lists
def may_follow(lists: list[list[int]], u3: list[int], c: int) -> bool:
    """Whether a site that has signed `lists`, in this order, may sign u3."""
    if not lists:
        return True
    left_out = [i for i in lists[-1] if i not in u3]
    come_in = [i for i in u3 if i not in lists[-1]]
    return not come_in and (not left_out or len(left_out) >= c + 2)
