"""A node that sums rows as floats, in fixed slots (PRIVACY 14)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DIMENSION, DummyBase, DummyMethod, DummyOptions
from tests.support.failpoints import at
from tests.support.faults import Killed
from tests.support.world import START, World, oracle_row
from undertone.errors import DataError, MechanismViolation, PlanChanged, ProtocolError
from undertone.layout import state_sha256
from undertone.plan import Plan
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.stages import FLOAT_SUM, PER_ROW, Sensitivity, Sum
from undertone_client.contribution import site_total
from undertone_client.lanes import Lane
from undertone_client.registration import FOLDER, register
from undertone_client.site import SiteDir
from undertone_client.state import NodeState
from undertone_client.summing import check_sums
from undertone_server.gate import pass_gate

Make = Callable[..., World]
SLOTS = 6
METHOD = DummyMethod.clipped_sum


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world({"north": 8, "east": 4}, micro_batch=2, slots=SLOTS)


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's check asks for sums too."""
    monkeypatch.setattr("undertone_client.summing.check_sums", lambda *_args, **_options: None)


def total_of(world: World, site: str = "north") -> np.ndarray:
    with NodeState(world.sites[site] / "state.sqlite") as memory:
        return site_total(world.plan, (world.plan.digest, 1, 1), state_sha256(START), memory).values


def expected(world: World, site: str = "north", lost: tuple[str, ...] = ()) -> np.ndarray:
    """The clipped rows of all patients but the lost ones, summed as floats (every coin fell: p = 1)."""
    bound, rows = world.plan.grid.as_grid().clip_norm * 0.999, []
    for patient in sorted({row["patient_id"] for row in world.records[site]} - set(lost)):
        row = oracle_row(world, site, patient).astype(np.float64)
        rows.append(row * min(1.0, bound / np.linalg.norm(row)))
    return np.sum(rows, axis=0) * world.plan.grid.scale


