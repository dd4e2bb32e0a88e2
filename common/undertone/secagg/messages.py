"""The nine messages of a session: typed, frozen, in one spelling (docs/secure-aggregation.md, 5).

Each says its number on the wire and the round of Bonawitz et al. 2017 (figure 4) that it belongs to:
AdvertiseKeys (0), ShareKeys (1), MaskedInput (2), ConsistencyCheck (3), Unmasking (4). Decoding checks the form
alone. Whether a signature holds or a set is the right one is for the party that reads.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from undertone.errors import ProtocolError
from undertone.secagg.encoding import DIGEST_BYTES, HEADER_BYTES, Reader, entry_list, header, index_list, u16
from undertone.secagg.shamir import SHARE_BYTES

KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEALED_BYTES = 2 * SHARE_BYTES + 16
_ADVERTISED_BYTES = 2 * KEY_BYTES + DIGEST_BYTES + SIGNATURE_BYTES

Entries = tuple[tuple[int, bytes], ...]
Indices = tuple[int, ...]
M = TypeVar("M")


@dataclass(frozen=True)
class AdvertisedKeys:
    """1, AdvertiseKeys, site to server: public keys e and m, the commitment h to the self mask, the signature."""

    KIND: ClassVar[int] = 1
    index: int
    seal_key: bytes
    mask_key: bytes
    commitment: bytes
    signature: bytes

    @property
    def content(self) -> bytes:
        """Everything after the index."""
        return self.seal_key + self.mask_key + self.commitment + self.signature

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + self.content

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "AdvertisedKeys":
        """Read a message of this session of `roster` sites.

        Raises:
            ProtocolError: malformed.
        """
        return _read(
            data, cls.KIND, context, "advertised keys", lambda r: cls.of(r.index(roster), r.take(_ADVERTISED_BYTES))
        )

    @classmethod
    def of(cls, index: int, content: bytes) -> "AdvertisedKeys":
        """From the index and the bytes after it."""
        return cls(index, content[:32], content[32:64], content[64:96], content[96:])


@dataclass(frozen=True)
class AdvertisedKeysList:
    """2, AdvertiseKeys, server to U1: what each site of U1 advertised."""

    KIND: ClassVar[int] = 2
    advertised: tuple[AdvertisedKeys, ...]

    @property
    def entries(self) -> bytes:
        """The body, which R1 is the digest of."""
        return entry_list([(advertised.index, advertised.content) for advertised in self.advertised])

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + self.entries

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "AdvertisedKeysList":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        entries = _read(
            data, cls.KIND, context, "list of advertised keys", lambda r: r.entries(roster, _ADVERTISED_BYTES)
        )
        return cls(tuple(AdvertisedKeys.of(index, content) for index, content in entries))


@dataclass(frozen=True)
class SealedShares:
    """3, ShareKeys, site to server: for each other site of U1 its shares of b and cm, sealed."""

    KIND: ClassVar[int] = 3
    index: int
    round_digest: bytes
    sealed: Entries
    signature: bytes

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        body = u16(self.index) + self.round_digest + entry_list(self.sealed) + self.signature
        return header(self.KIND, context) + body

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "SealedShares":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """

        def body(r: Reader) -> "SealedShares":
            index, digest = r.index(roster), r.take(DIGEST_BYTES)
            return cls(index, digest, r.entries(roster, SEALED_BYTES), r.take(SIGNATURE_BYTES))

        return _read(data, cls.KIND, context, "sealed shares", body)


@dataclass(frozen=True)
class ShareInbox:
    """4, ShareKeys, server to one site of U2: what each other site of U2 sealed for it."""

    KIND: ClassVar[int] = 4
    index: int
    sealed: Entries

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + entry_list(self.sealed)

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "ShareInbox":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(
            data, cls.KIND, context, "share inbox", lambda r: cls(r.index(roster), r.entries(roster, SEALED_BYTES))
        )


@dataclass(frozen=True)
class MaskedInputProof:
    """5, MaskedInput, site to server, with the masked vector: its SHA-256, signed together with U2."""

    KIND: ClassVar[int] = 5
    index: int
    digest: bytes
    signature: bytes

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + self.digest + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "MaskedInputProof":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(
            data,
            cls.KIND,
            context,
            "masked input proof",
            lambda r: cls(r.index(roster), r.take(DIGEST_BYTES), r.take(SIGNATURE_BYTES)),
        )


@dataclass(frozen=True)
class ConsistencyLists:
    """6, ConsistencyCheck, server to U3: U2, who was masked for, and U3, whose vectors are in the sum."""

    KIND: ClassVar[int] = 6
    masked_for: Indices
    survivors: Indices

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + index_list(self.masked_for) + index_list(self.survivors)

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "ConsistencyLists":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(data, cls.KIND, context, "consistency lists", lambda r: cls(r.indices(roster), r.indices(roster)))


@dataclass(frozen=True)
class ConsistencySignature:
    """7, ConsistencyCheck, site to server: its signature on R1, U2 and U3."""

    KIND: ClassVar[int] = 7
    index: int
    signature: bytes

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "ConsistencySignature":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(
            data, cls.KIND, context, "consistency signature", lambda r: cls(r.index(roster), r.take(SIGNATURE_BYTES))
        )


@dataclass(frozen=True)
class ConsistencySignatures:
    """8, Unmasking, server to U4: the consistency signatures of U4."""

    KIND: ClassVar[int] = 8
    signatures: Entries

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + entry_list(self.signatures)

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "ConsistencySignatures":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(
            data, cls.KIND, context, "consistency signatures", lambda r: cls(r.entries(roster, SIGNATURE_BYTES))
        )


@dataclass(frozen=True)
class UnmaskingShares:
    """9, Unmasking, site to server: for each site of U2 one share, of b (if in U3) or of cm (if not), never both."""

    KIND: ClassVar[int] = 9
    index: int
    shares: Entries = field(repr=False)
    signature: bytes

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + entry_list(self.shares) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "UnmaskingShares":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """

        def body(r: Reader) -> "UnmaskingShares":
            return cls(r.index(roster), r.entries(roster, SHARE_BYTES), r.take(SIGNATURE_BYTES))

        return _read(data, cls.KIND, context, "unmasking shares", body)


def largest_reply(kind: int, roster: int) -> int:
    """Bytes of a site's message of `kind` when all of `roster` sites take part; it is never longer."""
    entries = {SealedShares.KIND: (roster - 1) * (2 + SEALED_BYTES), UnmaskingShares.KIND: roster * (2 + SHARE_BYTES)}
    bodies = {
        AdvertisedKeys.KIND: 2 + _ADVERTISED_BYTES,
        SealedShares.KIND: 2 + DIGEST_BYTES + 2 + SIGNATURE_BYTES,
        MaskedInputProof.KIND: 2 + DIGEST_BYTES + SIGNATURE_BYTES,
        ConsistencySignature.KIND: 2 + SIGNATURE_BYTES,
        UnmaskingShares.KIND: 2 + 2 + SIGNATURE_BYTES,
    }
    return HEADER_BYTES + bodies[kind] + entries.get(kind, 0)


def _read(data: bytes, kind: int, context: bytes, name: str, body: Callable[[Reader], M]) -> M:
    """Header, body, nothing after it."""
    if not isinstance(data, bytes):
        raise ProtocolError(f"a message ({name}) is not bytes")
    reader = Reader(data, name)
    reader.header(kind, context)
    message = body(reader)
    reader.done()
    return message


def indices_of(entries: Iterable[tuple[int, bytes]]) -> Indices:
    """The indices of a list of entries."""
    return tuple(index for index, _ in entries)
