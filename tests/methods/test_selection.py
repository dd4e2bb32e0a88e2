"""dp-lora's targets chosen in a charged first round, by noised squares less their noise (PRIVACY 25)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.images import write_folder
from tests.support.runs import call, coordinator_of
from tests.support.studies import study_with, write_study
from undertone.errors import MechanismViolation, PlanChanged, StudyError
from undertone.methods.lora.method import DPLoRA
from undertone.methods.lora.selection import Chosen, Scoring, SelectingLoRA
from undertone.methods.lora.targets import Targets
from undertone.methods.protocol import NoiseAware, StagedMethod, SummingMethod, UnitRecords, stages_of
from undertone.methods.registry import method_for
from undertone.models.base import LoadedBase, load_base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase, pin
from undertone.privacy.ledger import Ledger
from undertone.privacy.quantise import choose_grid
from undertone.privacy.unit_randomness import row_generator
from undertone.study.plan import Plan
from undertone_server import release
from undertone_server.run_folder import RunFolder

SELECT = 2
OPTIONS: dict[str, Any] = {"rank": 2, "draws": 2, "select": SELECT, "optimiser": "sgd", "learning_rate": 0.5}


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> LoadedBase:
    return load_base(pin(str(tiny_base)))


@pytest.fixture
def method() -> SelectingLoRA:
    found = method_for("dp-lora", OPTIONS)
    assert isinstance(found, SelectingLoRA)
    return found


@pytest.fixture
def targets(method: SelectingLoRA, base: LoadedBase) -> Targets:
    return Targets.of(method.layout(base.pinned), SELECT)


def units(base: LoadedBase, count: int = 3) -> list[UnitRecords]:
    drawn = np.random.default_rng(1)
    return [
        UnitRecords(
            drawn.standard_normal((1, *base.latent_shape)).astype(np.float32),
            ("a picture",),
            row_generator(bytes([number]) * 32),
        )
        for number in range(count)
    ]


def quiet(_steps: int) -> None:
    """Nobody watches."""


# --- what is chosen -----------------------------------------------------------------------------------


def sized(*lengths: int, select: int = 1) -> Targets:
    return Targets.of(Layout(tuple((f"unet.t{place}.lora_B.weight", (n,)) for place, n in enumerate(lengths))), select)


def test_targets_are_layers_with_all_their_tensors(base: LoadedBase) -> None:
    both = method_for("dp-lora", OPTIONS | {"freeze_a": False})
    layout = both.layout(base.pinned)
    targets = Targets.of(layout, 3)
    assert len(targets.names) == len(layout.tensors) / 2
    assert targets.size == layout.size
    assert targets.longest == sum(sorted(targets.lengths)[-3:])


def test_the_score_is_an_oracles(targets: Targets) -> None:
    mean, start = np.random.default_rng(2).standard_normal(targets.size), 0
    scores = []
    for end in targets.ends:
        values = mean[start:end]
        scores.append((sum(float(value) ** 2 for value in values) - len(values) * 0.7**2) / len(values))
        start = end
    best = sorted(range(len(scores)), key=lambda place: -scores[place])[:SELECT]
    assert set(np.flatnonzero(targets.best(mean, 0.7))) == set(best)


def test_a_large_target_is_not_chosen_for_its_noise() -> None:
    """Of two targets without a gradient the short one is chosen about as often as the long one."""
    drawn, targets = np.random.default_rng(3), sized(40, 400)
    chosen = sum(targets.best(drawn.standard_normal(440), 1.0)[0] for _ in range(400))
    assert 120 < chosen < 280


def test_a_score_is_unbiased_however_large_the_noise() -> None:
    drawn, targets, deviation = np.random.default_rng(4), sized(4, 400), 3.0
    signal = np.concatenate([np.full(4, 0.5), np.zeros(400)])
    scores = targets.scores(signal + deviation * drawn.standard_normal((4_000, 404)), deviation)
    for score, true in zip(scores.T, [0.25, 0.0], strict=True):
        assert abs(score.mean() - true) < 5 * score.std() / 4_000**0.5


@pytest.mark.parametrize("select", [0, 2, 3])
def test_more_targets_than_are_chosen(select: int) -> None:
    with pytest.raises(StudyError, match="there are 2 targets"):
        sized(4, 5, select=select)


# --- the two stages --------------------------------------------------------------------------------------


def test_without_select_it_is_one_stage_and_the_method_as_it_was(base: LoadedBase) -> None:
    plain = method_for("dp-lora", {"rank": 2})
    (stage,) = stages_of(plain, base.pinned)
    assert stage.method is plain
    assert isinstance(plain, StagedMethod)
    assert plain.sent(base.pinned) == plain.dimension(base.pinned) == stage.row
    old = DPLoRA(plain.options)
    np.testing.assert_array_equal(plain.initial_state(base.pinned), old.initial_state(base.pinned))


def test_its_stages(method: SelectingLoRA, base: LoadedBase, targets: Targets) -> None:
    first, then = method.stages(base.pinned)
    assert (first.name, first.rounds, first.row, first.share, first.clip_norm) == (
        "selection",
        1,
        targets.size,
        0.2,
        "auto",
    )
    assert (then.rounds, then.row, then.share) == (None, targets.longest, None)
    assert isinstance(first.method, NoiseAware)
    assert not isinstance(then.method, NoiseAware)
    assert method.sent(base.pinned) == targets.size + len(targets.names)
    for stage in (first, then):
        assert [type(less) for _, less in stage.method.lighter()] == [type(stage.method)]
    with pytest.raises(MechanismViolation, match="step_from"):
        first.method.step(method.initial_state(base.pinned), np.zeros(targets.size))
    with pytest.raises(StudyError, match="do not go together"):
        method_for("dp-lora", OPTIONS | {"directions": 3})


def after_selection(
    method: SelectingLoRA, base: LoadedBase, targets: Targets, best: tuple[int, ...] = (1, 4)
) -> NDArray[np.float32]:
    """The state once the gradients of these targets were large."""
    mean = np.zeros(targets.size)
    for place in best:
        mean[targets.ends[place] - targets.lengths[place] : targets.ends[place]] = 1.0
    return Scoring(method.options, targets).step_from(method.initial_state(base.pinned), mean, 0.0)


def test_rows_of_the_chosen_are_the_whole_gradients_there_and_zeros_behind(
    method: SelectingLoRA, base: LoadedBase, targets: Targets
) -> None:
    state = after_selection(method, base, targets)[: method.sent(base.pinned)]
    whole = Scoring(method.options, targets).rows(base, state, units(base), quiet)
    rows = Chosen(method.options, targets).rows(base, state, units(base), quiet)
    values = targets.values(state[targets.size :])
    assert rows.shape == (3, targets.longest)
    np.testing.assert_allclose(rows[:, : len(values)], whole[:, values], rtol=1e-4, atol=1e-7)
    assert np.abs(rows[:, : len(values)]).max() > 0
    assert not rows[:, len(values) :].any()
    assert Chosen(method.options, targets).rows(base, state, [], quiet).shape == (0, targets.longest)


@pytest.mark.parametrize("stage", [0, 1])
def test_sums_are_those_of_the_rows(method: SelectingLoRA, base: LoadedBase, targets: Targets, stage: int) -> None:
    of = method.stages(base.pinned)[stage].method
    assert isinstance(of, SummingMethod)
    state = after_selection(method, base, targets)[: method.sent(base.pinned)]
    rows = of.rows(base, state, units(base), quiet)
    grid = choose_grid(float(np.linalg.norm(rows, axis=1).max()) * 2, 1.0, 10, 3)
    sums = of.clipped_sum(base, state, units(base), scale=grid.scale, clip_units=grid.clip_units)
    assert sums.shape == (rows.shape[1],)
    np.testing.assert_allclose(sums / grid.scale, rows.sum(0), atol=4 / grid.scale + 1e-5 * np.abs(rows).max())


@pytest.mark.parametrize("stage", [0, 1])
def test_a_row_follows_from_its_own_unit_alone(
    method: SelectingLoRA, base: LoadedBase, targets: Targets, stage: int
) -> None:
    """In either stage, to the bit: another unit in the middle moves no other row."""
    of = method.stages(base.pinned)[stage].method
    state = after_selection(method, base, targets)[: method.sent(base.pinned)]
    before = of.rows(base, state, units(base), quiet)
    changed = units(base)
    changed[1] = UnitRecords(changed[1].inputs * 50, ("another word",), row_generator(b"9" * 32))
    after = of.rows(base, state, changed, quiet)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])
    np.testing.assert_allclose(of.rows(base, state, units(base)[2:], quiet)[0], before[2], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "dog"])
@pytest.mark.parametrize("freeze_a", [True, False])
def test_what_is_not_chosen_stays_at_the_start(base: LoadedBase, optimiser: str, freeze_a: bool) -> None:
    changes: dict[str, Any] = {"optimiser": optimiser, "freeze_a": freeze_a}
    changes |= {} if optimiser == "dog" else {"ema": 0.5}
    changes |= {"weight_decay": 0.5} if optimiser == "adamw" else {}
    found = method_for("dp-lora", OPTIONS | changes)
    assert isinstance(found, SelectingLoRA)
    targets = Targets.of(found.layout(base.pinned), SELECT)
    state, start = after_selection(found, base, targets), found.initial_state(base.pinned)
    chosen = targets.values(state[targets.size : targets.size + len(targets.names)])
    others = np.setdiff1d(np.arange(targets.size), chosen)
    np.testing.assert_array_equal(found.released(state), found.released(start))
    drawn = np.random.default_rng(5)
    for _ in range(3):
        moved = Chosen(found.options, targets).step(state, drawn.standard_normal(targets.longest))
        assert len(moved) == len(start)
        state = moved
    released = found.released(state)
    np.testing.assert_array_equal(released[others], found.released(start)[others])
    assert (released[chosen] != found.released(start)[chosen]).all()
    if optimiser != "adamw":  # the optimiser of the chosen values alone
        alone = DPLoRA(found.options)._optimiser
        kept, drawn = alone.start(start[: targets.size][chosen]), np.random.default_rng(5)
        for _ in range(3):
            kept = alone.advance(kept, drawn.standard_normal(targets.longest)[: len(chosen)])
        np.testing.assert_array_equal(alone.released(kept), released[chosen])


def spoiled(size: int) -> list[Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    def put(place: int, value: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        def change(state: NDArray[np.float32]) -> NDArray[np.float32]:
            state[size + place] = value
            return state

        return change

    return [put(0, 1.0), put(1, 0.0), put(1, 2.0), put(1, float("nan")), put(1, 0.5), lambda state: state[:-1]]


@pytest.mark.parametrize("number", range(6))
def test_a_selection_that_no_step_can_have_made_is_refused(
    method: SelectingLoRA, base: LoadedBase, targets: Targets, number: int
) -> None:
    first, then = method.stages(base.pinned)
    sent = method.sent(base.pinned)
    good = after_selection(method, base, targets)[:sent]
    then.check(good)
    first.check(method.initial_state(base.pinned)[:sent])
    with pytest.raises(PlanChanged, match="choose"):
        first.check(good)
    with pytest.raises(PlanChanged, match="choose"):
        then.check(method.initial_state(base.pinned)[:sent])
    with pytest.raises(PlanChanged, match="choose"):
        then.check(spoiled(targets.size)[number](good.copy()))


def test_public_rows_of_both_stages(method: SelectingLoRA, base: LoadedBase, targets: Targets) -> None:
    first, then = (stage.method.public_lengths(base, "a picture", 6) for stage in method.stages(base.pinned))
    np.testing.assert_allclose(first, DPLoRA(method.options).public_lengths(base, "a picture", 6))
    assert (then < first).all()
    assert (then > 0.2 * first).all()


def test_neighbours_move_the_sum_of_each_stage_by_its_own_bound(
    method: SelectingLoRA, base: LoadedBase, targets: Targets
) -> None:
    """One unit more, with clip norms that every row exceeds."""
    state = after_selection(method, base, targets)[: method.sent(base.pinned)]
    for stage, clip in zip(method.stages(base.pinned), (1e-4, 3e-5), strict=True):
        grid, of = choose_grid(clip, 1.0, 10, 3), stage.method
        assert isinstance(of, SummingMethod)
        four: list[UnitRecords | None] = list(units(base, 4))
        three: list[UnitRecords | None] = [*units(base, 3), None]
        with_, without = (
            of.clipped_sum(base, state, batch, scale=grid.scale, clip_units=grid.clip_units) for batch in (four, three)
        )
        moved = int(((with_ - without) ** 2).sum())
        assert 0.9 * grid.clip_units**2 < moved <= grid.clip_units**2


# --- a study ------------------------------------------------------------------------------------------------


def study(folder: Path, base: Path, **changes: Any) -> Path:
    tables = {
        "method": {"name": "dp-lora", **OPTIONS, "text": False, "select_clip": 0.5},
        "privacy.unit": "record",
        "privacy.clip_norm": 0.3,
        "privacy.epsilon": 8.0,
        "privacy.rounds": 3,
        "data": {"caption": "a picture"},
        "cohort.units": dict.fromkeys(("north", "east", "south"), 4),
    }
    write_folder(folder / "data", 12, 32, sites=("north", "east", "south"))
    return write_study(folder / "study.toml", study_with(tables | changes, str(base)))


def test_a_study_selects_trains_is_released_and_verifies(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        release, "_draw_samples", lambda _, part, *__: (part / "samples.png").write_bytes(b"png") and 255
    )
    where = study(tmp_path, tiny_base)
    shown = call("plan", where)
    assert shown.exit_code == 0, shown.output
    assert "selection" in shown.output
    done = call("simulate", where, "--data", tmp_path / "data", "--split-by", "site", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    run = RunFolder(tmp_path / "run")
    plan = run.plan()
    with Ledger.open(run.ledger, read_only=True) as ledger:
        charges = ledger.charges(plan.digest)
    assert [charge.event for charge in charges] == [plan.stage_of(round_).event for round_ in (1, 2, 3)]
    assert charges[0].event != charges[1].event
    base = pin(plan.model.base)
    method = method_for("dp-lora", plan.method.options)
    assert isinstance(method, SelectingLoRA)
    targets = Targets.of(method.layout(base), SELECT)
    _agrees_with_noised_sums(run, plan, base, method, targets)
    verified = call("verify", tmp_path / "run" / "release", *coordinator_of(tmp_path / "run"))
    assert verified.exit_code == 0, verified.output
    mechanism = json.loads((tmp_path / "run" / "release" / "privacy.json").read_bytes())["mechanism"]
    assert [stage["sigma"] for stage in mechanism["stages"]] == [stage.sigma for stage in plan.stages]
    assert "sigma" not in mechanism


def _agrees_with_noised_sums(
    run: RunFolder, plan: Plan, base: PinnedBase, method: SelectingLoRA, targets: Targets
) -> None:
    """Each state follows from the one before and V alone: the selection too, which is post-processing."""
    state, steps = method.initial_state(base), [stage.method for stage in method.stages(base)]
    for round_ in (1, 2, 3):
        kept = run.kept_noised(round_)
        assert kept is not None
        assert kept[1].size == plan.stage_of(round_).dimension == (targets.size if round_ == 1 else targets.longest)
        divisor = plan.denominator(round_, kept[2])
        if round_ == 1:
            scoring = steps[0]
            assert isinstance(scoring, NoiseAware)
            state = scoring.step_from(state, kept[1] / divisor, plan.stages[0].sigma / divisor)
        else:
            state = steps[1].step(state, kept[1] / divisor)
        np.testing.assert_array_equal(run.kept_state(round_), state)
    assert state[targets.size : targets.size + len(targets.names)].sum() == SELECT


def test_what_is_planned_of_it_and_refused(tiny_base: Path, tmp_path: Path) -> None:
    for changes, why in (
        ({"privacy.rounds": 1}, "say 2 or more"),
        ({"method": {"name": "dp-lora", **OPTIONS, "select": 99}}, "there are"),
        ({"method": {"name": "dp-lora", **OPTIONS, "select_share": 1.0}}, "select_share"),
    ):
        done = call("plan", study(tmp_path, tiny_base, **changes))
        assert done.exit_code == 2, done.output
        assert why in " ".join(done.stderr.split())
