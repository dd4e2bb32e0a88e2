"""Gradient methods over rounds: federated equals centralised; a killed run goes on as if it had not been."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.failpoints import Killed, at
from tests.support.gradient_studies import FIVE, SMALL, TOLD_CLASSES, assert_one_place, gradient_study, plan_of
from undertone.errors import DirectionsDiffer, PlanChanged, TooFewSites
from undertone.methods.gradient import kept_directions, public_directions
from undertone.methods.gradient.directions import Directions
from undertone.methods.gradient.kept_directions import Facts
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.registry import METHODS
from undertone.methods.weights import read_weights
from undertone.models.pinned import pin
from undertone.privacy.ledger import Ledger
from undertone.release.verify import verify
from undertone.study.planned import planned_method
from undertone_cli.commands.simulate import simulate
from undertone_client.compute.preparing import Preparation
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.folder import SiteDir
from undertone_server import gate, release, run_study, telemetry
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


# Few, and quickly made.
DIRECTIONS: dict[str, Any] = {"directions": 4, "direction_drawings": 6}


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What directions keep is not looked at here."""
    monkeypatch.setattr(public_directions, "_HELD_OUT", 2)


def go(study: Path, **options: Any) -> Path:
    simulate(study, study.parent / "data", study.parent / "run", split_by="site", **options)
    return study.parent / "run"


BaseOf = Callable[[str], Path]


@pytest.fixture
def base_of(tiny_base: Path, class_base: Path) -> BaseOf:
    """The base of a method's studies."""
    return lambda name: class_base if name in TOLD_CLASSES else tiny_base


METHODS_OF_ROUNDS = [name for name, method in METHODS.items() if issubclass(method, GradientMethod)]
# What a method trains may depend on its options: each variant must be one place.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("dp-lora", {"freeze_a": False}),
    ("dp-lora", {"text": False, "targets": ["conv"]}),
]


def variant_id(value: Any) -> str:
    return "-".join(value) if isinstance(value, dict) else str(value)


@pytest.mark.slow
@pytest.mark.usefixtures("no_samples", "no_noise")
@pytest.mark.parametrize(
    ("name", "options", "optimiser"),
    [
        *((name, {}, optimiser) for name in METHODS_OF_ROUNDS for optimiser in ("sgd", "adam")),
        *((*variant, "sgd") for variant in VARIANTS),
    ],
    ids=variant_id,
)
def test_five_sites_are_one_place_to_quantisation_error(
    tmp_path: Path, base_of: BaseOf, name: str, options: dict[str, Any], optimiser: str
) -> None:
    rate = SMALL[name]["learning_rate"] * (1.0 if optimiser == "sgd" else 0.01)
    study = gradient_study(tmp_path, base_of(name), name, FIVE, 20, optimiser=optimiser, learning_rate=rate, **options)
    # sgd: one part in 2^10 of the clip bound in each value would show; adam makes small values' errors large.
    assert_one_place(go(study), (1, 5, 20), 1e-4 if optimiser == "sgd" else 2e-2)


