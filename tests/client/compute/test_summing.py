"""A node that sums rows as it makes them: integers, batch after batch (PRIVACY 14)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DIMENSION, FEATURES, DummyBase, DummyMethod, DummyOptions
from tests.support.failpoints import Killed, at, kill_before, meanwhile
from tests.support.world import START, World, oracle_row
from undertone.errors import FolderError, MechanismViolation, PlanChanged, ProtocolError
from undertone.models.layout import state_sha256
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.quantise import clip_and_quantise
from undertone.privacy.stages import PER_ROW, Sensitivity, Sum
from undertone.study.plan import Plan
from undertone_client.compute.erasing import withdraw_unit
from undertone_client.compute.sum_worker import SumWorker
from undertone_client.round.contribution import site_total
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.folder import SiteDir
from undertone_server.attempt_ref import AttemptRef
from undertone_server.gate import pass_gate

Make = Callable[..., World]
SUM = DummyMethod.clipped_sum


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world({"north": 8, "east": 4}, micro_batch=3, summing=True)


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's check asks for sums too."""
    monkeypatch.setattr(SumWorker, "check", lambda _self: None)


def total_of(world: World, site: str = "north") -> np.ndarray:
    with AttemptStore(world.sites[site] / "state.sqlite") as store:
        return site_total(world.plan, (world.plan.digest, 1, 1), state_sha256(START), store).values


def expected(world: World, site: str = "north", lost: tuple[str, ...] = ()) -> np.ndarray:
    """The quantised rows of all patients but the lost ones (every coin fell: p = 1)."""
    patients = sorted({row["patient_id"] for row in world.records[site]} - set(lost))
    rows = np.array([oracle_row(world, site, patient) for patient in patients])
    return clip_and_quantise(rows, world.plan.grid.as_grid()).sum(axis=0)


def test_a_site_sums_its_units_exactly_and_keeps_no_row(world: World) -> None:
    assert world.ask("prepare").error == ""
    np.testing.assert_array_equal(total_of(world), expected(world))
    with AttemptStore(world.sites["north"] / "state.sqlite") as store:
        found = site_total(world.plan, (world.plan.digest, 1, 1), state_sha256(START), store)
    assert found.sensitivity == world.plan.stage_of(1).sensitivity == Sensitivity(world.plan.grid.clip_units, PER_ROW)
    assert world.rows() == {}


