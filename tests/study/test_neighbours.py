"""What stands beside a study's choice: the figures that a plan of it would have; none is changed or refused by it."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.dummy import DummyMethod
from tests.support.gradient_studies import CLASSES, TOLD_CLASSES
from tests.support.runs import call
from tests.support.studies import study_with, write_study
from undertone.core.canonical import sha256_hex
from undertone.errors import StudyError
from undertone.methods.gradient.method import GradientMethod
from undertone.methods.gradient.options import MOST_DRAWS
from undertone.methods.protocol import stages_of
from undertone.methods.registry import METHODS, method_for
from undertone.models.pinned import pin
from undertone.privacy.accounting import GaussianEvent, calibrate
from undertone.study import pace as pace_module
from undertone.study import public_rows, settling
from undertone.study.near_noise import noise_near
from undertone.study.neighbours import THIS, Neighbour, neighbours
from undertone.study.pace import keep_pace, pace, pass_size
from undertone.study.public_rows import PublicRows
from undertone.study.resolve import Resolved, resolved
from undertone.study.schema import Study, parse_study

SAMPLED: dict[str, Any] = {"privacy.sampling_rate": 0.3, "privacy.rounds": 6, "privacy.max_attempts": None}
FULL = SAMPLED | {"privacy.sampling_rate": 1.0}
FREE, CHAIN = {"aggregation.rosters": "free"}, {"aggregation.rosters": "chain"}
DISTRIBUTED: dict[str, Any] = {"privacy.noise": "distributed"}
OF_GRADIENTS = [name for name, method in METHODS.items() if issubclass(method, GradientMethod)]


def study_of(base: Path, changes: dict[str, Any]) -> Study:
    return parse_study(study_with(changes, str(base)))


def planned(base: Path, changes: dict[str, Any]) -> Resolved:
    """The study's plan; a search for noise takes half a second, so each is made once."""
    return _planned(base, json.dumps(changes, sort_keys=True))


@lru_cache(maxsize=64)
def _planned(base: Path, changes: str) -> Resolved:
    return resolved(study_of(base, json.loads(changes)))


def beside(base: Path, changes: dict[str, Any]) -> dict[str, Neighbour]:
    return {row.name: row for row in neighbours(study_of(base, changes), planned(base, changes)).rows}


@pytest.mark.parametrize(
    ("changes", "name", "chosen", "near"),
    [
        (FULL, "rounds = 3", {"privacy.rounds": 3}, 0.0),
        (FULL, 'noise = "distributed"', DISTRIBUTED, 0.0),
        (FULL, 'rosters = "free"', FREE, 0.0),
        (FULL | FREE, 'rosters = "chain"', CHAIN, 0.0),
        (FULL | DISTRIBUTED, 'noise = "central"', {"privacy.noise": "central"}, 0.0),
        (FULL | {"privacy.max_attempts": 8}, "rounds = 3", {"privacy.rounds": 3, "privacy.max_attempts": 5}, 0.0),
        (
            FULL | {"privacy.max_attempts": 8},
            'rosters = "free"',
            FREE | {"privacy.max_attempts": None},  # each site answers a round once
            0.0,
        ),
        (SAMPLED, "p = 1", {"privacy.sampling_rate": 1.0}, 0.0),
        (SAMPLED, "rounds = 3", {"privacy.rounds": 3}, 0.03),
        (SAMPLED, 'rosters = "free"', FREE, 0.03),
        (SAMPLED, 'noise = "distributed"', DISTRIBUTED, 1e-3),
        (
            SAMPLED | DISTRIBUTED | {"privacy.ready_seconds_per_unit": 0.5},
            'noise = "central"',
            {"privacy.noise": "central", "privacy.ready_seconds_per_unit": 0.0},
            0.0,
        ),
    ],
)
def test_a_neighbour_has_the_figures_of_a_plan_of_it(
    dummy_method: None, dummy_base: Path, changes: dict[str, Any], name: str, chosen: dict[str, Any], near: float
) -> None:
    """A study that says what the neighbour says is planned, and noise, rounds and attempts are the same."""
    row = beside(dummy_base, changes)[name]
    plan = planned(dummy_base, changes | chosen).plan
    assert row.noise == pytest.approx(plan.privacy.noise_to_signal * DummyMethod.alignment, rel=near + 1e-12)
    assert (row.rounds, row.attempts) == (plan.privacy.rounds, plan.privacy.max_attempts)
    assert row.passes == pytest.approx(plan.privacy.rounds * plan.privacy.sampling_rate * DummyMethod.passes)
    assert row.by_rdp == (near == 0.03)
    assert not row.why_not


