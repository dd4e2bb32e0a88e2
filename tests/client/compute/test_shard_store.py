"""What a node keeps of shards: the memory of many is erased a few at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undertone_client.compute.disk_array import DiskArray
from undertone_client.compute.shard_store import Shard, ShardStore

SHARDS, MEMORY = 37, 5


def shard(number: int, of: int = 1) -> Shard:
    return Shard(number, (number,), bytes([of, number, *bytes(14)]))


def test_memory_of_other_records_is_erased_a_few_shards_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard's memory is some MB, and there may be thousands of shards."""
    memory, asked = ShardStore(tmp_path, SHARDS, MEMORY).memory_after(1, 1), list[int]()
    for number in range(SHARDS - 1):  # the last has none
        memory.put(shard(number), np.full(MEMORY, number, dtype=np.float32))

    def counted(name: str) -> Any:
        true = getattr(DiskArray, name)

        def call(self: DiskArray, indices: Sequence[int], *values: Any) -> Any:
            asked.append(len(indices))
            return true(self, indices, *values)

        return call

    for name in ("read", "write"):
        monkeypatch.setattr(DiskArray, name, counted(name))
    changed, gone = {*range(3, 20), 30}, {25, 35}
    now = [shard(number, 2 if number in changed else 1) for number in range(SHARDS) if number not in gone]
    memory.erase_others(now)
    assert max(asked) <= 8
    for number in range(SHARDS - 1):
        kept, values = memory.of(shard(number))
        assert kept == (number not in changed | gone)
        assert values is None if not kept else (values == number).all()
    assert not memory.of(shard(SHARDS - 1))[0]
    assert all(not memory.array.read([number]).any() for number in (*changed, *gone, SHARDS - 1))
