"""Rounds that differ: gate, receipt, node and ledgers hold each to the figures of its own stage (PRIVACY 25)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DIMENSION, FEATURES, DummyMethod, LargestFeature, OneFeature
from tests.support.failpoints import Killed, at
from tests.support.world import World, make_plan, secure
from undertone.errors import (
    BudgetExceeded,
    LedgerCorrupt,
    MechanismViolation,
    NotVerified,
    ReplayedAttempt,
)
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger, commit_to_sum
from undertone.privacy.quantise import clip_and_quantise
from undertone.privacy.stages import ClippedSum, Sensitivity, Sum
from undertone.release.verify import _charges
from undertone.study.claim import recompute_epsilon
from undertone.study.plan import Plan
from undertone_client.round.noise_share import add_noise_share
from undertone_client.site.accounts import Accounts
from undertone_client.site.budget import charge, price, reserve
from undertone_client.site.folder import SiteDir
from undertone_server.attempt_ref import AttemptRef
from undertone_server.gate import noised_before, pass_gate, pass_with_noise_shares

Make = Callable[..., World]
SALT = bytes(range(32))
SITES = ("east", "north")
STUDY: dict[str, Any] = {
    "rounds": 3,
    "max_attempts": 5,
    "sampling_rate": 0.9,
    "sigma": 1500,
    "staged": {"max_attempts": 2},
}


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world(**STUDY)


def summed(world: World, round_: int, of: int | None = None) -> Sum:
    """A sum durable in its round, with the bound and length of round `of`."""
    stage = world.plan.stage_of(of or round_)
    total = Sum(np.arange(stage.dimension, dtype=np.int64), stage.sensitivity, SITES)
    world.run.mark_asked(round_, 1)
    world.run.keep_sum(round_, 1, total, SALT)
    return total


# --- a study ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["plain", "secagg", "distributed"])
def test_a_study_of_two_stages_runs_and_charges_each_its_own(make_world: Make, aggregation: str) -> None:
    options: dict[str, Any] = {} if aggregation == "plain" else {"aggregation": secure(3)}
    if aggregation == "distributed":
        options |= {"noise": "distributed", "sigma": 4096}
    world = make_world(**STUDY | options)
    state = world.run_rounds()
    plan = world.plan
    for path in (world.run.ledger, *(folder / "ledger.sqlite" for folder in world.sites.values())):
        with Ledger.open(path, read_only=True) as ledger:
            charges = ledger.charges(plan.digest)
        assert [(one.round, one.event) for one in charges] == [(n, plan.stage_of(n).event) for n in (1, 2, 3)]
    lengths = [kept[1].size for round_ in (1, 2, 3) if (kept := world.run.kept_noised(round_)) is not None]
    assert lengths == [FEATURES, DIMENSION, DIMENSION]
    assert state[DIMENSION] in range(1, FEATURES + 1)


def test_the_noise_of_each_stage_has_its_own_size(make_world: Make, draws: list[np.ndarray]) -> None:
    world = make_world(**STUDY | {"staged": {"sigma": 200_000, "max_attempts": 2}})
    world.run_rounds()
    first, *others = draws
    assert 60_000 < np.sqrt(np.mean(first**2.0)) < 400_000
    assert all(300 < np.sqrt(np.mean(one**2.0)) < 4000 for one in others)


@pytest.mark.parametrize("step", ["gate/receipt durable", "run/V durable", "rounds/state durable"])
def test_a_run_killed_between_the_stages_goes_on_in_the_right_one(make_world: Make, step: str) -> None:
    world = make_world(**STUDY)
    with at(step), pytest.raises(Killed):
        world.run_rounds()
    before = world.run.kept_noised(1)
    state = world.run_rounds()
    kept = world.run.kept_noised(1)
    assert kept is not None
    if before is not None:
        np.testing.assert_array_equal(before[1], kept[1])
    chosen = LargestFeature(None).step(world.start, kept[1] / 1.0)  # type: ignore[arg-type]
    assert state[DIMENSION] == chosen[DIMENSION]
    assert world.charges() == [(1, 1), (2, 1), (3, 1)]


def test_neighbours_move_the_integers_of_each_stage_by_its_own_bound(world: World) -> None:
    drawn = np.random.default_rng(1)
    for stage in world.plan.stages:
        grid = stage.grid.as_grid()
        rows = drawn.standard_normal((5, stage.dimension)).astype(np.float32) * 100
        with_, without = (clip_and_quantise(part, grid).sum(axis=0) for part in (rows, rows[:4]))
        moved = int(((with_ - without) ** 2).sum())
        assert 0.9 * stage.sensitivity.l2**2 < moved <= stage.sensitivity.l2**2
    assert len({stage.sensitivity.l2 for stage in world.plan.stages}) == 2


# --- the gate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("round_", "other"), [(1, 2), (2, 1), (3, 1)])
def test_the_gate_takes_no_sum_of_another_stage(world: World, round_: int, other: int) -> None:
    total = summed(world, round_, other)
    with Ledger.open(world.run.ledger) as ledger:
        attempt = AttemptRef(world.plan, ledger, world.run, round_, 1)
        with pytest.raises(MechanismViolation, match="can move by"):
            pass_gate(attempt, total, SALT, OsEntropy())
        other_length = replace(total, sensitivity=world.plan.stage_of(round_).sensitivity)
        with pytest.raises(MechanismViolation, match="values"):
            pass_gate(attempt, other_length, SALT, OsEntropy())
    assert world.charges() == []


@pytest.mark.parametrize(("round_", "other"), [(1, 2), (2, 1)])
def test_the_gate_takes_no_receipt_for_another_stage(world: World, round_: int, other: int) -> None:
    total, plan = summed(world, round_), world.plan
    with Ledger.open(world.run.ledger) as ledger:
        ledger.charge(plan.digest, round_, 1, plan.stage_of(other).event, commit_to_sum(total.values, SALT), 9)
        attempt = AttemptRef(plan, ledger, world.run, round_, 1)
        with pytest.raises(MechanismViolation, match="another mechanism"):
            pass_gate(attempt, total, SALT, OsEntropy())
        world.run.keep_noised(round_, 1, total.values)
        with pytest.raises(LedgerCorrupt, match="another mechanism"):
            noised_before(plan, ledger, world.run, round_)


def test_the_gate_charges_the_event_of_the_round_and_not_a_cheaper_one(world: World) -> None:
    with Ledger.open(world.run.ledger) as ledger:
        for round_ in (1, 2):
            noised = pass_gate(
                AttemptRef(world.plan, ledger, world.run, round_, 1), summed(world, round_), SALT, OsEntropy()
            )
            assert noised.sigma == world.plan.stage_of(round_).sigma
        assert ledger.events(world.plan.digest) == [world.plan.stage_of(round_).event for round_ in (1, 2)]


def test_noise_shares_of_another_stage_are_refused(make_world: Make) -> None:
    world = make_world(**STUDY | {"aggregation": secure(3), "noise": "distributed", "sigma": 8192})
    plan = world.plan
    first, last = plan.stages
    with Ledger.open(world.run.ledger) as ledger:
        receipts = {n: ledger.charge(plan.digest, n, 1, plan.stage_of(n).event, "0" * 64, 9) for n in (1, 2, 3)}
        wrong = ledger.charge(plan.digest, 2, 2, first.event, "0" * 64, 9)
        for values, receipt in (
            (ClippedSum(np.zeros(FEATURES, np.int64), first.sensitivity), receipts[2]),
            (ClippedSum(np.zeros(DIMENSION, np.int64), last.sensitivity), wrong),
            (ClippedSum(np.zeros(DIMENSION, np.int64), last.sensitivity), receipts[3]),
        ):
            with pytest.raises(MechanismViolation):
                add_noise_share(values, receipt, plan, 2, OsEntropy())
        share = add_noise_share(
            ClippedSum(np.zeros(FEATURES, np.int64), first.sensitivity), receipts[1], plan, 1, OsEntropy()
        )
        assert share.sigma_local == first.sigma_local
        total = Sum(np.zeros(DIMENSION, np.int64), last.sensitivity, ("east", "north", "south"))
        shares = replace_sum(total, first.sigma_local)
        with pytest.raises(MechanismViolation):
            pass_with_noise_shares(AttemptRef(plan, ledger, world.run, 2, 1), shares, receipts[2])
        with pytest.raises(MechanismViolation):
            pass_with_noise_shares(
                AttemptRef(plan, ledger, world.run, 2, 2), replace_sum(total, last.sigma_local), wrong
            )


def replace_sum(total: Sum, sigma_local: int) -> Any:
    from undertone.privacy.stages import SumWithNoiseShares

    return SumWithNoiseShares(total.values, sigma_local, total.sites)


# --- attempts ---------------------------------------------------------------------------------------------


def test_attempts_are_bounded_by_stage(make_world: Make) -> None:
    """The selection may have 2 of the 5; what it needs beyond is not taken from the rounds after it."""
    world = make_world(**STUDY)
    for _ in range(2):
        with at("rounds/answered"), pytest.raises(Killed):
            world.run_rounds()
    with pytest.raises(BudgetExceeded, match="2 attempts"):
        world.run_rounds()
    reply = world.ask("prepare", attempt=3)
    assert (reply.error, "attempt 3 is not in the plan" in reply.message) == ("PlanChanged", True)


def test_attempts_of_the_selection_that_are_not_used_are_no_others(world: World) -> None:
    plan = world.plan
    with Ledger.open(world.run.ledger) as ledger:
        stage = plan.stage_of(2)
        for number in range(1, 4):
            ledger.charge(plan.digest, 2, number, stage.event, "0" * 64, stage.max_attempts, rounds=stage.rounds)
        with pytest.raises(BudgetExceeded):
            ledger.charge(plan.digest, 3, 1, stage.event, "0" * 64, stage.max_attempts, rounds=stage.rounds)
        with pytest.raises(MechanismViolation, match="not one of this stage"):
            ledger.charge(plan.digest, 1, 1, stage.event, "0" * 64, stage.max_attempts, rounds=stage.rounds)
        first = plan.stage_of(1)
        ledger.charge(plan.digest, 1, 1, first.event, "0" * 64, first.max_attempts, rounds=first.rounds)


def test_at_full_rate_with_free_lists_a_round_of_that_stage_is_answered_once(make_world: Make) -> None:
    world = make_world(rounds=2, max_attempts=3, sampling_rate=0.5, staged={"sampling_rate": 1.0, "max_attempts": 1})
    first, last = world.plan.stages
    assert (first.once_per_round, last.once_per_round, world.plan.once_per_round) == (True, False, True)


# --- the node ---------------------------------------------------------------------------------------------


def sent(world: World, chosen: float) -> np.ndarray:
    state = world.start.copy()
    state[DIMENSION] = chosen
    return state


def test_a_site_refuses_a_state_that_no_selection_can_have_made(world: World) -> None:
    for round_, chosen in ((1, 3.0), (2, 0.0), (2, 13.0), (2, 1.5), (2, float("nan"))):
        reply = world.ask("prepare", round=round_, state=sent(world, chosen))
        assert reply.error == "PlanChanged", (round_, chosen)
    for state in (np.zeros(DIMENSION, np.float32), np.zeros(DIMENSION + 2, np.float32)):
        assert world.ask("prepare", state=state).error == "ProtocolError"
    assert world.ask("prepare", round=2, state=sent(world, 3.0)).error == ""
    assert world.charges("north") == []


@pytest.mark.parametrize("kind", [LargestFeature, OneFeature])
def test_a_sites_sum_is_clipped_to_the_c_of_its_round(
    world: World, kind: type[DummyMethod], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows all alike and far longer than C of either stage: each unit adds nearly C of its own stage, and no more."""
    round_, chosen = (1, 0.0) if kind is LargestFeature else (2, 3.0)
    stage, state = world.plan.stage_of(round_), sent(world, chosen)
    long = np.full(stage.dimension, 1000, dtype=np.float32)
    monkeypatch.setattr(kind, "row", staticmethod(lambda state, unit: long))
    assert world.ask("prepare", round=round_, state=state).error == ""
    reply = world.ask("plain_input", round=round_, state=state)
    assert reply.error == ""
    assert reply.words is not None
    units, length = len(world.rows(round_=round_)), np.linalg.norm(reply.words.astype(np.int32))
    assert 0.9 * units * stage.sensitivity.l2 <= length <= units * stage.sensitivity.l2
    assert world.charges("north") == [(round_, 1)]


