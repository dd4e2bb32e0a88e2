"""A study whose rows are of shards, through coordinator and nodes (PRIVACY 5, 11, 15)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DIMENSION, DummyBase
from tests.support.failpoints import Killed, at
from tests.support.shard_oracle import oracle
from tests.support.sharded import ROW
from tests.support.world import World, secure
from undertone.errors import MechanismViolation
from undertone.privacy.accounting import GaussianEvent
from undertone.privacy.distributed import DistributedEvent
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger, commit_to_sum
from undertone.privacy.stages import PER_ROW, ClippedSum, NoisedSum, Sensitivity, Sum
from undertone_client.round.noise_share import add_noise_share
from undertone_client.site.budget import charge
from undertone_client.site.folder import SiteDir
from undertone_server.attempt_ref import AttemptRef
from undertone_server.gate import pass_gate
from undertone_server.rounds import no_base
from undertone_server.update import update

Make = Callable[..., World]
SIZES = {"north": 12, "east": 8, "south": 4}
STUDY: dict[str, Any] = {"sharded": {}, "rounds": 3, "max_attempts": 3, "sigma": 2048}


def states(world: World) -> list[np.ndarray]:
    """Before each round, and after the last."""
    kept = [world.run.kept_state(round_) for round_ in (1, 2, 3)]
    return [world.start, *(state for state in kept if state is not None)]


def queries(world: World) -> list[np.ndarray]:
    assert world.sharded is not None
    return [world.sharded.query(None, state) for state in states(world)[:-1]]


def test_federated_equals_centralised(make_world: Make, draws: list[np.ndarray]) -> None:
    """Each V less its noise is the sum over all shards of all sites in one place; and so is what w becomes."""
    world = make_world(SIZES, **STUDY)
    world.run_rounds()
    asked, divisor = queries(world), world.plan.grid.scale * 4 * 3  # s p sum of N_i: four shards at three sites
    assert world.plan.denominator(1, ("east", "north", "south")) == divisor
    for round_, (before, after) in enumerate(zip(states(world), states(world)[1:], strict=False), start=1):
        kept = world.run.kept_noised(round_)
        assert kept is not None
        summed = sum(oracle(world, site, asked[:round_]) for site in SIZES)
        np.testing.assert_array_equal(kept[1] - draws[round_ - 1], summed)
        np.testing.assert_array_equal(world.run.kept_query(round_), asked[round_ - 1])
        np.testing.assert_allclose(after[:ROW] - before[:ROW], kept[1] / divisor, atol=1e-6)
        assert after[-1] == round_


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_a_study_of_shards_runs_under_masks_and_charges_delta_of_two_rows(make_world: Make, noise: str) -> None:
    options: dict[str, Any] = {"aggregation": secure(3), "noise": noise}
    world = make_world(SIZES, **STUDY | options | {"max_attempts": 5, "sigma": 4096})
    state = world.run_rounds()
    assert state.size == DIMENSION + 1
    plan = world.plan
    twice = 2 * plan.grid.clip_units
    event = plan.stages[0].event
    assert isinstance(event, GaussianEvent if noise == "central" else DistributedEvent)
    assert (event.sensitivity, event.sampling_rate) == (twice, 1)
    for path in (world.run.ledger, *(folder / "ledger.sqlite" for folder in world.sites.values())):
        with Ledger.open(path, read_only=True) as ledger:
            assert [one.event for one in ledger.charges(plan.digest)] == [event] * 3


@pytest.mark.parametrize(
    "step", ["rounds/prepared", "run/Q durable", "gate/noise drawn", "run/V durable", "rounds/updated"]
)
def test_a_coordinator_that_died_goes_on_with_the_same_query(make_world: Make, step: str) -> None:
    world = make_world(SIZES, **STUDY)
    with at(step, 2), pytest.raises(Killed):
        world.run_rounds()
    before = world.run.kept_query(2)
    assert before is not None
    world.run_rounds()
    np.testing.assert_array_equal(before, world.run.kept_query(2))
    np.testing.assert_array_equal(before, queries(world)[1])
    assert world.charges() == [(1, 1), (2, 1), (3, 1)]


def test_a_query_is_made_once_for_all_attempts_of_a_round(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine it might differ in the last bits, and a site that has rows at the first would refuse.

    The step takes the same one: the noised mean is a gradient at its outputs.
    """
    world = make_world(SIZES, **STUDY)
    method = type(world.sharded)
    with at("rounds/prepared", 1), pytest.raises(Killed):
        world.run_rounds()
    made, stepped, true, step_on = list[int](), list[np.ndarray](), method.query, method.step_on

    def elsewhere(self: Any, base: Any, state: np.ndarray) -> np.ndarray:
        made.append(int(state[-1]) + 1)
        return np.nextafter(true(self, base, state), np.float32(9))  # type: ignore[no-any-return]

    def step(self: Any, base: Any, state: np.ndarray, query: np.ndarray, mean: np.ndarray) -> np.ndarray:
        stepped.append(query)
        return step_on(self, base, state, query, mean)  # type: ignore[no-any-return]

    monkeypatch.setattr(method, "query", elsewhere)
    monkeypatch.setattr(method, "step_on", step)
    monkeypatch.setattr(method, "check_query", lambda *_: None)
    world.run_rounds()
    assert made == [2, 3]
    np.testing.assert_array_equal(stepped, [world.run.kept_query(round_) for round_ in (1, 2, 3)])


