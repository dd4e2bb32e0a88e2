"""One spelling for every message and every hash of secure aggregation (docs/secure-aggregation.md, 1, 5).

Fields have a fixed length or a count in front, lists are strictly increasing, nothing may follow. So bytes
that decode at all encode again to the same bytes.
"""

import hashlib
from collections.abc import Sequence

from undertone.errors import ProtocolError

VERSION = 1
LABEL = b"undertone/secagg/1/"
DIGEST_BYTES = 32
HEADER_BYTES = 2 + DIGEST_BYTES


def tagged(label: str, *fields: bytes) -> bytes:
    """H(label, f1, f2, ...): SHA-256 over the length-prefixed label and fields, 32 bytes."""
    state = hashlib.sha256(prefixed(LABEL + label.encode()))
    for field in fields:
        state.update(len(field).to_bytes(4, "big"))
        state.update(field)
    return state.digest()


def prefixed(field: bytes) -> bytes:
    """u32 length, then the field."""
    return len(field).to_bytes(4, "big") + field


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return value.to_bytes(2, "big")


def index_list(indices: Sequence[int]) -> bytes:
    """LIST(S): a count, then strictly increasing indices."""
    return u16(len(indices)) + b"".join(u16(index) for index in indices)


def header(kind: int, context: bytes) -> bytes:
    """Version, kind and session of a message."""
    return bytes((VERSION, kind)) + context


class Reader:
    """Takes a message apart from the left; every deviation is a `ProtocolError` that names the message."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._at = 0
        self._name = name

    def header(self, kind: int, context: bytes) -> None:
        """Insist on version, kind and session.

        Raises:
            ProtocolError: another version, kind or session.
        """
        version, found = self.take(2)
        if (version, found) != (VERSION, kind):
            raise self.wrong(f"has version {version} and kind {found} instead of {VERSION} and {kind}")
        if self.take(DIGEST_BYTES) != context:
            raise self.wrong("belongs to another session, or to other parameters")

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            ProtocolError: there are fewer.
        """
        end = self._at + size
        if end > len(self._data):
            raise self.wrong(f"ends after {len(self._data)} bytes")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self) -> int:
        """The next u16."""
        return int.from_bytes(self.take(2), "big")

    def index(self, roster: int) -> int:
        """The next u16, which must be below `roster`.

        Raises:
            ProtocolError: no site has that index.
        """
        value = self.number()
        if value >= roster:
            raise self.wrong(f"names site number {value} of {roster}")
        return value

    def entries(self, roster: int, size: int) -> tuple[tuple[int, bytes], ...]:
        """A count, then that many (u16 index, `size` bytes), indices strictly increasing and below `roster`.

        Raises:
            ProtocolError: an index that is too large or out of order, or fewer bytes than the count promises.
        """
        block = self.take(self.number() * (2 + size))
        found: list[tuple[int, bytes]] = []
        for at in range(0, len(block), 2 + size):
            index = int.from_bytes(block[at : at + 2], "big")
            if index >= roster or (found and index <= found[-1][0]):
                raise self.wrong("lists sites that do not exist, twice, or out of order")
            found.append((index, block[at + 2 : at + 2 + size]))
        return tuple(found)

    def indices(self, roster: int) -> tuple[int, ...]:
        """A `LIST`."""
        return tuple(index for index, _ in self.entries(roster, 0))

    def done(self) -> None:
        """Insist that nothing follows.

        Raises:
            ProtocolError: something does.
        """
        if self._at != len(self._data):
            raise self.wrong(f"goes on for {len(self._data) - self._at} bytes after its end")

    def wrong(self, what: str) -> ProtocolError:
        """The error to raise about this message."""
        return ProtocolError(f"a message ({self._name}) {what}; the session cannot go on with it")


def entry_list(entries: Sequence[tuple[int, bytes]]) -> bytes:
    """What `Reader.entries` reads."""
    return u16(len(entries)) + b"".join(u16(index) + content for index, content in entries)
