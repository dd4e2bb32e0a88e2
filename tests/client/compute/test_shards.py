"""Rows of shards through a whole node: what one unit moves, what is kept, what an attempt moves (PRIVACY 15, 17)."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.failpoints import Killed, at, meanwhile
from tests.support.shard_oracle import oracle
from tests.support.sharded import MEMORY, ROW, ShardedDummy
from tests.support.world import World, data_of
from undertone.methods.protocol import UnitRecords
from undertone.models.layout import state_sha256
from undertone.privacy.shards import shard_of
from undertone.privacy.stages import PER_SHARD, Sensitivity
from undertone_client.compute import shard_rows
from undertone_client.compute.erasing import forget_study, withdraw_unit
from undertone_client.compute.shard_store import Shard, ShardStore
from undertone_client.registration.registered import register
from undertone_client.round.contribution import site_total
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.folder import SiteDir
from undertone_client.site.tombstones import withdraw

Make = Callable[..., World]
Kept = dict[str, bytes]
SIZES = {"north": 24, "east": 4}
ROUNDS: dict[str, Any] = {"rounds": 3, "max_attempts": 9}


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world(SIZES, sharded={}, **ROUNDS)


def query(round_: int, said: float = 0.25) -> np.ndarray:
    return np.array([round_, said, 1.0], dtype=np.float32)


def asked(
    world: World, round_: int, attempt: int = 1, *, answered: bool = True, said: float = 0.25
) -> np.ndarray | None:
    """North's clamped sum [ROW] in an attempt, as it leaves; None where the vector was not asked for."""
    at_: dict[str, Any] = {"round": round_, "attempt": attempt, "state": query(round_, said)}
    reply = world.ask("prepare", **at_)
    assert not reply.error, reply.message
    if not answered:
        return None
    reply = world.ask("plain_input", **at_)
    assert reply.words is not None, reply.message
    return reply.words.view(np.int32).astype(np.int64)


def shards_of(world: World) -> Path:
    (folder,) = (world.sites["north"] / "shards").iterdir()
    return folder


def kept_files(world: World, pattern: str) -> Kept:
    return {path.name: path.read_bytes() for path in sorted(shards_of(world).glob(pattern))}


def remembered(world: World, round_: int, attempt: int = 1) -> np.ndarray:
    """What stands in the file of memory after an attempt, a line for each shard."""
    return np.load(shards_of(world) / f"memory-{round_:06d}-{attempt:03d}.npy")


def values_of(world: World, round_: int, attempt: int = 1) -> np.ndarray:
    """The remembered values alone, [S, MEMORY]."""
    return remembered(world, round_, attempt)[:, -4 * MEMORY :].copy().view("<f4")


def number_of(world: World, unit: str) -> int:
    return shard_of((world.sites["north"] / "secret.key").read_bytes(), unit, world.plan.method.shards or 0)


def crowded(world: World) -> str:
    """A unit that is not alone in its shard: four shards of twelve units have some."""
    counts = Counter(number_of(world, unit) for unit in units_of(world))
    return next(unit for unit in units_of(world) if counts[number_of(world, unit)] > 1)


def units_of(world: World) -> list[str]:
    return sorted({row["patient_id"] for row in world.records["north"]})


def without(world: World, unit: str, place: Path) -> World:
    """The same world, secrets too, in which one unit of north was never registered."""
    shutil.copytree(world.folder / "sites", place / "sites")
    shutil.copytree(world.folder / "run", place / "run")
    sites = {site: place / "sites" / site for site in world.sites}
    other = replace(world, run=type(world.run)(place / "run"), sites=sites)
    north = SiteDir(sites["north"])
    withdraw(north, data_of(north), unit)
    (north.folder / "registered" / f"{world.plan.digest}.jsonl").unlink()
    table = register(north, world.plan, data_of(north))
    assert unit not in table.units()
    return other


