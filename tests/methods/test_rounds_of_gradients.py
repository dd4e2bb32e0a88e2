"""Gradient methods over rounds: federated equals centralised; a killed run goes on as if it had not been."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.failpoints import Killed, at
from tests.support.gradient_studies import FIVE, SMALL, centralised, gradient_study
from undertone.errors import PlanChanged
from undertone.methods.registry import METHODS
from undertone.models.pinned import pin
from undertone.privacy.ledger import Ledger
from undertone.release.verify import verify
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_cli.commands.simulate import simulate
from undertone_server import gate, release, telemetry
from undertone_server.run_folder import RunFolder


@pytest.fixture
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures before and after, and the odometer of each round, are seconds that these tests do not look at."""
    monkeypatch.setattr(telemetry, "epsilon_spent", lambda *_: 0.0)
    monkeypatch.setattr(
        release, "_draw_samples", lambda _pinned, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "rounded_gaussian", lambda _entropy, _sigma, size: np.zeros(size, dtype=np.int64))


def go(study: Path, **options: Any) -> Path:
    simulate(study, study.parent / "data", study.parent / "run", split_by="site", **options)
    return study.parent / "run"


def plan_of(run: Path) -> Plan:
    return Plan.from_bytes((run / "plan.json").read_bytes())


@pytest.mark.slow
@pytest.mark.usefixtures("no_samples", "no_noise")
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "dpagg-ti"])
def test_five_sites_are_one_place_to_quantisation_error(
    tmp_path: Path, tiny_base: Path, name: str, optimiser: str
) -> None:
    rate = SMALL[name]["learning_rate"] * (1.0 if optimiser == "sgd" else 0.01)
    study = gradient_study(tmp_path, tiny_base, name, FIVE, 20, optimiser=optimiser, learning_rate=rate)
    # sgd: one part in 2^10 of the clip bound in each value would show; adam makes small values' errors large.
    assert_one_place(go(study), (1, 5, 20), 1e-4 if optimiser == "sgd" else 2e-2)


@pytest.mark.usefixtures("no_samples", "no_noise")
@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["dp-lora", "dp-ldm"])
def test_sums_made_batch_by_batch_are_one_place_too(
    tmp_path: Path, tiny_base: Path, name: str, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with rows that count as too long to keep: summed as integers, over secure aggregation's wire."""
    monkeypatch.setattr("undertone.methods.gradient.method._MIB", 64)
    study = gradient_study(tmp_path, tiny_base, name, FIVE, rounds, optimiser="sgd")
    run = go(study)
    assert_one_place(run, (1, rounds), 1e-4)
    statement = json.loads((run / "release" / "privacy.json").read_bytes())
    assert "measured, not proved" in statement["mechanism"]["floating_point"]
    assert statement["mechanism"]["sensitivity_relation"].startswith("add/remove one unit, quantised per row")
    assert verify(run / "release").digest == plan_of(run).digest


def assert_one_place(run: Path, rounds: tuple[int, ...], tolerance: float) -> None:
    plan, expected = plan_of(run), centralised(run)
    method, start = planned_method(plan, pin(plan.model.base)), centralised_start(plan)
    for round_ in rounds:
        kept = RunFolder(run).kept_state(round_)
        assert kept is not None
        found, wanted = method.released(kept), method.released(expected[round_ - 1])
        moved = float(np.linalg.norm(wanted - start))
        assert moved > 1e-3
        assert np.linalg.norm(found - wanted) < tolerance * moved


def centralised_start(plan: Plan) -> np.ndarray:
    pinned = pin(plan.model.base)
    method = planned_method(plan, pinned)
    return method.released(method.initial_state(pinned))


@pytest.mark.usefixtures("no_samples")
@pytest.mark.parametrize("step", ["rounds/updated", "rounds/state durable"])
def test_a_killed_run_goes_on_with_the_optimisers_memory_and_pays_once(
    tmp_path: Path, tiny_base: Path, step: str
) -> None:
    study = gradient_study(tmp_path, tiny_base, "dpsgd-ti", FIVE[:3], 3, ema=0.5, warm_up=2)
    with at(step, 2), pytest.raises(Killed):
        go(study)
    run = go(study, resume=True)
    plan, folder = plan_of(run), RunFolder(run)
    method, pinned = planned_method(plan, pin(str(tiny_base))), pin(str(tiny_base))
    state = method.initial_state(pinned)
    for round_ in (1, 2, 3):
        kept = folder.kept_noised(round_)
        assert kept is not None
        state = method.step(state, kept[1] / plan.denominator(1, kept[2]))
        np.testing.assert_array_equal(folder.kept_state(round_), state)
    assert state.size > 3 * plan.method.dimension  # w is not all there is
    with Ledger.open(folder.ledger, read_only=True) as ledger:
        assert [(charge.round, charge.attempt) for charge in ledger.charges(plan.digest)] == [(1, 1), (2, 1), (3, 1)]


@pytest.mark.usefixtures("no_samples")
def test_sites_are_sent_w_alone(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from undertone_client.compute.preparing import Preparation

    seen: list[np.ndarray] = []
    run_ = Preparation.run
    monkeypatch.setattr(Preparation, "run", lambda self: (seen.append(self.state), run_(self))[1])
    run = go(gradient_study(tmp_path, tiny_base, "dpsgd-ti", FIVE[:3], 2))
    kept = RunFolder(run).kept_state(1)
    assert kept is not None
    assert {state.size for state in seen} == {plan_of(run).method.dimension}
    np.testing.assert_array_equal(seen[-1], kept[: seen[-1].size])


@pytest.mark.usefixtures("no_samples")
def test_a_run_is_not_resumed_with_a_changed_study(tmp_path: Path, tiny_base: Path) -> None:
    study = gradient_study(tmp_path, tiny_base, "dpsgd-ti", FIVE[:3], 2)
    with at("rounds/updated"), pytest.raises(Killed):
        go(study)
    study.write_text(
        study.read_text(encoding="utf-8").replace('"draws": 2', '"draws": 3').replace("draws = 2", "draws = 3")
    )
    with pytest.raises(PlanChanged, match="restore it"):
        go(study, resume=True)
