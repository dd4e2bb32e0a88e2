"""A site's sum over shards, worked out slowly from files and secret: the truth that nodes are held against."""

import numpy as np

from tests.support.dummy import SIZE, DummyBase
from tests.support.sharded import ROW, ShardedDummy
from tests.support.world import World
from undertone.data.images import load_image
from undertone.methods.protocol import UnitRecords
from undertone.privacy.quantise import clip_and_quantise
from undertone.privacy.shards import PREPARED, shard_key, shard_of
from undertone.privacy.unit_randomness import row_generator


def oracle(world: World, site: str, queries: list[np.ndarray]) -> np.ndarray:
    """The sum of the last of these rounds at a site, worked out slowly from files and secret, shard by shard."""
    method, plan = world.sharded, world.plan
    assert isinstance(method, ShardedDummy)
    secret, total = (world.sites[site] / "secret.key").read_bytes(), np.zeros(ROW, dtype=np.int64)
    for number in range(method.shards):
        rows = [row for row in world.records[site] if shard_of(secret, row["patient_id"], method.shards) == number]
        rows.sort(key=lambda row: row["patient_id"])
        if not rows:
            continue
        images = np.stack([load_image(world.folder / "data" / site / row["file_name"], SIZE) for row in rows])
        generator = row_generator(shard_key(secret, plan.digest, PREPARED, number))
        shard = UnitRecords(DummyBase().encode(images), ("",) * len(rows), generator)
        prepared, memory = method.prepared(None, shard), None
        for round_, one in enumerate(queries, start=1):
            drawn = row_generator(shard_key(secret, plan.digest, round_, number))
            row, memory = method.shard_row(None, one, prepared, memory, drawn)
        total += clip_and_quantise(row[None], plan.grid.as_grid())[0]
    return total
