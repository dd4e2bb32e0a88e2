"""The stored state of a session at a node: what it keeps between two messages, as it lies on the site's disk.

Each class holds what later steps need and nothing else: a secret that is no longer needed is not carried on.
None of them prints its content.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from undertone.errors import LedgerCorrupt, ProtocolError
from undertone.secagg.encoding import DIGEST_BYTES, Reader, entry_list, header, index_list, tagged, u16
from undertone.secagg.messages import AdvertisedKeys, AdvertisedKeysList, Entries, Indices
from undertone.secagg.shamir import SHARE_BYTES

_KIND = 0x10  # stored states are 0x11 to 0x15, messages 1 to 9
_ADVERTISED_BYTES = 160
S = TypeVar("S", bound="StoredState")


class StoredState(Protocol):
    """What is stored after one step."""

    def pack(self) -> bytes:
        """Its bytes, in one spelling."""
        ...

    @classmethod
    def unpack(cls: type[S], reader: Reader, roster: int) -> S:
        """The reverse of `pack`."""
        ...


@dataclass(frozen=True, repr=False)
class AfterAdvertiseKeys:
    """After AdvertiseKeys: this session's four secrets and the keys that were advertised."""

    self_secret: bytes
    seal_private: bytes
    mask_private: bytes
    seed: bytes
    advertised: AdvertisedKeys

    def pack(self) -> bytes:
        """Its bytes."""
        secrets = self.self_secret + self.seal_private + self.mask_private + self.seed
        return secrets + u16(self.advertised.index) + self.advertised.content

    @classmethod
    def unpack(cls, reader: Reader, roster: int) -> "AfterAdvertiseKeys":
        """The reverse."""
        b, ce, cm, seed = (reader.take(32) for _ in range(4))
        return cls(b, ce, cm, seed, AdvertisedKeys.of(reader.index(roster), reader.take(_ADVERTISED_BYTES)))


@dataclass(frozen=True, repr=False)
class AfterShareKeys:
    """After ShareKeys: b, cm, this site's share of its own b, the keys of U1, and a secret agreed with each peer.

    `agreed` is ce's exchange with every other site of U1, made once for both directions; ce itself is gone.
    """

    self_secret: bytes
    mask_private: bytes
    own_share: bytes
    agreed: Mapping[int, bytes]
    key_list: AdvertisedKeysList

    def pack(self) -> bytes:
        """Its bytes."""
        secrets = self.self_secret + self.mask_private + self.own_share
        return secrets + entry_list(tuple(self.agreed.items())) + self.key_list.entries

    @classmethod
    def unpack(cls, reader: Reader, roster: int) -> "AfterShareKeys":
        """The reverse."""
        b, cm, own_share = reader.take(32), reader.take(32), reader.take(SHARE_BYTES)
        agreed, entries = dict(reader.entries(roster, 32)), reader.entries(roster, _ADVERTISED_BYTES)
        key_list = AdvertisedKeysList(tuple(AdvertisedKeys.of(index, content) for index, content in entries))
        return cls(b, cm, own_share, agreed, key_list)


@dataclass(frozen=True, repr=False)
class AfterMaskedInput:
    """After MaskedInput: R1, and of each site of U2 its share of b and its share of cm (own: b alone)."""

    round_digest: bytes
    self_shares: Mapping[int, bytes]
    mask_shares: Mapping[int, bytes]

    @property
    def masked_for(self) -> Indices:
        """U2."""
        return tuple(self.self_shares)

    def pack(self) -> bytes:
        """Its bytes."""
        shares = (tuple(self.self_shares.items()), tuple(self.mask_shares.items()))
        return self.round_digest + entry_list(shares[0]) + entry_list(shares[1])

    @classmethod
    def unpack(cls, reader: Reader, roster: int) -> "AfterMaskedInput":
        """The reverse."""
        digest = reader.take(DIGEST_BYTES)
        return cls(digest, dict(reader.entries(roster, SHARE_BYTES)), dict(reader.entries(roster, SHARE_BYTES)))


@dataclass(frozen=True, repr=False)
class AfterConsistencyCheck:
    """After ConsistencyCheck: R1 and the signed lists, and of each site of U2 the one share that they allow."""

    round_digest: bytes
    masked_for: Indices
    survivors: Indices
    shares: Entries

    def pack(self) -> bytes:
        """Its bytes."""
        lists = index_list(self.masked_for) + index_list(self.survivors)
        return self.round_digest + lists + entry_list(self.shares)

    @classmethod
    def unpack(cls, reader: Reader, roster: int) -> "AfterConsistencyCheck":
        """The reverse."""
        digest = reader.take(DIGEST_BYTES)
        lists = reader.indices(roster), reader.indices(roster)
        return cls(digest, *lists, reader.entries(roster, SHARE_BYTES))


@dataclass(frozen=True, repr=False)
class AfterUnmasking:
    """After Unmasking."""

    def pack(self) -> bytes:
        """No bytes."""
        return b""

    @classmethod
    def unpack(cls, reader: Reader, roster: int) -> "AfterUnmasking":
        """The reverse."""
        return cls()


def pack(step: int, context: bytes, index: int, stored: StoredState) -> bytes:
    """A stored state's bytes: header, site, content, and a digest that shows a damaged file."""
    body = header(_KIND + step, context) + u16(index) + stored.pack()
    return body + tagged("state", body)


def unpack(kind: type[S], step: int, data: bytes, context: bytes, index: int, roster: int) -> S:
    """Read what `pack` wrote.

    Raises:
        LedgerCorrupt: damaged, or the state of another session, site or step.
    """
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    try:
        if tagged("state", body) != digest:
            raise ProtocolError("its digest does not fit")
        reader = Reader(body, "stored state")
        reader.header(_KIND + step, context)
        if reader.index(roster) != index:
            raise ProtocolError("it belongs to another site")
        stored = kind.unpack(reader, roster)
        reader.done()
    except ProtocolError as error:
        raise LedgerCorrupt(
            f"the stored state of this session cannot be used: {error}. Give the session up; the coordinator "
            "goes on without this site, or starts another"
        ) from None
    return stored


def step_of(data: bytes) -> int:
    """The step that stored bytes claim; `unpack` checks the claim.

    Raises:
        LedgerCorrupt: too short to be a state.
    """
    step = data[1] - _KIND if len(data) > 1 else 0
    if not 1 <= step <= 5:
        raise LedgerCorrupt("the stored state of this session is no state; give the session up")
    return step