def test_a_site_reserves_and_charges_each_stage(world: World) -> None:
    plan, site = world.plan, SiteDir(world.sites["north"])
    with Ledger.open(site.ledger) as ledger:
        held = Accounts.read(ledger.entries()).reservations[plan.digest]
        assert [(part.event, part.attempts, part.rounds) for part in held.parts] == [
            (plan.stages[0].event, 2, (1, 1)),
            (plan.stages[1].event, 3, (2, 3)),
        ]
        receipt = charge(ledger, plan, 1, 1, "0" * 64)
        assert receipt.event == plan.stages[0].event
        charge(ledger, plan, 1, 2, "0" * 64)
        with pytest.raises(BudgetExceeded):
            charge(ledger, plan, 1, 3, "0" * 64)
        with pytest.raises(ReplayedAttempt):
            charge(ledger, plan, 1, 1, "0" * 64)
        assert charge(ledger, plan, 3, 1, "0" * 64).event == plan.stages[1].event
        after = Accounts.read(ledger.entries()).reservations[plan.digest]
        assert [part.charged for part in after.parts] == [2, 1]
        assert after.charged == 3


def test_a_ledger_that_charged_a_round_another_stages_event_is_none(world: World) -> None:
    plan = world.plan
    with Ledger.open(SiteDir(world.sites["north"]).ledger) as ledger:
        ledger.charge(plan.digest, 2, 1, plan.stages[0].event, "0" * 64, 9)
        with pytest.raises(LedgerCorrupt, match="another event for its round"):
            Accounts.read(ledger.entries())


