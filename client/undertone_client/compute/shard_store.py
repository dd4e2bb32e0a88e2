"""What a node keeps of the shards of a study: what is made of their records once, and their memory (PRIVACY 15).

    shards/DIGEST16-S/prepared-SHARD-CONTENT.npy    what all rounds need of a shard's records
    shards/DIGEST16-S/memory-ROUND-ATTEMPT.npy      [S, ...]: each shard's memory after that attempt

CONTENT is a MAC of the records that stand in the shard. Nothing made of other records is used: it is erased. Nothing
here is ever sent, and nothing is lost that the node cannot make again, but for memory.
"""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.core.durable import read_array, storage_errors, sync, write_array
from undertone.errors import FolderError
from undertone.privacy.shards import shard_of
from undertone_client.compute.disk_array import DiskArray
from undertone_client.site.folder import SiteDir

Values = NDArray[np.float32]
CONTENT_BYTES = 16
_SEAL_BYTES, _HELD_BYTES = 16, 8
_HEAD_BYTES = CONTENT_BYTES + _SEAL_BYTES + _HELD_BYTES
_AT_ONCE = 8  # shards whose memory is read or erased in one piece: it is some MB of each
_PREPARED = re.compile(r"prepared-(\d{4})-([0-9a-f]{32})\.npy(\.part)?")


@dataclass(frozen=True)
class Shard:
    """One shard as it stands now: `records` are positions of what enters of its units' records; may be none.

    `content` is a MAC of these records, [16].
    """

    number: int
    records: tuple[int, ...]
    content: bytes

    def row_name(self, before: str) -> str:
        """What its row is kept under: a row follows from the shard's records, and from the memory that it began with.

        Args:
            before: the attempt whose memory that was.
        """
        return f"{_row_prefix(self.number)}{self.content.hex()} {before}"


@dataclass(frozen=True)
class ShardStore:
    """The shards of one study at one site; `memory` is how many values each remembers."""

    folder: Path
    shards: int
    memory: int

    @classmethod
    def of(cls, site: SiteDir, digest: str, shards: int, memory: int) -> "ShardStore":
        """Of a plan, its folder made where it is missing."""
        folder = site.folder / "shards" / f"{digest[:16]}-{shards}"
        with storage_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync(folder.parent)
        return cls(folder, shards, memory)

    def prepared(self, shard: Shard) -> Values | None:
        """What was made of exactly these records; None where it was not yet, or is damaged."""
        path = self._prepared(shard)
        if not path.is_file():
            return None
        try:
            return read_array(path).astype(np.float32, copy=False)
        except FolderError:
            return None

    def keep_prepared(self, shard: Shard, values: Values) -> None:
        """Store what was made of these records, durably."""
        write_array(self._prepared(shard), values)

    def memory_after(self, round_: int, attempt: int) -> "ShardMemory":
        """The memory of all shards after an attempt, made where there is none."""
        return ShardMemory(DiskArray(self._memory(round_, attempt), (self.shards, _HEAD_BYTES + 4 * self.memory), "u1"))

    def has_memory(self, round_: int, attempt: int) -> bool:
        """Whether there is any after that attempt."""
        return self._memory(round_, attempt).is_file()

    def drop_memory(self, round_: int, attempt: int) -> None:
        """Erase the memory of all shards after an attempt, which is then made anew."""
        with storage_errors(self.folder):
            self._memory(round_, attempt).unlink(missing_ok=True)
        sync(self.folder)

    def erase_others(self, shards: Sequence[Shard], attempts: Collection[tuple[int, int]]) -> None:
        """Erase what was made of other records than stand in the shards now, and memory after other attempts."""
        content = {shard.number: shard.content.hex() for shard in shards}
        kept = {self._memory(*key).name for key in attempts}
        with storage_errors(self.folder):
            for path in list(self.folder.iterdir()):
                found = _PREPARED.fullmatch(path.name)
                if found is not None:
                    if content.get(int(found[1])) != found[2] or found[3]:
                        path.unlink(missing_ok=True)
                elif path.name not in kept:
                    path.unlink(missing_ok=True)
                else:
                    ShardMemory(DiskArray.found(path)).erase_others(shards)

    def _prepared(self, shard: Shard) -> Path:
        return self.folder / f"prepared-{shard.number:04d}-{shard.content.hex()}.npy"

    def _memory(self, round_: int, attempt: int) -> Path:
        return self.folder / f"memory-{round_:06d}-{attempt:03d}.npy"