def test_the_first_row_is_the_study_itself(dummy_method: None, dummy_base: Path) -> None:
    study, found = study_of(dummy_base, SAMPLED), planned(dummy_base, SAMPLED)
    first = neighbours(study, found).rows[0]
    privacy = found.plan.privacy
    assert (first.name, first.noise, first.attempts) == (THIS, privacy.noise_to_signal, privacy.max_attempts)
    assert first.seconds == pytest.approx(6 * 0.3 * 600 * pace(found.base, found.method).seconds)


def test_what_cannot_differ_is_no_neighbour(dummy_method: None, dummy_base: Path) -> None:
    assert "p = 1" not in beside(dummy_base, FULL)
    assert not [name for name in beside(dummy_base, FULL | {"privacy.rounds": 1}) if name.startswith("rounds")]
    assert not [name for name in beside(dummy_base, FULL | DISTRIBUTED) if name.startswith("rosters")]


def test_a_neighbour_that_cannot_be_planned_says_why_in_one_phrase(dummy_method: None, dummy_base: Path) -> None:
    """Noise shares and a chain need secure aggregation; the study itself goes on."""
    rows = beside(dummy_base, FULL | {"aggregation.mode": "plain"})
    distributed, chain = rows['noise = "distributed"'], rows['rosters = "chain"']
    assert distributed.why_not == 'privacy.noise = "distributed" needs aggregation.mode = "secagg"'
    assert chain.why_not == 'aggregation.rosters = "chain" goes with aggregation.mode = "secagg"'
    assert distributed.noise is distributed.seconds is distributed.attempts is None


def test_what_settling_refuses_is_said_too(dummy_method: None, dummy_base: Path) -> None:
    """A staged study has a round for its selection, so that half of its rounds may be too few."""
    changes = FULL | {"method": {"name": "dummy", "staged": True}, "privacy.rounds": 3}
    row = beside(dummy_base, changes)["rounds = 1"]
    assert row.why_not.startswith("privacy.rounds = 1 counts all noised sums")


def test_a_staged_study_counts_each_stage(dummy_method: None, dummy_base: Path) -> None:
    changes = FULL | {"method": {"name": "dummy", "staged": True}, "privacy.rounds": 8}
    row, found = beside(dummy_base, changes)["rounds = 4"], planned(dummy_base, changes)
    plan = planned(dummy_base, changes | {"privacy.rounds": 4}).plan
    assert len(found.plan.stages) == 2
    assert (row.noise, row.rounds, row.attempts) == (plan.privacy.noise_to_signal, 4, plan.privacy.max_attempts)
    assert row.passes == 4