# --- one unit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"remembers": False}, {"shards": 16}])
def test_one_unit_moves_nothing_of_another_shard_in_three_rounds(
    make_world: Make, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Split, what is prepared, memory and row: bit by bit; and the sum of integers by 2 s C at most (PRIVACY 15)."""
    world = make_world(SIZES, sharded=options, **ROUNDS)
    unit = units_of(world)[3]
    other = without(world, unit, tmp_path / "other")
    moved, delta = number_of(world, unit), world.plan.stages[0].sensitivity
    assert delta == Sensitivity(2 * world.plan.grid.clip_units, PER_SHARD)
    for round_ in (1, 2, 3):
        sums = [asked(one, round_) for one in (world, other)]
        assert 0 < np.linalg.norm(sums[0] - sums[1]) <= delta.l2
        rows = [{name[:10]: row.tobytes() for name, row in one.rows(round_=round_).items()} for one in (world, other)]
        prepared = [{name[:13]: data for name, data in kept_files(one, "prepared-*").items()} for one in (world, other)]
        for kept in (rows, prepared):
            differ = {name for name in kept[0].keys() | kept[1].keys() if kept[0].get(name) != kept[1].get(name)}
            assert {int(name.split("-" if "-" in name else " ")[1]) for name in differ} == {moved}
        if world.sharded is not None and world.sharded.memory(None):
            memories = [remembered(one, round_) for one in (world, other)]
            assert np.flatnonzero((memories[0] != memories[1]).any(axis=1)).tolist() == [moved]
    names = [set(kept_files(one, "prepared-*")) for one in (world, other)]
    assert len(names[0] ^ names[1]) <= 2


def test_a_pair_reaches_nearly_twice_the_clip_bound(make_world: Make, tmp_path: Path) -> None:
    """Delta is no smaller than 2 s C: one unit more turns a shard's row around."""
    world = make_world(SIZES, sharded={"loud": True}, **ROUNDS)
    unit = crowded(world)  # else the other row is that of an empty shard
    other = without(world, unit, tmp_path / "other")
    sums = [asked(one, 1) for one in (world, other)]
    moved = float(np.linalg.norm(sums[0] - sums[1]))
    assert 1.9 * world.plan.grid.clip_units < moved <= world.plan.privacy.sensitivity


def test_a_sites_sum_is_that_of_an_oracle_over_its_shards(world: World) -> None:
    for round_ in (1, 2, 3):
        np.testing.assert_array_equal(
            asked(world, round_), oracle(world, "north", [query(one) for one in range(1, round_ + 1)])
        )


def test_empty_shards_are_zero_rows_and_every_shard_counts(make_world: Make) -> None:
    """None is merged or dropped: sixteen shards of twelve patients."""
    world = make_world(SIZES, sharded={"shards": 16}, **ROUNDS)
    total = asked(world, 1)
    standing = {number_of(world, unit) for unit in units_of(world)}
    assert len(standing) < 16
    assert {int(name.split()[1]) for name in world.rows()} == standing
    np.testing.assert_array_equal(total, oracle(world, "north", [query(1)]))


def test_the_sum_carries_twice_the_clip_bound_and_its_relation(world: World) -> None:
    assert not world.ask("prepare", state=query(1)).error
    with AttemptStore(world.sites["north"] / "state.sqlite") as store:
        found = site_total(world.plan, (world.plan.digest, 1, 1), state_sha256(query(1)), store)
    assert (
        found.sensitivity
        == world.plan.stage_of(1).sensitivity
        == Sensitivity(2 * world.plan.grid.clip_units, PER_SHARD)
    )


# --- memory -----------------------------------------------------------------------------------------------


def test_an_attempt_that_was_not_charged_moves_no_memory(world: World, tmp_path: Path) -> None:
    """The next round starts from the last attempt that this site's own ledger charges (PRIVACY 15)."""
    shutil.copytree(world.folder / "sites", tmp_path / "sites")
    straight = replace(world, sites={site: tmp_path / "sites" / site for site in world.sites})
    asked(world, 1, 1, answered=False, said=0.5)
    asked(world, 1, 2)
    asked(world, 2, 1, answered=False)
    asked(world, 3, 1, answered=False)  # round 3 was prepared, and nobody ever heard of it
    asked(world, 2, 2)
    asked(straight, 1)
    asked(straight, 2)
    np.testing.assert_array_equal(values_of(world, 2, 2), values_of(straight, 2))
    np.testing.assert_array_equal(asked(world, 3, 2), asked(straight, 3))
    np.testing.assert_array_equal(values_of(world, 3, 2)[:, 0], values_of(straight, 3)[:, 0])
    standing = sorted({number_of(world, unit) for unit in units_of(world)})
    np.testing.assert_array_equal(values_of(world, 3, 2)[standing, 0], 0.75)  # three charged rounds


def test_another_attempt_of_a_round_gives_the_same_rows(world: World) -> None:
    asked(world, 1, 1, answered=False)
    asked(world, 1, 2)
    first, second = world.rows(attempt=1), world.rows(attempt=2)
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_memory_of_rounds_that_are_over_goes(world: World) -> None:
    for round_ in (1, 2, 3):
        asked(world, round_)
    assert set(kept_files(world, "memory-*")) == {"memory-000002-001.npy", "memory-000003-001.npy"}


def test_memory_that_is_gone_begins_anew_and_says_so(world: World) -> None:
    asked(world, 1)
    (shards_of(world) / "memory-000001-001.npy").unlink()
    asked(world, 2)
    assert "the memory of shards after round 1 is gone" in world.log()


# --- what goes wrong --------------------------------------------------------------------------------------


def _raise(_self: Any, _base: Any, _query: Any, prepared: Any, _memory: Any, _generator: Any) -> Any:
    raise MemoryError("no room")


def _nan(_self: Any, _base: Any, _query: Any, prepared: Any, memory: Any, generator: Any) -> Any:
    return np.full(ROW, np.nan, dtype=np.float32), np.zeros(MEMORY, dtype=np.float32)


def _nan_memory(_self: Any, _base: Any, _query: Any, prepared: Any, memory: Any, generator: Any) -> Any:
    return np.ones(ROW, dtype=np.float32), np.full(MEMORY, np.nan, dtype=np.float32)


def _long(_self: Any, _base: Any, _query: Any, prepared: Any, memory: Any, generator: Any) -> Any:
    return np.ones(ROW + 1, dtype=np.float32), np.zeros(MEMORY, dtype=np.float32)


@pytest.mark.parametrize("broken", [_raise, _nan, _nan_memory, _long])
def test_whatever_a_shard_causes_is_its_zero_row_and_its_memory_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Any]
) -> None:
    """A line in node.log names the shard, and nobody else hears of it (PRIVACY 17)."""
    number = number_of(world, units_of(world)[0])
    asked(world, 1)
    before, true = values_of(world, 1), ShardedDummy.shard_row
    held = sum(2 for unit in units_of(world) if number_of(world, unit) == number)
    same = {number_of(world, unit) for unit in units_of(world)}
    same = {n for n in same if 2 * sum(number_of(world, unit) == n for unit in units_of(world)) == held}

    def some(self: Any, base: Any, query_: Any, prepared: Any, memory: Any, generator: Any) -> Any:
        failing = int(prepared[0]) == held and memory is not None
        return (broken if failing else true)(self, base, query_, prepared, memory, generator)

    monkeypatch.setattr(ShardedDummy, "shard_row", some)
    reply = world.ask("prepare", round=2, state=query(2))
    assert not reply.error
    rows = {int(name.split()[1]): row for name, row in world.rows(round_=2).items()}
    assert all(not rows[n].any() for n in same)
    assert all(rows[n].any() for n in rows.keys() - same)
    after = values_of(world, 2)
    np.testing.assert_array_equal(after[sorted(same)], before[sorted(same)])
    assert all((after[n] != before[n]).any() for n in rows.keys() - same)
    assert all(f"zero row: shard {n}: " in world.log() for n in same)