@pytest.mark.parametrize(
    "stages",
    [
        [],
        [{}],
        [{"rounds": [1, 1]}],
        [{"rounds": [1, 1]}, {"rounds": [3, 4]}],
        [{"rounds": [2, 2]}, {"rounds": [3, 4]}],
        [{"rounds": [1, 2]}, {"rounds": [2, 3]}],
        [{"rounds": [1, 1]}, {"rounds": [2, 1]}],
        [{"rounds": [1, 1]}, {}],
        [{"rounds": [1, 1], "attempts": 0}, {"rounds": [2, 3]}],
        [{"rounds": [1, 1], "more": 0}, {"rounds": [2, 3]}],
        [{"rounds": [1]}, {"rounds": [2, 3]}],
    ],
)
def test_a_reservation_of_stages_is_read_strictly(world: World, stages: list[dict[str, Any]]) -> None:
    plan = world.plan
    body: Any = {
        "digest": "0" * 64,
        "data_set": "data",
        "stages": [{"event": plan.stages[0].event.as_dict(), "attempts": 1} | stage for stage in stages],
    }
    with Ledger.open(SiteDir(world.sites["north"]).ledger) as ledger:
        ledger.append("reserve", body)
        with pytest.raises(LedgerCorrupt):
            Accounts.read(ledger.entries())


