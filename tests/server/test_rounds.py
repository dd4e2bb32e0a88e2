"""Gate and round loop: each step durable before the next, one V and one charge whatever is interrupted."""

import stat
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.dummy import DIMENSION, DummyMethod, DummyOptions
from tests.support.failpoints import Killed, at
from tests.support.hand_session import plain_sum
from tests.support.world import START, World
from undertone.errors import BudgetExceeded, LedgerCorrupt, MechanismViolation
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import NoisedSum
from undertone_client.node import Node
from undertone_server.gate import noised_before
from undertone_server.rounds import no_base
from undertone_server.update import update

Make = Callable[..., World]


def noised(world: World, round_: int = 1) -> np.ndarray:
    kept = world.run.kept_noised(round_)
    assert kept is not None
    return kept[1]


# --- one study ------------------------------------------------------------------------------------


def test_a_study_runs_and_its_noise_has_the_plans_size(make_world: Make) -> None:
    world = make_world(sigma=1000)
    world.run_rounds()
    difference = noised(world) - plain_sum(world, ("north", "east", "south"))
    assert 200 < np.sqrt(np.mean(difference**2.0)) < 2500  # 14 draws of sigma 1000
    assert world.charges() == [(1, 1)]
    assert [world.charges(site) for site in world.sites] == [[(1, 1)]] * 3


def test_the_update_divides_by_the_survivors_public_numbers_alone(make_world: Make) -> None:
    world = make_world({"north": 6, "east": 4, "south": 8}, sampling_rate=0.5, max_attempts=3)
    world.run_rounds(absent=["east"])
    published = world.plan.cohort.units
    divisor = world.plan.grid.scale * 0.5 * (published["north"] + published["south"])
    expected = np.array([value / divisor for value in noised(world)], dtype=np.float32)
    state = world.run.kept_state(1)
    assert state is not None
    np.testing.assert_allclose(state, expected, rtol=1e-6)


def test_update_takes_a_noised_sum_over_the_sites_it_names(make_world: Make) -> None:
    plan = make_world(sampling_rate=0.25, max_attempts=2).plan
    values = np.arange(DIMENSION, dtype=np.int64) * 1000
    for sites in (("east", "south"), ("north", "south"), ("east", "north", "south")):
        total = sum(plan.cohort.units[site] for site in sites)
        paid = NoisedSum(values, 64, sites, "0" * 64)
        moved = update(DummyMethod(DummyOptions()), plan, 1, START + 1, START, paid, no_base)
        np.testing.assert_allclose(moved, 1 + values / (plan.grid.scale * 0.25 * total), rtol=1e-6)


@pytest.mark.parametrize("sites", [(), ("stranger",), ("north", "stranger"), ("north",)])
def test_update_refuses_a_sum_of_strangers_or_of_too_few_sites(make_world: Make, sites: tuple[str, ...]) -> None:
    plan = make_world().plan
    with pytest.raises(MechanismViolation):
        update(
            DummyMethod(DummyOptions()),
            plan,
            1,
            START,
            START,
            NoisedSum(np.zeros(DIMENSION, np.int64), 64, sites, ""),
            no_base,
        )


def test_several_rounds_start_each_from_the_state_before(make_world: Make) -> None:
    world = make_world(rounds=3, max_attempts=4, sampling_rate=0.9)
    final = world.run_rounds()
    state = START
    for round_ in (1, 2, 3):
        kept = world.run.kept_noised(round_)
        assert kept is not None
        paid = NoisedSum(kept[1], 64, kept[2], "")
        state = update(DummyMethod(DummyOptions()), world.plan, round_, state, state, paid, no_base)
        np.testing.assert_array_equal(world.run.kept_state(round_), state)
    np.testing.assert_array_equal(final, state)
    assert world.charges() == [(1, 1), (2, 1), (3, 1)]


