"""Distributed noise: a noise share only for a receipt of this very mechanism, a V only with enough noise shares."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.dummy import DIMENSION
from tests.support.world import World, secure
from undertone.errors import MechanismViolation
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger, Receipt
from undertone.privacy.stages import ClippedSum, NoisedSum, Sensitivity, SumWithNoiseShares
from undertone_client.round.noise_share import add_noise_share
from undertone_server.attempt_ref import AttemptRef
from undertone_server.gate import charge_unmasking, pass_with_noise_shares

Make = Callable[..., World]
FIVE = {"centre": 4, "east": 4, "north": 6, "south": 4, "west": 6}
SHARES = {"aggregation": secure(5), "noise": "distributed"}
SHARE = 592  # 3 = t - c of them have the variance of sigma = 1024


@pytest.fixture
def world(make_world: Make) -> World:
    made: World = make_world(FIVE, **SHARES)
    return made


def clipped(world: World, l2: int = 0) -> ClippedSum:
    values = np.arange(DIMENSION, dtype=np.int64)
    return ClippedSum(values, Sensitivity(world.plan.privacy.sensitivity + l2))


def paid(world: World) -> Receipt:
    with Ledger.open(world.run.ledger) as ledger:
        return charge_unmasking(AttemptRef(world.plan, ledger, world.run, 1, 1), "0" * 64)


def passed(world: World, total: SumWithNoiseShares, receipt: Receipt | None) -> NoisedSum:
    with Ledger.open(world.run.ledger) as ledger:
        return pass_with_noise_shares(AttemptRef(world.plan, ledger, world.run, 1, 1), total, receipt)


def noised(world: World, sites: int = 5, sigma_local: int = SHARE) -> SumWithNoiseShares:
    return SumWithNoiseShares(np.arange(DIMENSION, dtype=np.int64), sigma_local, tuple(FIVE)[:sites])


def test_a_noise_share_is_added_after_the_clamp_and_nothing_clamps_afterwards(world: World) -> None:
    at_the_clamp = replace(clipped(world), values=np.full(DIMENSION, world.plan.grid.site_clamp, dtype=np.int64))
    share = add_noise_share(at_the_clamp, paid(world), world.plan, 1, OsEntropy())
    assert (share.values > world.plan.grid.site_clamp).any()
    assert (share.sigma_local, share.entry_hash) == (SHARE, paid_hash(world))


def paid_hash(world: World) -> str:
    with Ledger.open(world.run.ledger) as ledger:
        return ledger.charges(world.plan.digest)[0].entry_hash


def test_a_noise_share_has_the_plans_size(world: World) -> None:
    """The variance of 40,000 draws, to five standard errors; a share smaller by a tenth would be seen."""
    values = np.zeros(40_000, dtype=np.int64)
    share = add_noise_share(replace(clipped(world), values=values), paid(world), world.plan, 1, OsEntropy()).values
    five_errors = 5 * np.sqrt(2 / values.size)
    assert abs(share.astype(float).var() / SHARE**2 - 1) < five_errors
    assert abs(0.9**2 - 1) > 2 * five_errors
    assert abs(share.mean()) < 5 * SHARE / np.sqrt(values.size)


def test_noise_shares_of_two_calls_differ(world: World) -> None:
    receipt = paid(world)
    one, other = (add_noise_share(clipped(world), receipt, world.plan, 1, OsEntropy()).values for _ in range(2))
    assert (one != other).any()


@pytest.mark.parametrize("change", [-1, 1])
def test_no_noise_share_for_a_sum_with_another_sensitivity(world: World, change: int) -> None:
    with pytest.raises(MechanismViolation, match="the sum can move by"):
        add_noise_share(clipped(world, change), paid(world), world.plan, 1, OsEntropy())


def test_no_noise_share_for_a_receipt_of_another_mechanism_or_study(world: World) -> None:
    receipt = paid(world)
    cheaper = replace(receipt, event=replace(receipt.event, sensitivity=receipt.event.sensitivity + 1))
    for false in (cheaper, replace(receipt, digest="1" * 64)):
        with pytest.raises(MechanismViolation, match="another mechanism"):
            add_noise_share(clipped(world), false, world.plan, 1, OsEntropy())


def test_no_noise_share_where_the_coordinator_adds_the_noise(make_world: Make) -> None:
    world = make_world(FIVE, aggregation=secure(5))
    with pytest.raises(MechanismViolation, match="lets the coordinator"):
        add_noise_share(clipped(world), paid(world), world.plan, 1, OsEntropy())


def test_v_needs_its_receipt(world: World) -> None:
    receipt = paid(world)
    cheaper = replace(receipt, event=replace(receipt.event, sensitivity=receipt.event.sensitivity + 1))
    for false in (None, cheaper):
        with pytest.raises(MechanismViolation, match="without a receipt"):
            passed(world, noised(world), false)
    assert world.run.kept_noised(1) is None


@pytest.mark.parametrize("change", [{"round": 2}, {"attempt": 2}, {"digest": "1" * 64}])
def test_v_needs_the_receipt_of_its_own_attempt(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(MechanismViolation, match="receipt of another attempt"):
        passed(world, noised(world), replace(paid(world), **change))
    assert world.run.kept_noised(1) is None


@pytest.mark.parametrize("sites", [0, 2, 3])
def test_v_needs_the_noise_shares_that_the_plan_counts_on(world: World, sites: int) -> None:
    with pytest.raises(MechanismViolation, match="fewer than the plan counts on"):
        passed(world, noised(world, sites), paid(world))


def test_noise_shares_of_another_size_are_refused(world: World) -> None:
    with pytest.raises(MechanismViolation, match="not what the plan says"):
        passed(world, noised(world, sigma_local=SHARE - 1), paid(world))


def test_a_round_has_one_v(world: World) -> None:
    receipt = paid(world)
    world.run.mark_asked(1, 1)
    passed(world, noised(world), receipt)
    with pytest.raises(MechanismViolation, match="never noised twice"):
        passed(world, noised(world), receipt)
