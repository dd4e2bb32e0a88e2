"""A site's registered units, split into shards: who stands where now (PRIVACY 15)."""

from collections.abc import Callable, Mapping, Sequence

from undertone.core.canonical import Json, canonical_json
from undertone.core.remembered import Remembered
from undertone.privacy.shards import shard_of
from undertone_client.compute.shard_store import CONTENT_BYTES, Shard
from undertone_client.site.sealed import mac

_DOMAIN = b"undertone/1/shard-content\0"
# Of the sites and studies of this process.
_known: Remembered[bytes, list[Shard]] = Remembered(64)


def split(
    secret: bytes,
    study: str,
    shards: int,
    units: Mapping[str, Sequence[int]],
    entering: Callable[[str], Sequence[int]],
    said: Callable[[int], Json],
    standing: bytes,
) -> list[Shard]:
    """All S shards, each with the records that stand in it now; a unit's shard follows from its own id.

    Args:
        secret: the node's.
        study: the plan's digest.
        shards: S.
        units: each unit's records, by position.
        entering: which of a unit's records stand in its shard now; none of a unit that was withdrawn.
        said: what a record is, as its shard's content counts it.
        standing: a digest of all that `entering` and `said` follow from; while it is the same, nobody is asked anew.
    """
    key = mac(secret, _DOMAIN, study.encode(), str(shards).encode(), standing)
    return _known.get(key) or _known.put(key, _split(secret, study, shards, units, entering, said))


def _split(
    secret: bytes,
    study: str,
    shards: int,
    units: Mapping[str, Sequence[int]],
    entering: Callable[[str], Sequence[int]],
    said: Callable[[int], Json],
) -> list[Shard]:
    records, content = [list[int]() for _ in range(shards)], [list[Json]() for _ in range(shards)]
    for unit in sorted(units):  # not as they were registered: a shard's order is its own
        found = entering(unit)
        if found:
            number = shard_of(secret, unit, shards)
            records[number] += found
            content[number].append([unit, *map(said, found)])
    macs = (mac(secret, _DOMAIN, study.encode(), canonical_json(one))[:CONTENT_BYTES] for one in content)
    return [Shard(number, tuple(records[number]), one) for number, one in enumerate(macs)]
