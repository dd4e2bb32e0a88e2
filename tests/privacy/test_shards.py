"""Which shard a unit stands in, and the randomness of each (PRIVACY 15)."""

import hashlib
import hmac
from itertools import product

import pytest

from undertone.errors import MechanismViolation
from undertone.privacy.shards import shard_key, shard_of
from undertone.privacy.stages import PER_ROW, PER_SHARD, Sensitivity

SECRET = bytes(range(32))


def test_a_shard_follows_from_the_units_own_id_and_the_secret_alone() -> None:
    """Worked out by hand: label and id, each behind its length."""
    fields = (b"undertone/shard/1", b"patient-7")
    message = b"".join(len(field).to_bytes(8, "big") + field for field in fields)
    found = int.from_bytes(hmac.new(SECRET, message, hashlib.sha256).digest(), "big") % 64
    assert shard_of(SECRET, "patient-7", 64) == found
    assert len({shard_of(bytes([n]) * 32, "patient-7", 64) for n in range(40)}) > 20


def test_shards_are_about_as_large_as_each_other() -> None:
    counts = [0] * 8
    for number in range(4000):
        counts[shard_of(SECRET, f"unit {number}", 8)] += 1
    assert all(400 < count < 600 for count in counts)


def test_each_shard_has_its_own_randomness_in_each_round_and_study() -> None:
    keys = [shard_key(SECRET, *key) for key in product(("a", "b"), range(5), range(5))]
    assert len(set(keys)) == 50
    assert shard_key(SECRET, "a", 1, 2) == shard_key(SECRET, "a", 1, 2)


@pytest.mark.parametrize("wrong", [(-1, 0), (0, -1), (1 << 64, 0)])
def test_numbers_out_of_range_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(MechanismViolation):
        shard_key(SECRET, "a", *wrong)


def test_a_short_secret_and_no_shards_are_refused() -> None:
    with pytest.raises(MechanismViolation, match="must have 32"):
        shard_of(SECRET[:-1], "unit", 8)
    with pytest.raises(MechanismViolation, match="0 shards"):
        shard_of(SECRET, "unit", 0)


def test_delta_is_twice_the_clip_bound_where_rows_are_of_shards() -> None:
    assert Sensitivity.of(1024, PER_ROW) == Sensitivity(1024)
    assert Sensitivity.of(1024, PER_SHARD) == Sensitivity(2048, PER_SHARD)