@pytest.mark.usefixtures("no_samples", "no_noise")
@pytest.mark.parametrize(
    ("name", "options", "rounds"),
    [
        ("dp-lora", {}, 2),
        ("dp-ldm", {}, 2),
        *(pytest.param(name, {}, 20, marks=pytest.mark.slow) for name in ("dp-lora", "dp-ldm", "dpdm")),
    ],
    ids=variant_id,
)
def test_sums_made_batch_by_batch_are_one_place_too(
    tmp_path: Path,
    base_of: BaseOf,
    name: str,
    options: dict[str, Any],
    rounds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same with rows that count as too long to keep: summed as integers, over secure aggregation's wire."""
    monkeypatch.setattr("undertone.methods.gradient.method._MIB", 64)
    study = gradient_study(tmp_path, base_of(name), name, FIVE, rounds, optimiser="sgd", **options)
    run = go(study)
    assert_one_place(run, (1, rounds), 1e-4)
    statement = json.loads((run / "release" / "privacy.json").read_bytes())
    assert "measured, not proved" in statement["mechanism"]["floating_point"]
    assert statement["mechanism"]["sensitivity_relation"].startswith("add/remove one unit, quantised per row")
    assert verify(run / "release").digest == plan_of(run).digest


@pytest.mark.usefixtures("no_samples", "no_noise")
@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_with_a_selection_its_sites_are_one_place(
    tmp_path: Path, tiny_base: Path, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stages, each on its own grid and clip; rows kept one by one, and summed as they are made."""
    if long:
        monkeypatch.setattr("undertone.methods.gradient.method._MIB", 64)
    selects = {"select": 2, "select_clip": 0.5, "text": False}
    run = go(gradient_study(tmp_path, tiny_base, "dp-lora", FIVE[:3], 3, optimiser="sgd", **selects))
    assert_one_place(run, (2, 3), 1e-4)
    first, last = plan_of(run).stages
    assert first.event != last.event
    assert first.clip_norm > last.clip_norm


@pytest.mark.usefixtures("no_samples", "no_noise")
@pytest.mark.parametrize(
    ("name", "rounds"),
    [("dp-ldm", 2), *(pytest.param(name, 20, marks=pytest.mark.slow) for name in METHODS_OF_ROUNDS)],
)
def test_in_public_directions_five_sites_are_one_place_and_send_k_values(
    tmp_path: Path, base_of: BaseOf, name: str, rounds: int
) -> None:
    """Over secure aggregation's wire, whose vectors have k values; each site makes the directions by itself."""
    run = go(gradient_study(tmp_path, base_of(name), name, FIVE, rounds, optimiser="sgd", **DIRECTIONS))
    plan, folder = plan_of(run), RunFolder(run)
    assert_one_place(run, (1, rounds), 1e-4)
    assert plan.method.dimension == DIRECTIONS["directions"]
    for round_ in range(1, rounds + 1):
        noised = folder.kept_noised(round_)
        assert noised is not None
        assert noised[1].shape == (DIRECTIONS["directions"],)
    assert verify(run / "release").digest == plan.digest


@pytest.mark.usefixtures("no_samples")
def test_each_site_makes_the_same_directions_whatever_its_data(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on machines of their own, which keep nothing of each other's: bit for bit, and the coordinator too."""
    made: list[np.ndarray] = []

    def anew(_key: object, make: Callable[[], Directions]) -> tuple[Directions, Facts]:
        made.append((found := make()).basis)
        return found, Facts(found.fingerprint(), found.of_rows, found.of_mean)

    monkeypatch.setattr(public_directions, "directions_for", anew)
    go(gradient_study(tmp_path, tiny_base, "dp-ldm", FIVE[:3], 1, **DIRECTIONS))
    assert len(made) > 4
    assert len({basis.tobytes() for basis in made}) == 1


@pytest.mark.usefixtures("no_samples")
def test_sites_that_make_other_directions_refuse_before_a_coin_falls(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if their libraries drew otherwise than those of whoever planned."""
    run_ = Preparation.run

    def elsewhere(self: Preparation) -> None:
        kept_directions.forget()
        with monkeypatch.context() as patch:
            patch.setattr(public_directions, "_SEED", 7)
            patch.setattr(kept_directions, "_read", lambda _key: None)
            patch.setattr(kept_directions, "_keep", lambda *_: None)
            run_(self)

    monkeypatch.setattr(Preparation, "run", elsewhere)
    with pytest.raises(TooFewSites, match="DirectionsDiffer"):
        go(gradient_study(tmp_path, tiny_base, "dp-ldm", FIVE[:3], 1, **DIRECTIONS))
    kept_directions.forget()
    sites = sorted((tmp_path / "run" / "sites").iterdir())
    assert len(sites) == 3
    for folder in sites:
        with AttemptStore(SiteDir(folder).attempt_store) as store:
            assert store._attempts(plan_of(tmp_path / "run").digest) == []


@pytest.mark.usefixtures("no_samples")
def test_a_coordinator_that_makes_other_directions_refuses_before_a_site_is_asked(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its release would be of other weights than the sites trained, and the budget spent."""
    planned = run_study.planned_method

    def elsewhere(*arguments: Any) -> Any:
        kept_directions.forget()
        monkeypatch.setattr(kept_directions, "_read", lambda _key: None)
        monkeypatch.setattr(public_directions, "_SEED", 7)
        return planned(*arguments)

    monkeypatch.setattr(run_study, "planned_method", elsewhere)
    with pytest.raises(DirectionsDiffer):
        go(gradient_study(tmp_path, tiny_base, "dp-ldm", FIVE[:3], 1, **DIRECTIONS))
    kept_directions.forget()
    assert RunFolder(tmp_path / "run").attempts_asked(1) == []


@pytest.mark.usefixtures("no_samples")
@pytest.mark.parametrize(
    ("step", "options"),
    [
        ("rounds/updated", {"ema": 0.5, "warm_up": 2}),
        ("rounds/state durable", {"ema": 0.5, "warm_up": 2}),
        ("rounds/updated", DIRECTIONS | {"optimiser": "dog"}),
    ],
    ids=["updated", "durable", "in public directions"],
)
def test_a_killed_run_goes_on_with_the_optimisers_memory_and_pays_once(
    tmp_path: Path, tiny_base: Path, step: str, options: dict[str, Any]
) -> None:
    study = gradient_study(tmp_path, tiny_base, "dpsgd-ti", FIVE[:3], 3, **options)
    with at(step, 2), pytest.raises(Killed):
        go(study)
    kept_directions.forget()  # as in a new process
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
    held = read_weights(run / "release")
    for file, tensors in method.weights(pinned, method.released(state)).items():
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(held[file][name], tensor)
    with Ledger.open(folder.ledger, read_only=True) as ledger:
        assert [(charge.round, charge.attempt) for charge in ledger.charges(plan.digest)] == [(1, 1), (2, 1), (3, 1)]


@pytest.mark.usefixtures("no_samples")
def test_sites_are_sent_w_alone(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