def test_a_shard_that_cannot_be_prepared_is_a_zero_row_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: Any, _base: Any, shard: UnitRecords) -> Any:
        if len(shard.captions) > 1:  # all but random data
            raise RuntimeError("a kernel")
        return np.ones(14, dtype=np.float32)

    monkeypatch.setattr(ShardedDummy, "prepared", broken)
    assert not asked(world, 1).any()
    assert "zero row: shard" in world.log()


def test_a_site_that_cannot_compute_random_data_says_so_before_it_looks_at_records(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardedDummy, "shard_row", _raise)
    reply = world.ask("prepare", state=query(1))
    assert "cannot take part" in reply.message
    assert "cannot compute a row of random data" in world.log()
    assert not (world.sites["north"] / "shards").exists()


@pytest.mark.parametrize(
    "wrong",
    [np.array(values, dtype=np.float32) for values in ([1, 0, 2], [1, np.nan, 1], [2, 0.25, 1], [0] * 14)],
)
def test_a_query_that_no_coordinator_can_have_made_is_refused_before_anything_is_made(
    world: World, wrong: np.ndarray
) -> None:
    reply = world.ask("prepare", state=wrong)
    assert reply.error in ("PlanChanged", "ProtocolError")
    assert not (world.sites["north"] / "shards").exists()