def test_a_query_of_another_length_is_never_sent(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(SIZES, **STUDY)
    monkeypatch.setattr(type(world.sharded), "query", lambda *_: np.zeros(4, dtype=np.float32))
    with pytest.raises(MechanismViolation, match="a query of"):
        world.run_rounds()
    assert "prepare" not in world.log()


def test_a_step_goes_through_the_base(make_world: Make) -> None:
    world = make_world(SIZES, **STUDY)
    sent, method = np.ones(3, dtype=np.float32), world.sharded
    noised = NoisedSum(np.ones(ROW, dtype=np.int64), 64, ("east", "north"), "")
    assert method is not None
    with pytest.raises(MechanismViolation, match="goes through the base"):
        update(method, world.plan, 1, world.start, sent, noised, no_base)
    moved = update(method, world.plan, 1, world.start, sent, noised, DummyBase)  # type: ignore[arg-type]
    np.testing.assert_allclose(moved[:ROW], 1 / world.plan.denominator(1, ("east", "north")))


@pytest.mark.parametrize("rows", [1, 2])
def test_the_gate_takes_no_sum_whose_bound_is_of_rows_of_units(make_world: Make, rows: int) -> None:
    world = make_world(SIZES, **STUDY)
    other = Sensitivity(rows * world.plan.grid.clip_units, PER_ROW)
    total = Sum(np.zeros(ROW, dtype=np.int64), other, ("east", "north"))
    world.run.mark_asked(1, 1)
    world.run.keep_sum(1, 1, total, bytes(32))
    with Ledger.open(world.run.ledger) as ledger, pytest.raises(MechanismViolation, match="can move by"):
        pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, bytes(32), OsEntropy())
    assert not world.charges()


def test_a_noise_share_is_added_to_no_sum_whose_bound_is_of_rows_of_units(make_world: Make) -> None:
    world = make_world(SIZES, **STUDY | {"aggregation": secure(3), "noise": "distributed", "sigma": 4096})
    values, site = np.zeros(ROW, dtype=np.int64), SiteDir(world.sites["north"])
    with Ledger.open(site.ledger) as ledger:
        receipt = charge(ledger, world.plan, 1, 1, commit_to_sum(values, site.secret()))
    good, bad = world.plan.stages[0].sensitivity, Sensitivity(world.plan.grid.clip_units, PER_ROW)
    assert add_noise_share(ClippedSum(values, good), receipt, world.plan, 1, OsEntropy()).values.shape == (ROW,)
    with pytest.raises(MechanismViolation, match="can move by"):
        add_noise_share(ClippedSum(values, bad), receipt, world.plan, 1, OsEntropy())