@dataclass(frozen=True)
class ShardMemory:
    """Each shard's memory after one attempt, sealed one by one: content, seal, whether there is any, values."""

    array: DiskArray

    def of(self, shard: Shard) -> tuple[bool, Values | None]:
        """Whether it was written for these records; and the values, None where the shard remembers nothing."""
        item = self.array.read([shard.number])[0].tobytes()
        content, seal, rest = _parts(item)
        if content != shard.content or seal != _seal(shard.number, content, rest):
            return False, None
        return True, np.frombuffer(rest[_HELD_BYTES:], dtype="<f4").copy() if any(rest[:_HELD_BYTES]) else None

    def put(self, shard: Shard, values: Values | None) -> None:
        """Store a shard's memory; durable after `sync`."""
        size = self.array.shape[1] - _HEAD_BYTES
        held = bytes(_HELD_BYTES) if values is None else bytes(_HELD_BYTES - 1) + b"\1"
        rest = held + (bytes(size) if values is None else values.astype("<f4").tobytes())
        item = shard.content + _seal(shard.number, shard.content, rest) + rest
        self.array.write([shard.number], np.frombuffer(item, dtype="u1")[None])

    def sync(self) -> None:
        """Flush to disk."""
        self.array.sync()

    def erase_others(self, shards: Sequence[Shard]) -> None:
        """Put zeros in the place of what was made of other records than stand in the shards now."""
        now, nothing = {shard.number: shard.content for shard in shards}, bytes(CONTENT_BYTES)
        stale = []
        for first in range(0, self.array.shape[0], _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, self.array.shape[0]))
            for number, item in zip(numbers, self.array.read(numbers), strict=True):
                if item[:CONTENT_BYTES].tobytes() not in (nothing, now.get(number, nothing)):
                    stale.append(number)
        self.erase(stale)

    def erase(self, numbers: list[int]) -> None:
        """Put zeros in the place of these shards' memory, durably."""
        for first in range(0, len(numbers), _AT_ONCE):
            few = numbers[first : first + _AT_ONCE]
            self.array.write(few, np.zeros((len(few), self.array.shape[1]), dtype="u1"))
        if numbers:
            self.array.sync()


def erase_shards_of(site: SiteDir, digest: str, units: Collection[str]) -> frozenset[str]:
    """Erase all that was made of the shards in which units of a study stand; how the names of their rows begin.

    Raises:
        FolderError: something cannot be written.
    """
    secret, prefixes = site.secret(), set[str]()
    for folder, shards in _folders(site, digest):
        numbers = sorted({shard_of(secret, unit, shards) for unit in units})
        with storage_errors(folder):
            for number in numbers:
                for path in folder.glob(f"prepared-{number:04d}-*"):
                    path.unlink(missing_ok=True)
            for path in folder.glob("memory-*.npy"):
                ShardMemory(DiskArray.found(path)).erase(numbers)
        prefixes.update(_row_prefix(number) for number in numbers)
    return frozenset(prefixes)


def forget_shards(site: SiteDir, digest: str) -> None:
    """Delete all that is kept of a study's shards."""
    for folder, _ in _folders(site, digest):
        with storage_errors(folder):
            shutil.rmtree(folder)


def _folders(site: SiteDir, digest: str) -> Iterator[tuple[Path, int]]:
    """Where a study's shards are kept, and how many they are."""
    for folder in sorted((site.folder / "shards").glob(f"{digest[:16]}-*")):
        yield folder, int(folder.name.rsplit("-", 1)[1])


def _row_prefix(number: int) -> str:
    return f"shard {number:04d} "


def _parts(item: bytes) -> tuple[bytes, bytes, bytes]:
    return item[:CONTENT_BYTES], item[CONTENT_BYTES : CONTENT_BYTES + _SEAL_BYTES], item[CONTENT_BYTES + _SEAL_BYTES :]


def _seal(number: int, content: bytes, rest: bytes) -> bytes:
    return sha256(number.to_bytes(8, "big") + content + rest).digest()[:_SEAL_BYTES]