def test_no_coins_fall(world: World) -> None:
    """Every shard is in every attempt."""
    with at() as trace:
        asked(world, 1, answered=False)
    assert not trace.hits["preparing/coins drawn"]


def test_a_record_that_changed_is_missing_from_its_shard_alone(world: World) -> None:
    asked(world, 1)
    before, unit = kept_files(world, "prepared-*"), units_of(world)[2]
    for row in world.records["north"]:
        if row["patient_id"] == unit:
            (world.folder / "data" / "north" / row["file_name"]).write_bytes(b"no image")
    asked(world, 2)
    after = kept_files(world, "prepared-*")
    assert {int(name[9:13]) for name in before.keys() ^ after.keys()} == {number_of(world, unit)}
    assert all(after[name] == before[name] for name in before.keys() & after.keys())


# --- withdrawal -------------------------------------------------------------------------------------------


def test_a_withdrawn_unit_is_erased_from_its_shard_which_is_made_anew(world: World, tmp_path: Path) -> None:
    unit = crowded(world)
    never = without(world, unit, tmp_path / "never")
    asked(world, 1)
    asked(world, 2, answered=False)
    asked(never, 1)
    number, north = number_of(world, unit), SiteDir(world.sites["north"])
    found = withdraw_unit(north, "data", unit)
    assert found.rows == 2  # of its shard: in rounds 1 and 2, which are kept here
    assert not list(shards_of(world).glob(f"prepared-{number:04d}-*"))
    assert not remembered(world, 1)[number].any()
    assert not remembered(world, 2)[number].any()
    asked(world, 2, 2)
    asked(never, 2, 2)
    assert kept_files(world, "prepared-*") == kept_files(never, "prepared-*")
    others = [n for n in range(4) if n != number]
    np.testing.assert_array_equal(values_of(world, 2, 2)[others], values_of(never, 2, 2)[others])
    assert values_of(world, 2, 2)[number, 0] == 0.25  # its memory began anew


def test_memory_of_other_records_or_of_another_shard_is_none(tmp_path: Path) -> None:
    one, other = Shard(0, (1,), bytes(16)), Shard(0, (1, 2), b"\1" * 16)
    memory = ShardStore(tmp_path, 2, 3).memory_after(1, 1)
    assert memory.of(one) == (False, None)
    memory.put(one, np.arange(3, dtype=np.float32))
    written, values = memory.of(one)
    assert written
    np.testing.assert_array_equal(values, [0, 1, 2])
    assert memory.of(other) == (False, None)
    item = memory.array.read([0])
    memory.array.write([1], item)
    assert memory.of(replace(one, number=1)) == (False, None)
    memory.put(one, None)
    assert memory.of(one) == (True, None)


def test_who_withdraws_between_rounds_leaves_no_memory_to_the_next(world: World) -> None:
    """Though the command died before it erased anything: memory is bound to the records that it is of."""
    unit, north = crowded(world), SiteDir(world.sites["north"])
    asked(world, 1)
    withdraw(north, data_of(north), unit)
    asked(world, 2)
    after = values_of(world, 2)[:, 0]
    assert after[number_of(world, unit)] == 0.25
    assert set(after) <= {0.0, 0.25, 0.5}
    assert not remembered(world, 1)[number_of(world, unit)].any()