def test_a_finished_run_is_not_asked_again(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    final = world.run_rounds()
    asked: list[str] = []
    monkeypatch.setattr(Node, "_answer", lambda _self, request, *_: asked.append(request.kind))
    np.testing.assert_array_equal(world.run_rounds(), final)
    assert set(asked) == {"hello"}
    assert world.charges() == [(1, 1)]


# --- crashes --------------------------------------------------------------------------------------


# Deaths at each step, in real processes: test_crashes.py. Here is what those cannot see.


@pytest.mark.parametrize("rate", [1.0, 0.9])
@pytest.mark.parametrize("step", ["gate/receipt durable", "gate/noise drawn", "run/V durable"])
def test_v_is_the_sum_and_the_last_noise_drawn(
    make_world: Make, draws: list[np.ndarray], step: str, rate: float
) -> None:
    world = make_world(sampling_rate=rate)
    with at(step), pytest.raises(Killed):
        world.run_rounds()
    drawn = len(draws)
    final = world.run_rounds()
    assert len(draws) == (drawn if step == "run/V durable" else drawn + 1)
    total = plain_sum(world, ("north", "east", "south"))
    np.testing.assert_array_equal(noised(world) - total, draws[-1])
    expected = noised(world) / world.plan.denominator(1, ("north", "east", "south"))
    np.testing.assert_allclose(final, expected, rtol=1e-6)


def test_the_private_sum_is_readable_by_its_owner_alone(make_world: Make) -> None:
    world = make_world()
    with at("gate/before charge"), pytest.raises(Killed):
        world.run_rounds()
    folder = world.round_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("sum-001.npy", "salt-001"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_an_attempt_that_died_while_sites_answered_is_void_and_counts(make_world: Make) -> None:
    world = make_world(sampling_rate=0.9, max_attempts=2)
    for _ in range(2):
        with at("rounds/answered"), pytest.raises(Killed):
            world.run_rounds()
    with pytest.raises(BudgetExceeded, match="2 attempts"):
        world.run_rounds()
    assert world.charges() == []
    assert world.charges("north") == [(1, 1), (1, 2)]
    with Ledger.open(world.run.ledger) as ledger:
        voids = [entry.body for entry in ledger.entries() if entry.kind == "void"]
    assert voids == [{"digest": world.plan.digest, "round": 1, "attempt": attempt} for attempt in (1, 2)]


def test_voids_of_all_rounds_count_together(make_world: Make) -> None:
    world = make_world(sampling_rate=0.9, rounds=2, max_attempts=2)
    with at("rounds/answered"), pytest.raises(Killed):
        world.run_rounds()
    with pytest.raises(BudgetExceeded, match="round 2"):
        world.run_rounds()
    assert world.charges() == [(1, 2)]


def test_a_kill_while_sites_prepare_costs_no_attempt(make_world: Make) -> None:
    world = make_world()
    with at("rounds/prepared"), pytest.raises(Killed):
        world.run_rounds()
    rows = world.rows()
    world.run_rounds()
    assert world.charges() == [(1, 1)]
    assert all(np.array_equal(rows[unit], row) for unit, row in world.rows().items())


def test_v_without_its_charge_means_an_old_ledger(make_world: Make) -> None:
    world = make_world()
    old = world.run.ledger.read_bytes()
    world.run_rounds()
    world.run.ledger.write_bytes(old)
    with Ledger.open(world.run.ledger) as ledger, pytest.raises(LedgerCorrupt, match="restore the newest"):
        noised_before(world.plan, ledger, world.run, 1)


def test_a_charged_sum_that_was_lost_needs_a_new_charge(make_world: Make) -> None:
    world = make_world(sampling_rate=0.9, max_attempts=2)
    with at("gate/receipt durable"), pytest.raises(Killed):
        world.run_rounds()
    (world.round_folder() / "sum-001.npy").unlink()
    world.run_rounds()
    assert world.charges() == [(1, 1), (1, 2)]
