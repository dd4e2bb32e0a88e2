"""The gate: no noise without a receipt that paid for this very mechanism and this very sum."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.dummy import DIMENSION
from tests.support.world import World
from undertone.errors import BudgetExceeded, MechanismViolation
from undertone.privacy.accounting import GaussianEvent
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger, commit_to_sum
from undertone.privacy.stages import Sensitivity, Sum
from undertone_server import gate
from undertone_server.attempt_ref import AttemptRef
from undertone_server.gate import pass_gate

Make = Callable[..., World]
SALT = bytes(range(32))


def gate_parts(world: World, l2: int | None = None) -> tuple[Sum, Ledger]:
    world.run.mark_asked(1, 1)
    sensitivity = Sensitivity(world.plan.privacy.sensitivity if l2 is None else l2)
    total = Sum(np.arange(DIMENSION, dtype=np.int64), sensitivity, ("east", "north"))
    world.run.keep_sum(1, 1, total, SALT)
    return total, Ledger.open(world.run.ledger)


@pytest.mark.parametrize("change", [-1, 1])
def test_the_gate_refuses_a_sum_with_another_sensitivity(make_world: Make, change: int) -> None:
    world = make_world()
    total, ledger = gate_parts(world, world.plan.privacy.sensitivity + change)
    with ledger, pytest.raises(MechanismViolation, match="nothing was opened"):
        pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, SALT, OsEntropy())
    assert world.charges() == []
    assert world.run.kept_noised(1) is None


@pytest.mark.parametrize("field", ["sigma", "sensitivity", "sampling_rate", "count"])
def test_the_gate_refuses_a_receipt_for_another_mechanism(make_world: Make, field: str) -> None:
    world = make_world(sigma=1000, max_attempts=2)
    total, ledger = gate_parts(world)
    event = world.plan.stage_of(1).event
    other = {"sigma": event.sigma - 1, "sensitivity": event.sensitivity + 1, "sampling_rate": 0.5, "count": 2}[field]
    wrong = replace(event, **{field: other})
    assert isinstance(wrong, GaussianEvent)
    with ledger:
        ledger.charge(world.plan.digest, 1, 1, wrong, commit_to_sum(total.values, SALT), 2)
        with pytest.raises(MechanismViolation, match="another mechanism"):
            pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, SALT, OsEntropy())
    assert world.run.kept_noised(1) is None


@pytest.mark.parametrize("what", ["sum", "salt"])
def test_the_gate_refuses_a_receipt_for_another_sum(make_world: Make, what: str) -> None:
    world = make_world()
    total, ledger = gate_parts(world)
    with ledger:
        ledger.charge(world.plan.digest, 1, 1, world.plan.stage_of(1).event, commit_to_sum(total.values, SALT), 1)
        changed = replace(total, values=total.values + (what == "sum"))
        salt = SALT if what == "sum" else bytes(32)
        with pytest.raises(MechanismViolation, match="another sum"):
            pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), changed, salt, OsEntropy())
    assert world.run.kept_noised(1) is None


def test_no_noise_is_drawn_before_the_charge(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    total, ledger = gate_parts(world)
    charged_at_draw: list[int] = []

    def looks(_entropy: object, _sigma: int, size: int) -> np.ndarray:
        charged_at_draw.append(len(world.charges()))
        return np.zeros(size, dtype=np.int64)

    monkeypatch.setattr(gate, "rounded_gaussian", looks)
    with ledger:
        pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, SALT, OsEntropy())
    assert charged_at_draw == [1]


def test_the_gate_draws_no_noise_when_the_budget_is_used_up(make_world: Make, draws: list[np.ndarray]) -> None:
    world = make_world()
    total, ledger = gate_parts(world)
    with ledger:
        ledger.charge(world.plan.digest, 1, 9, world.plan.stage_of(1).event, "0" * 64, 1)
        with pytest.raises(BudgetExceeded):
            pass_gate(AttemptRef(world.plan, ledger, world.run, 1, 1), total, SALT, OsEntropy())
    assert not draws
    assert (world.round_folder() / "sum-001.npy").exists()