def assert_is(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(found - wanted).max() <= SLOTS / 2 / 2 + 1e-6  # three micro-batches, each rounded to the nearest


def test_a_site_sums_all_its_slots_and_says_how_far_one_unit_moves_the_sum(world: World) -> None:
    assert world.ask("prepare").error == ""
    assert_is(total_of(world), expected(world))
    with NodeState(world.sites["north"] / "state.sqlite") as memory:
        found = site_total(world.plan, (world.plan.digest, 1, 1), state_sha256(START), memory)
    assert found.sensitivity == world.plan.sensitivity == Sensitivity(world.plan.privacy.sensitivity, FLOAT_SUM)
    assert found.sensitivity.l2 > world.plan.grid.clip_units
    assert world.rows() == {}


def test_every_slot_is_computed_in_one_shape_however_the_coins_fell(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world({"north": 8, "east": 4}, micro_batch=4, slots=SLOTS, sampling_rate=0.05, max_attempts=3)
    shapes: list[int] = []

    def watched(self: DummyMethod, base: Any, state: Any, slots: Any, clip_norm: float) -> Any:
        shapes.append(len(slots))
        return METHOD(self, base, state, slots, clip_norm)

    unchecked(monkeypatch)
    monkeypatch.setattr(DummyMethod, "clipped_sum", watched)
    for attempt in range(1, 4):
        world.ask("prepare", attempt=attempt)
    assert shapes == [4] * 6  # two micro-batches for each attempt, whoever is in them


@pytest.mark.parametrize("bad", ["missing", "not finite"])
def test_a_record_that_gives_nothing_leaves_an_empty_slot_and_shows_nowhere(
    world: World, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.records["north"][0]["file_name"]
    if bad == "missing":
        for row in world.records["north"][:2]:
            (world.folder / "data" / "north" / row["file_name"]).unlink()
    else:
        lost = oracle_row(world, "north", world.records["north"][0]["patient_id"])

        def spoiled(self: DummyMethod, base: Any, state: Any, slots: Any, clip_norm: float) -> Any:
            rows = [None if unit is None else self.row(state, replace(unit)) for unit in slots]
            good = [None if row is None or np.allclose(row[:-1], lost[:-1]) else row for row in rows]
            total, norms = np.zeros(DIMENSION), np.zeros(len(slots))
            for place, row in enumerate(good):
                if row is not None:
                    norms[place] = np.linalg.norm(row)
                    total += row.astype(np.float64) * min(1.0, clip_norm / float(np.linalg.norm(row)))
                elif rows[place] is not None:
                    norms[place] = np.inf
            return total, norms

        monkeypatch.setattr(DummyMethod, "clipped_sum", spoiled)
    reply = world.ask("prepare")
    assert (reply.error, reply.message) == ("", "")
    assert_is(total_of(world), expected(world, lost=(world.records["north"][0]["patient_id"],)))
    assert "zero row" in world.log()
    assert name not in str(reply)


def test_a_sum_that_is_no_number_is_made_anew_slot_by_slot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def together_nan(self: DummyMethod, base: Any, state: Any, slots: Any, clip_norm: float) -> Any:
        total, norms = METHOD(self, base, state, slots, clip_norm)
        crowded = sum(unit is not None for unit in slots) > 1
        return (np.full(DIMENSION, np.nan) if crowded else total), norms

    unchecked(monkeypatch)
    monkeypatch.setattr(DummyMethod, "clipped_sum", together_nan)
    assert world.ask("prepare").error == ""
    assert_is(total_of(world), expected(world))


@pytest.mark.parametrize("failpoint", ["summing/micro-batches summed", "summing/sum durable"])
def test_a_death_in_between_changes_nothing(world: World, failpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undertone_client.summing._SECONDS_BETWEEN_WRITES", 0.0)
    with at(failpoint, 2), pytest.raises(Killed):
        world.ask("prepare")
    calls: list[int] = []

    def counted(self: DummyMethod, base: Any, state: Any, slots: Any, clip_norm: float) -> Any:
        calls.append(1)
        return METHOD(self, base, state, slots, clip_norm)

    unchecked(monkeypatch)
    monkeypatch.setattr(DummyMethod, "clipped_sum", counted)
    assert world.ask("prepare").error == ""
    assert_is(total_of(world), expected(world))
    assert len(calls) == (2 if failpoint == "summing/micro-batches summed" else 1)


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
    assert_is(total_of(world), expected(world))


def test_an_answered_attempt_leaves_no_sum_behind(make_world: Make) -> None:
    world = make_world({"north": 8, "east": 4}, micro_batch=2, slots=SLOTS, keep_rows=False)
    world.ask("prepare")
    assert list((world.sites["north"] / "sums").iterdir())
    assert world.ask("contribute").words is not None
    assert not list((world.sites["north"] / "sums").iterdir())


def test_a_site_with_more_units_than_it_publishes_does_not_register(world: World) -> None:
    units = {"north": 3, "east": 2}
    slots = dict.fromkeys(units, 3)
    plan = world.plan.model_copy(
        update={
            "cohort": world.plan.cohort.model_copy(update={"units": units}),
            "privacy": world.plan.privacy.model_copy(update={"slots": slots}),
        }
    )
    for path in (world.sites["north"] / FOLDER).iterdir():
        path.unlink()
    with pytest.raises(DataError, match="has 4 units and the plan says 3"):
        register(SiteDir(world.sites["north"]), plan)
    assert not list((world.sites["north"] / FOLDER).iterdir())


def test_a_method_that_does_not_sum_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(DummyMethod, "clipped_sum")
    reply = world.ask("prepare")
    assert reply.error == "PlanChanged"


def lane(slots: int = 4) -> Lane:
    return Lane("cpu", "float32", DummyBase(), lambda *_: np.zeros(0), lambda _text: None, slots)


def dummy_sums(base: Any, slots: Any) -> Any:
    return METHOD(DummyMethod(DummyOptions()), base, START, slots, 0.5)


def test_a_device_that_keeps_slots_apart_passes() -> None:
    check_sums(lane(), sums=dummy_sums, clip_norm=0.5)


@pytest.mark.parametrize("fault", ["a neighbour's norm", "too coarse", "too long"])
def test_a_device_whose_slots_touch_is_refused(fault: str) -> None:
    def sums(base: Any, slots: Any) -> Any:
        total, norms = dummy_sums(base, slots)
        if fault == "a neighbour's norm":
            return total, norms * (1 + 1e-12 * sum(unit is not None for unit in slots))
        if fault == "too long":
            return total * 1.01, norms
        return total.astype(np.float16).astype(np.float64), norms

    with pytest.raises(MechanismViolation, match=r"moves the sum by|of C too long"):
        check_sums(lane(), sums=sums, clip_norm=0.5)


# --- plan and gate --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sensitivity": 4096}, "the sensitivity is not that of a float sum"),
        ({"slots": {"north": 6}}, "other sites than the roster's"),
        ({"slots": {}}, "the sensitivity is not the clip bound"),
        ({"delta_for_surplus": 1e-9}, "what surplus units cost"),
        ({"epsilon_target": 1e6}, "epsilon_target"),
    ],
)
def test_a_plan_whose_numbers_do_not_agree_is_refused(world: World, change: dict[str, Any], named: str) -> None:
    privacy = world.plan.privacy.model_copy(update=change)
    changed = world.plan.model_copy(update={"privacy": privacy})
    with pytest.raises(PlanChanged, match=named):
        Plan.from_bytes(changed.as_bytes())


def test_the_gate_refuses_a_sum_under_the_other_relation(world: World) -> None:
    values, entropy = np.zeros(DIMENSION, dtype=np.int64), OsEntropy()
    total = Sum(values, Sensitivity(world.plan.privacy.sensitivity, PER_ROW), ("east", "north"))
    with Ledger.open(world.run.ledger) as ledger, pytest.raises(MechanismViolation, match="nothing was opened"):
        pass_gate(total, b"\0" * 32, world.plan, ledger, world.run, 1, 1, entropy)


def test_surplus_comes_off_delta_before_noise_is_counted(make_world: Make) -> None:
    world = make_world({"north": 80, "east": 60}, slots=True, sampling_rate=0.25)
    privacy = world.plan.privacy
    assert 0 < privacy.delta_for_surplus <= 1e-3 * privacy.delta
    assert privacy.delta_for_noise == privacy.delta - privacy.delta_for_surplus
    assert set(privacy.slots) == {"north", "east"}
    assert 10 < privacy.slots["east"] <= privacy.slots["north"] < 40
    # The cost grows with the claim: a target below it must not hide that.
    hidden = privacy.model_copy(update={"epsilon": privacy.epsilon_target + 7})
    with pytest.raises(PlanChanged, match="what surplus units cost"):
        Plan.from_bytes(world.plan.model_copy(update={"privacy": hidden}).as_bytes())


def test_a_study_runs_to_its_end_in_slots(make_world: Make, tmp_path: Path) -> None:
    del tmp_path
    world = make_world({"north": 8, "east": 4}, micro_batch=2, slots=SLOTS, rounds=2, max_attempts=3)
    state = world.run_rounds()
    assert np.isfinite(state).all()
    assert world.charges() == [(1, 1), (2, 1)]


def test_a_sum_belongs_to_its_coins(tmp_path: Path) -> None:
    attempt, total = ("d" * 64, 1, 1), np.arange(5, dtype=np.int64)
    for placed in (["a", None], ["b", None], [None, "a"]):
        with NodeState(tmp_path / "state.sqlite") as memory:
            memory.keep_sample(attempt, "s" * 64, placed)
            assert memory.kept_sum(attempt, 5)[0] == 0
            memory.keep_sum(attempt, 2, total)
            done, found = memory.kept_sum(attempt, 5)
            assert done == 2
            np.testing.assert_array_equal(found, total)
            assert memory.kept_sum(attempt, 6)[0] == 0
        (tmp_path / "state.sqlite").unlink()


def test_a_unit_is_clipped_a_little_inside_the_bound(make_world: Make) -> None:
    world = make_world({"north": 2, "east": 2}, micro_batch=2, slots=SLOTS, clip_units=1 << 20, sigma=1 << 20)
    far = START - 10
    world.ask("prepare", state=far)
    with NodeState(world.sites["north"] / "state.sqlite") as memory:
        found = site_total(world.plan, (world.plan.digest, 1, 1), state_sha256(far), memory).values
    assert np.linalg.norm(found) == pytest.approx(0.999 * world.plan.grid.clip_units, rel=1e-5)