def test_a_data_set_pays_for_all_stages(world: World, dummy_base: Path) -> None:
    """Its price is that of both; a plan of the rounds alone costs less."""
    alone = make_plan(dummy_base, world.plan.cohort.units, rounds=2, max_attempts=3, sampling_rate=0.9, sigma=1500)
    assert price(world.plan) > price(alone)
    with Ledger.open(SiteDir(world.sites["north"]).ledger) as ledger:
        reserve(ledger, world.plan, "data")  # once more changes nothing
        spent = Accounts.read(ledger.entries()).filter("data")
        assert spent.plans[world.plan.digest].allowed == {
            stage.event: stage.max_attempts for stage in world.plan.stages
        }


# --- verify -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charges", "good"),
    [
        ([(1, 1, 1), (2, 1, 2), (3, 1, 3)], True),
        ([(1, 1, 1), (1, 2, 1), (2, 1, 2), (3, 1, 3), (3, 2, 3)], True),
        ([(1, 1, 2), (2, 1, 2), (3, 1, 3)], False),
        ([(1, 1, 1), (2, 1, 1), (3, 1, 3)], False),
        ([(1, 1, 1), (1, 2, 1), (1, 3, 1), (2, 1, 2), (3, 1, 3)], False),
        ([(2, 1, 2), (3, 1, 3)], False),
        ([(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 1, 3)], False),
    ],
)
def test_verify_wants_each_round_charged_its_own_event(
    world: World, tmp_path: Path, charges: list[tuple[int, int, int]], good: bool
) -> None:
    plan: Plan = world.plan
    with Ledger.create(tmp_path / "ledger.sqlite", {"role": "coordinator", "plan": plan.digest}) as ledger:
        for round_, attempt, of in charges:
            ledger.charge(plan.digest, round_, attempt, plan.stage_of(of).event, "0" * 64, 99)
    if good:
        assert _charges(tmp_path, plan)[0] == len(charges)
        return
    with pytest.raises(NotVerified, match="ledger"):
        _charges(tmp_path, plan)


def test_the_claim_is_of_both_stages(world: World) -> None:
    assert recompute_epsilon(world.plan)[0] == world.plan.privacy.epsilon
    assert Sensitivity(2048) == world.plan.stages[0].sensitivity
