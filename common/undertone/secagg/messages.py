"""The nine messages of a session: typed, frozen, in one spelling (docs/secure-aggregation.md, 5).

Decoding checks the form alone. Whether a signature holds or a set is the right one is for the party that reads.
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
_ADVERT_BYTES = 2 * KEY_BYTES + DIGEST_BYTES + SIGNATURE_BYTES

Entries = tuple[tuple[int, bytes], ...]
Indices = tuple[int, ...]
M = TypeVar("M")


@dataclass(frozen=True)
class Advert:
    """1, site to server: fresh public keys e and m, the commitment h to the self mask, the site's signature."""

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
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Advert":
        """Read a message of this session of `roster` sites.

        Raises:
            ProtocolError: malformed.
        """
        return _read(data, cls.KIND, context, "advert", lambda r: cls.of(r.index(roster), r.take(_ADVERT_BYTES)))

    @classmethod
    def of(cls, index: int, content: bytes) -> "Advert":
        """From the index and the bytes after it."""
        return cls(index, content[:32], content[32:64], content[64:96], content[96:])


@dataclass(frozen=True)
class Adverts:
    """2, server to U1: all adverts."""

    KIND: ClassVar[int] = 2
    adverts: tuple[Advert, ...]

    @property
    def entries(self) -> bytes:
        """The body, which R1 is the digest of."""
        return entry_list([(advert.index, advert.content) for advert in self.adverts])

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + self.entries

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Adverts":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        entries = _read(data, cls.KIND, context, "adverts", lambda r: r.entries(roster, _ADVERT_BYTES))
        return cls(tuple(Advert.of(index, content) for index, content in entries))


@dataclass(frozen=True)
class Sealed:
    """3, site to server: for each other site of U1 the shares of b and cm, sealed."""

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
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Sealed":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """

        def body(r: Reader) -> "Sealed":
            index, digest = r.index(roster), r.take(DIGEST_BYTES)
            return cls(index, digest, r.entries(roster, SEALED_BYTES), r.take(SIGNATURE_BYTES))

        return _read(data, cls.KIND, context, "sealed shares", body)


@dataclass(frozen=True)
class Inbox:
    """4, server to one site of U2: what each other site of U2 sealed for it."""

    KIND: ClassVar[int] = 4
    index: int
    sealed: Entries

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + entry_list(self.sealed)

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Inbox":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(data, cls.KIND, context, "inbox", lambda r: cls(r.index(roster), r.entries(roster, SEALED_BYTES)))


@dataclass(frozen=True)
class Proof:
    """5, site to server, with the masked vector: its SHA-256, signed together with U2."""

    KIND: ClassVar[int] = 5
    index: int
    digest: bytes
    signature: bytes

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + self.digest + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Proof":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(
            data,
            cls.KIND,
            context,
            "proof",
            lambda r: cls(r.index(roster), r.take(DIGEST_BYTES), r.take(SIGNATURE_BYTES)),
        )


@dataclass(frozen=True)
class Lists:
    """6, server to U3: U2, who was masked for, and U3, whose vectors are in the sum."""

    KIND: ClassVar[int] = 6
    masked_for: Indices
    survivors: Indices

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + index_list(self.masked_for) + index_list(self.survivors)

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Lists":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(data, cls.KIND, context, "lists", lambda r: cls(r.indices(roster), r.indices(roster)))


@dataclass(frozen=True)
class Confirmation:
    """7, site to server: its signature on R1, U2 and U3."""

    KIND: ClassVar[int] = 7
    index: int
    signature: bytes

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Confirmation":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(data, cls.KIND, context, "confirmation", lambda r: cls(r.index(roster), r.take(SIGNATURE_BYTES)))


@dataclass(frozen=True)
class Confirmations:
    """8, server to U4: the signatures of U4."""

    KIND: ClassVar[int] = 8
    signatures: Entries

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + entry_list(self.signatures)

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Confirmations":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """
        return _read(data, cls.KIND, context, "confirmations", lambda r: cls(r.entries(roster, SIGNATURE_BYTES)))


@dataclass(frozen=True)
class Shares:
    """9, site to server: per site of U2 its share of b (if in U3) or of cm (if not), never both."""

    KIND: ClassVar[int] = 9
    index: int
    shares: Entries = field(repr=False)
    signature: bytes

    def to_bytes(self, context: bytes) -> bytes:
        """The message."""
        return header(self.KIND, context) + u16(self.index) + entry_list(self.shares) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes, context: bytes, roster: int) -> "Shares":
        """Read a message.

        Raises:
            ProtocolError: malformed.
        """

        def body(r: Reader) -> "Shares":
            return cls(r.index(roster), r.entries(roster, SHARE_BYTES), r.take(SIGNATURE_BYTES))

        return _read(data, cls.KIND, context, "shares", body)


def largest_reply(kind: int, roster: int) -> int:
    """Bytes of a site's message of `kind` when all of `roster` sites take part; it is never longer."""
    entries = {Sealed.KIND: (roster - 1) * (2 + SEALED_BYTES), Shares.KIND: roster * (2 + SHARE_BYTES)}
    bodies = {
        Advert.KIND: 2 + _ADVERT_BYTES,
        Sealed.KIND: 2 + DIGEST_BYTES + 2 + SIGNATURE_BYTES,
        Proof.KIND: 2 + DIGEST_BYTES + SIGNATURE_BYTES,
        Confirmation.KIND: 2 + SIGNATURE_BYTES,
        Shares.KIND: 2 + 2 + SIGNATURE_BYTES,
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
