"""Which shard of a site a unit stands in, and each shard's own randomness (PRIVACY 15).

Both are functions of the node's secret and of public numbers: a unit that comes or goes moves no other unit to another
shard, and no other shard's randomness.
"""

from undertone.errors import MechanismViolation
from undertone.privacy.unit_randomness import mac_of

_SPLIT, _RANDOMNESS = b"undertone/shard/1", b"undertone/shard-row/1"
# Of `shard_key`: for what is made of a shard's records once, for all rounds.
PREPARED = 0


def shard_of(secret: bytes, unit: str, shards: int) -> int:
    """The shard of a unit, HMAC-SHA256(secret, unit) mod S, from 0 on; by its own id alone.

    Args:
        secret: the node's secret, at least 32 bytes; never leaves the site.
        unit: the unit's id as the site writes it.
        shards: S, public.

    Raises:
        MechanismViolation: the secret is too short, or there are no shards.
    """
    if shards < 1:
        raise MechanismViolation(f"a site cannot have {shards} shards")
    return int.from_bytes(mac_of(secret, _SPLIT, unit.encode("utf-8", "surrogatepass")), "big") % shards


def shard_key(secret: bytes, study: str, round_: int, shard: int) -> bytes:
    """The 32-byte key of one shard's randomness in one round, for `row_generator`; `PREPARED` is none of the rounds.

    The attempt is not in it: an attempt that was not charged moves nothing, and another one of its round gives
    the same row.

    Raises:
        MechanismViolation: the secret is too short, or a number is out of range.
    """
    if not (0 <= round_ < 1 << 64 and 0 <= shard < 1 << 64):
        raise MechanismViolation(f"round {round_}, shard {shard}: both must lie in [0, 2^64)")
    return mac_of(secret, _RANDOMNESS, study.encode(), round_.to_bytes(8, "big"), shard.to_bytes(8, "big"))