@pytest.mark.parametrize("moment", ["preparing/rows durable", "preparing/rows summed"])
def test_who_withdraws_while_rows_are_made_is_in_no_sum(world: World, tmp_path: Path, moment: str) -> None:
    unit = crowded(world)
    never = without(world, unit, tmp_path / "never")
    north = SiteDir(world.sites["north"])
    with meanwhile(moment, lambda: withdraw_unit(north, "data", unit) and None):
        found = asked(world, 1)
    np.testing.assert_array_equal(found, asked(never, 1))
    assert kept_files(world, "prepared-*") == kept_files(never, "prepared-*")
    assert set(world.rows()) == set(never.rows())


def test_forgetting_a_study_erases_its_shards(world: World) -> None:
    asked(world, 1)
    forget_study(SiteDir(world.sites["north"]), world.plan.digest)
    assert not list((world.sites["north"] / "shards").iterdir())


# --- deaths -----------------------------------------------------------------------------------------------

DEATHS = [
    ("durable/written", 1),
    ("durable/renamed", 1),
    ("preparing/rows computed", 1),
    ("attempt_store/before commit", 2),
    ("preparing/rows durable", 1),
    ("preparing/rows summed", 1),
    ("preparing/sum durable", 1),
    ("node/before charge", 1),
]


@pytest.mark.parametrize(
    ("round_", "step", "count"), [*((1, *death) for death in DEATHS), *((2, *death) for death in DEATHS[2:5])]
)
def test_a_node_that_died_goes_on_to_the_same_bits(
    world: World, tmp_path: Path, round_: int, step: str, count: int
) -> None:
    shutil.copytree(world.folder / "sites", tmp_path / "sites")
    whole = replace(world, sites={site: tmp_path / "sites" / site for site in world.sites})
    if round_ == 2:
        np.testing.assert_array_equal(asked(world, 1), asked(whole, 1))
    with at(step, count), pytest.raises(Killed):
        asked(world, round_)
    np.testing.assert_array_equal(asked(world, round_), asked(whole, round_))
    assert kept_files(world, "*") == kept_files(whole, "*")
    np.testing.assert_array_equal(asked(world, round_ + 1), asked(whole, round_ + 1))


def test_all_rows_of_an_attempt_begin_with_the_memory_of_one_attempt(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one unit could move the rows of other shards, by how far a node had come when it died."""
    monkeypatch.setattr(shard_rows, "_AT_ONCE", 1)
    shutil.copytree(world.folder / "sites", tmp_path / "sites")
    whole = replace(world, sites={site: tmp_path / "sites" / site for site in world.sites})
    np.testing.assert_array_equal(asked(world, 1), asked(whole, 1))
    with at("preparing/rows durable", 2), pytest.raises(Killed):
        asked(world, 3)
    np.testing.assert_array_equal(asked(world, 2), asked(whole, 2))
    np.testing.assert_array_equal(asked(world, 3), asked(whole, 3))
    assert kept_files(world, "*") == kept_files(whole, "*")


def test_preparing_an_earlier_attempt_erases_no_memory_that_was_charged(world: World) -> None:
    kept = ShardStore.of(SiteDir(world.sites["north"]), world.plan.digest, 1, 2)
    shard, values = Shard(0, (0,), bytes(16)), np.ones(2, dtype=np.float32)
    for attempt in ((1, 1), (2, 2)):
        kept.memory_after(*attempt).put(shard, values)
    unused: Any = None
    rows = shard_rows.ShardRows(unused, kept, (2, 1), (1, 1), [(1, 1), (2, 2)], unused, unused)
    rows.begin([shard], set())
    assert kept.has_memory(2, 2)
    assert kept.has_memory(1, 1)


def test_memory_that_a_power_cut_took_is_made_again_beside_a_durable_row(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "sites", tmp_path / "sites")
    whole = replace(world, sites={site: tmp_path / "sites" / site for site in world.sites})
    with at("preparing/rows durable"), pytest.raises(Killed):
        asked(world, 1)
    (shards_of(world) / "memory-000001-001.npy").unlink()
    np.testing.assert_array_equal(asked(world, 1), asked(whole, 1))
    assert kept_files(world, "*") == kept_files(whole, "*")