def test_no_neighbour_waits_for_the_accountant_of_sampled_rounds(
    dummy_method: None, dummy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With p < 1 a search takes seconds: the study has made one, and neighbours are found by RDP."""
    study, found = study_of(dummy_base, SAMPLED), planned(dummy_base, SAMPLED)
    rates: list[float] = []
    search = settling.calibrate

    def counted(epsilon: float, delta: float, rate: float, rounds: int, **others: Any) -> float:
        rates.append(rate)
        return search(epsilon, delta, rate, rounds, **others)

    monkeypatch.setattr(settling, "calibrate", counted)
    neighbours(study, found)
    assert rates == [1.0]


@pytest.mark.parametrize(
    ("epsilon", "rate", "rounds", "near"),
    [(1.0, 1.0, 12, 1.0), (4.0, 0.2, 100, 30.0), (0.1, 1e-3, 20_000, 0.1), (50.0, 0.5, 3, 5.0)],
)
def test_noise_is_found_by_rdp_from_far_away(epsilon: float, rate: float, rounds: int, near: float) -> None:
    z = noise_near(epsilon, 1e-5, rate, rounds, near=near)
    assert z == pytest.approx(calibrate(epsilon, 1e-5, rate, rounds, by_rdp=True), rel=1e-3)


def test_noise_that_no_claim_can_have_is_said() -> None:
    """What stands beside it costs more than the whole claim."""
    beside = (GaussianEvent(1, 1, 1.0, 10),)
    with pytest.raises(StudyError, match=r"no noise brings 5 rounds to epsilon 0\.5"):
        noise_near(0.5, 1e-5, 0.5, 5, near=1.0, beside=beside)


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_half_and_double_k_cost_compute_and_no_noise(tiny_base: Path, class_base: Path, name: str) -> None:
    caption = "a {token}" if method_for(name, {}).token else "a picture"
    changes = FULL | {
        "method": {"name": name, "draws": 2, "directions": 0, "learning_rate": 0.1},
        "data.caption": caption,
    }
    if name in TOLD_CLASSES:
        told = {f"data.{key}": value for key, value in CLASSES.items()}
        rows = beside(class_base, changes | told | {"data.caption": "{finding}"})
    else:
        rows = beside(tiny_base, changes)
    here, half, double = rows[THIS], rows["draws = 1"], rows["draws = 4"]
    assert here.passes == 6 * 2
    assert half.passes == 6
    assert double.passes == 24
    assert here.noise == half.noise == double.noise
    assert (half.rounds, half.attempts) == (here.rounds, here.attempts)
    assert double.seconds == pytest.approx(2 * (here.seconds or 0))


def test_each_stage_of_a_selection_has_half_and_double_k_and_its_targets(tiny_base: Path) -> None:
    for stage in stages_of(method_for("dp-lora", {"select": 2, "draws": 2}), pin(str(tiny_base))):
        method: Any = stage.method
        others: list[Any] = [other for _, other in method.averaging()]
        assert [other.passes for other in others] == [1, 4]
        assert all(other.targets == method.targets for other in others)


def test_k_has_bounds() -> None:
    for draws, names in ((1, ["draws = 2"]), (MOST_DRAWS, [f"draws = {MOST_DRAWS // 2}"])):
        for name in OF_GRADIENTS:
            method: Any = method_for(name, {"draws": draws})
            assert [key for key, _ in method.averaging()] == names


def test_time_is_measured_where_rows_were_made_here_and_else_estimated(
    dummy_method: None, dummy_base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "cache"))
    base, method = pin(str(dummy_base)), method_for("dummy", {})
    guessed = pace(base, method)
    assert guessed.origin.startswith("estimated from the base's files")
    assert guessed.seconds == pass_size(base) / 8e10
    keep_pace(base, method, 32, 64.0, "cpu")
    measured = pace(base, method)
    assert (measured.seconds, measured.origin) == (2.0, "measured here on 32 public drawings (cpu)")
    keep_pace(base, method, 32, 640.0, "cpu")
    assert pace(base, method) == measured, "two plans of a study print the same"
    with monkeypatch.context() as patch:
        patch.setattr(pace_module.platform, "node", lambda: "another")
        assert pace(base, method) == guessed, "another machine that sees the same cache"
    for entry in ({"seconds": -1.0, "drawings": 1, "device": "cpu"}, {"seconds": "2"}, [2.0], None):
        with monkeypatch.context() as patch:
            patch.setattr(pace_module, "kept", lambda *_, entry=entry: entry)
            assert pace(base, method) == guessed


def test_a_rows_time_is_kept_when_public_rows_are_made(
    dummy_method: None, dummy_base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(public_rows, "_loaded", lambda *_: None)
    base, method = pin(str(dummy_base)), method_for("dummy", {})
    public_rows.rows_for_c(base, method, "a {token}")
    assert pace(base, method).origin == "measured here on 32 public drawings (cpu)"


def test_the_table_stands_in_plan_and_the_plan_is_the_same(
    dummy_method: None, dummy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digest and plan.json are those of a program without neighbours, and no row of a drawing is made for one."""
    path = write_study(tmp_path / "study.toml", study_with(FULL, str(dummy_base)))
    digest, asked = planned(dummy_base, FULL).plan.digest, list[object]()
    monkeypatch.setattr(DummyMethod, "public_lengths", lambda *words: asked.append(words))
    shown = call("plan", path)
    assert shown.exit_code == 0, shown.output
    for words in ("beside it, at the same epsilon and C", THIS, "rounds = 3", "rosters = ", "time here: all units"):
        assert words in shown.stdout
    assert f"digest: {digest}" in shown.stdout
    bare = call("plan", path, "--json")
    assert sha256_hex(bare.stdout.strip().encode()) == digest
    both = json.loads(call("plan", path, "--json", "--neighbours").stdout)
    assert (both["plan"], both["digest"]) == (json.loads(bare.stdout), digest)
    assert [row["name"] for row in both["neighbours"]] == list(beside(dummy_base, FULL))
    assert "estimated" in both["seconds_of_a_pass"]["origin"]
    assert not asked


def test_no_drawing_is_looked_at_for_a_neighbour(
    dummy_method: None, dummy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where C is "auto" the study's rows are made once: a neighbour has the study's C."""
    asked: list[object] = []

    def rows(*words: object) -> PublicRows:
        asked.append(words)
        return PublicRows(2.0, 3.0, 32)

    monkeypatch.setattr(settling, "rows_for_c", rows)
    study = study_of(dummy_base, FULL | {"privacy.clip_norm": "auto"})
    found = resolved(study)
    assert len(neighbours(study, found).rows) > 3
    assert len(asked) == 1


def test_a_neighbour_refuses_nothing(dummy_method: None, dummy_base: Path, tmp_path: Path) -> None:
    tables = study_with(FULL | {"aggregation.mode": "plain"}, str(dummy_base))
    shown = call("plan", write_study(tmp_path / "study.toml", tables))
    assert shown.exit_code == 0
    assert 'noise = "distributed": cannot be: privacy.noise = "distributed" needs' in shown.stdout
    assert "Next: undertone simulate" in shown.stdout


def test_rows_of_latents_alone_go_through_the_encoder_once(class_base: Path) -> None:
    """However many rounds there are; what the denoiser takes says nothing of it."""
    changes = {
        "method": {"name": "dp-prototypes", "components": 8, "centres": 2, "public_drawings": 40, "per_class": True},
        "cohort": {"min_sites": 2, "units": dict.fromkeys(("north", "east", "south"), 500)},
        "data.caption": "{finding}",
        **{f"data.{key}": value for key, value in CLASSES.items()},
        "privacy.clip_norm": "auto",
        "privacy.rounds": 3,
        "privacy.epsilon": 10.0,
    }
    rows = neighbours(study_of(class_base, changes), planned(class_base, changes)).rows
    assert {(row.passes, row.seconds) for row in rows if not row.why_not} == {(1.0, None)}


def test_rows_of_shards_go_through_no_base_and_queries_do_once_a_round(class_base: Path) -> None:
    changes = {
        "method": {"name": "dp-sad", "outputs": 2, "query_steps": 3},
        "cohort": {"min_sites": 2, "patients": dict.fromkeys(("north", "east", "south"), 500)},
        "data.caption": "{finding}",
        **{f"data.{key}": value for key, value in CLASSES.items()},
        "privacy.clip_norm": 1.0,
        "privacy.rounds": 5,
        "privacy.epsilon": 10.0,
    }
    study, found = study_of(class_base, changes), planned(class_base, changes)
    rows = neighbours(study, found)
    assert rows.rows[0].passes == 5 * method_for("dp-sad", {"query_steps": 3}).passes
    assert rows.rows[0].seconds == pytest.approx(rows.rows[0].passes * rows.pace.seconds)