def test_every_batch_has_one_shape_whoever_is_in_it(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world({"north": 14, "east": 4}, micro_batch=4, summing=True, sampling_rate=0.6, max_attempts=3)
    shapes: set[int] = set()

    def watched(self: DummyMethod, base: Any, state: Any, batch: Any, **grid: int) -> Any:
        shapes.add(len(batch))
        return SUM(self, base, state, batch, **grid)

    monkeypatch.setattr(DummyMethod, "clipped_sum", watched)
    for attempt in range(1, 4):
        assert world.ask("prepare", attempt=attempt).error == ""
    assert shapes == {4}


@pytest.mark.parametrize("bad", ["missing", "RuntimeError", "MemoryError", "unreadable latents"])
def test_a_unit_that_fails_adds_nothing_and_shows_nowhere(
    world: World, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = world.records["north"][0]["patient_id"]
    files = [row["file_name"] for row in world.records["north"] if row["patient_id"] == patient]
    lost = oracle_row(world, "north", patient)
    if bad == "missing":
        for name in files:
            (world.folder / "data" / "north" / name).unlink()
    elif bad == "unreadable latents":
        from undertone_client.compute.latents import Latents

        of = Latents.of
        monkeypatch.setattr(Latents, "of", lambda self, where: 1 / 0 if 0 in where else of(self, where))
    else:

        def spoiled(self: DummyMethod, base: Any, state: Any, batch: Any, **grid: int) -> Any:
            for unit in batch:
                if unit is not None and np.array_equal(unit.latents.mean(0).reshape(-1), lost[:FEATURES]):
                    raise RuntimeError("a kernel fails") if bad == "RuntimeError" else MemoryError
            return SUM(self, base, state, batch, **grid)

        monkeypatch.setattr(DummyMethod, "clipped_sum", spoiled)
    reply = world.ask("prepare")
    assert (reply.error, reply.message) == ("", "")
    np.testing.assert_array_equal(total_of(world), expected(world, lost=(patient,)))
    assert "zero row" in world.log()
    assert files[0] not in str(reply)


@pytest.mark.parametrize("failpoint", ["summing/batch summed", "summing/sum durable"])
def test_a_death_in_between_changes_nothing(world: World, failpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undertone_client.compute.summing._SECONDS_BETWEEN_WRITES", 0.0)
    unchecked(monkeypatch)
    with at(failpoint, 1), pytest.raises(Killed):
        world.ask("prepare")
    summed: list[int] = []

    def counted(self: DummyMethod, base: Any, state: Any, batch: Any, **grid: int) -> Any:
        summed.append(sum(unit is not None for unit in batch))
        return SUM(self, base, state, batch, **grid)

    monkeypatch.setattr(DummyMethod, "clipped_sum", counted)
    assert world.ask("prepare").error == ""
    np.testing.assert_array_equal(total_of(world), expected(world))
    assert sum(summed) == (4 if failpoint == "summing/batch summed" else 1)


def one_by_one(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> World:
    """A site of four units, one in a batch, whose sum is kept after each."""
    monkeypatch.setattr("undertone_client.compute.summing._SECONDS_BETWEEN_WRITES", -1.0)
    unchecked(monkeypatch)
    return make_world({"north": 8, "east": 4}, micro_batch=1, summing=True)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("moment", ["summing/batch summed", "summing/sum durable"])
@pytest.mark.parametrize("patient", ["patient-0", "patient-3"])
def test_who_withdraws_while_a_sum_is_made_is_not_in_it(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, patient: str, moment: str, kept: bool
) -> None:
    """Whether the sum had come to her or not, and whether it was on disk or in memory alone."""
    world, sums = one_by_one(make_world, monkeypatch), list[int]()
    if not kept:
        moment = "summing/batch summed"
        monkeypatch.setattr("undertone_client.compute.summing._SECONDS_BETWEEN_WRITES", 60.0)
    site = SiteDir(world.sites["north"])
    with meanwhile(moment, lambda: sums.append(withdraw_unit(site, "data", patient).sums), 2):
        assert world.ask("prepare").error == ""
    assert sums == [0], "no finished sum, so she is told that none has her"
    np.testing.assert_array_equal(total_of(world), expected(world, lost=(patient,)))
    assert "patient-" not in world.log()


def test_a_sum_that_a_death_left_is_not_gone_on_with_where_one_in_it_withdrew(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command died too, after the tombstone and before it looked at the sum."""
    world = one_by_one(make_world, monkeypatch)
    with at("summing/sum durable", 2), pytest.raises(Killed):
        world.ask("prepare")
    with monkeypatch.context() as patch:
        kill_before(patch, AttemptStore, "withdraw")
        with pytest.raises(Killed):
            withdraw_unit(SiteDir(world.sites["north"]), "data", "patient-0")
    assert world.ask("prepare").error == ""
    np.testing.assert_array_equal(total_of(world), expected(world, lost=("patient-0",)))


def test_a_sum_goes_on_after_a_death_though_somebody_withdrew_before_it_began(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, batches = one_by_one(make_world, monkeypatch), list[int]()
    withdraw_unit(SiteDir(world.sites["north"]), "data", "patient-0")
    with at("summing/sum durable", 2), pytest.raises(Killed):
        world.ask("prepare")

    def counted(self: DummyMethod, base: Any, state: Any, batch: Any, **grid: int) -> Any:
        batches.append(len(batch))
        return SUM(self, base, state, batch, **grid)

    monkeypatch.setattr(DummyMethod, "clipped_sum", counted)
    assert world.ask("prepare").error == ""
    np.testing.assert_array_equal(total_of(world), expected(world, lost=("patient-0",)))
    assert len(batches) == 1, "two of three were summed"


def test_a_damaged_sum_or_one_of_other_coins_is_made_anew(world: World) -> None:
    world.ask("prepare")
    good, (path,) = total_of(world), (world.sites["north"] / "sums").iterdir()
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ProtocolError, match="was not prepared"):
        total_of(world)
    world.ask("prepare")
    np.testing.assert_array_equal(total_of(world), good)
    (world.sites["north"] / "state.sqlite").unlink()  # the coins are gone: what they gave must not be used with others
    world.ask("prepare")
    np.testing.assert_array_equal(total_of(world), expected(world))


def test_an_answered_attempt_leaves_no_sum_behind(make_world: Make) -> None:
    world = make_world({"north": 8, "east": 4}, micro_batch=2, summing=True, keep_rows=False)
    world.ask("prepare")
    assert list((world.sites["north"] / "sums").iterdir())
    assert world.ask("plain_input").words is not None
    assert not list((world.sites["north"] / "sums").iterdir())


def test_a_round_in_which_no_coin_fell_sums_to_nothing(make_world: Make) -> None:
    world = make_world({"north": 4, "east": 4}, summing=True, sampling_rate=1e-9)
    assert world.ask("prepare").error == ""
    assert not total_of(world).any()


def test_a_site_with_more_units_than_it_publishes_takes_part(make_world: Make) -> None:
    """Sums of floats refused it; the figure is a denominator and nothing else."""
    world = make_world({"north": 8, "east": 4}, micro_batch=2, summing=True)
    units = {"north": 2, "east": 2}
    plan = world.plan.model_copy(update={"cohort": world.plan.cohort.model_copy(update={"units": units})})
    assert Plan.from_bytes(plan.as_bytes()).cohort.units["north"] < len(expected(world))


def worker(batch_size: int = 4, make: Any = None) -> SumWorker:
    def sums(base: Any, units: Any) -> Any:
        return SUM(DummyMethod(DummyOptions()), base, START, units, scale=1 << 10, clip_units=2048)

    base: Any = DummyBase()
    return SumWorker("cpu", "float32", base, lambda _text: None, batch_size, make=make or sums)


def test_a_device_that_keeps_units_apart_passes() -> None:
    for batch_size in (1, 2, 3, 8):
        worker(batch_size).check()


@pytest.mark.parametrize("fault", ["place", "last place", "half", "neighbours"])
@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_a_device_whose_units_touch_by_one_grid_unit_is_refused(fault: str, batch_size: int) -> None:
    good = worker().make

    def sums(base: Any, units: Any) -> Any:
        found = good(base, units).copy()
        there = {place: unit for place, unit in enumerate(units) if unit is not None}
        # Which integers of a unit move depends on the unit too.
        moved = {place: 1 + int(1000 * abs(unit.latents.flat[0])) for place, unit in there.items()}
        found[0] += {
            "place": max(there, default=0),
            "last place": moved.get(len(units) - 1, 0),
            "half": sum(moved[place] for place in there if place % max(len(units) // 2, 2) == 1),
            "neighbours": len(there) ** 2,
        }[fault]
        return found

    with pytest.raises(MechanismViolation, match="changes with its place or its neighbours"):
        worker(batch_size, sums).check()


# --- plan and gate --------------------------------------------------------------------------------


def test_a_plan_whose_sensitivity_is_not_its_clip_bound_is_refused(world: World) -> None:
    privacy = world.plan.privacy.model_copy(update={"sensitivity": world.plan.privacy.sensitivity - 1})
    with pytest.raises(PlanChanged, match="the sensitivity is not the clip bound"):
        Plan.from_bytes(world.plan.model_copy(update={"privacy": privacy}).as_bytes())


def test_a_plan_whose_grid_is_too_coarse_for_its_rows_is_refused(world: World) -> None:
    longest = (world.plan.grid.clip_units // 64) ** 2
    for dimension, allowed in ((longest, True), (longest + 1, False)):
        method = world.plan.method.model_copy(update={"dimension": dimension})
        data = world.plan.model_copy(update={"method": method}).as_bytes()
        if allowed:
            Plan.from_bytes(data)
            continue
        with pytest.raises(PlanChanged, match="too coarse"):
            Plan.from_bytes(data)


def test_the_gate_refuses_a_sum_under_another_relation(world: World) -> None:
    values, entropy = np.zeros(DIMENSION, dtype=np.int64), OsEntropy()
    total = Sum(values, Sensitivity(world.plan.privacy.sensitivity, "replace one unit"), ("east", "north"))
    with Ledger.open(world.run.ledger) as ledger, pytest.raises(MechanismViolation, match="nothing was opened"):
        pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, b"\0" * 32, entropy)


def test_a_study_runs_to_its_end(make_world: Make) -> None:
    world = make_world({"north": 8, "east": 4}, micro_batch=2, summing=True, rounds=2, max_attempts=3)
    state = world.run_rounds()
    assert np.isfinite(state).all()
    assert world.charges() == [(1, 1), (2, 1)]


def test_a_sum_belongs_to_its_coins(tmp_path: Any) -> None:
    attempt, total = ("d" * 64, 1, 1), np.arange(5, dtype=np.int64)
    for chosen in (["a"], ["b"], ["a", "b"]):
        with AttemptStore(tmp_path / "state.sqlite") as store:
            store.keep_sample(attempt, "s" * 64, chosen)
            assert not store.kept_sum(attempt, len(chosen), 5)[0].any()
            store.keep_sum(attempt, np.ones(len(chosen), dtype=np.bool_), total)
            done, found = store.kept_sum(attempt, len(chosen), 5)
            assert done.all()
            np.testing.assert_array_equal(found, total)
            assert not store.kept_sum(attempt, len(chosen), 6)[0].any()
        (tmp_path / "state.sqlite").unlink()


def test_only_the_records_that_enter_a_row_are_read(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patient with thousands of images takes no more memory than one with two."""
    from undertone_client.compute.latents import Latents

    world = make_world({"north": 8, "east": 4}, micro_batch=2, summing=True)
    of, read = Latents.of, []

    def watched(self: Latents, where: list[int]) -> Any:
        read.append(len(where))
        return of(self, where)

    monkeypatch.setattr(Latents, "of", watched)
    monkeypatch.setattr(DummyMethod, "entering", lambda _self, records, _generator: [records - 1])
    assert world.ask("prepare").error == ""
    assert read == [1] * 4


def test_a_cache_that_cannot_be_read_is_the_sites_fault_and_no_units(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from undertone_client.compute.latents import Latents

    def gone(_self: Latents, _where: list[int]) -> Any:
        raise FolderError("the disk is gone")

    monkeypatch.setattr(Latents, "of", gone)
    assert world.ask("prepare").error == "SiteFault"
    assert "zero row" not in world.log()
