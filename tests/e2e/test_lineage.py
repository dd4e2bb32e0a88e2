"""Two studies, the second from the first one's release, from STUDY.toml to a verified release that lists both."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.added import added_method
from tests.support.failpoints import Killed, at
from tests.support.images import write_folder
from tests.support.runs import SITES, call, coordinator_of
from tests.support.studies import study_with, write_study
from undertone.core.canonical import sha256_hex
from undertone.errors import UnfitStart
from undertone.methods.registry import METHODS
from undertone.models.pinned import pin
from undertone.privacy.ledger import Ledger
from undertone.release.manifest import MANIFEST
from undertone.release.start import check_start, pinned_start
from undertone.study.claim import epsilons
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_cli.commands.plan import describe
from undertone_client.site.budget import Budget
from undertone_server import starting
from undertone_server.run_folder import RunFolder
from undertone_server.starting import drawn, first_state, kept_start

FIRST = {
    "study.name": "shifts-first",
    "method": {"name": "channel-shift", "strength": 2.0},
    "cohort.units": dict.fromkeys(SITES, 2),
    "data.caption": "a picture, {finding}",
    "privacy.epsilon": 60.0,
    "privacy.rounds": 1,
    "privacy.sampling_rate": 1.0,
}
SECOND = FIRST | {
    "study.name": "shifts-then",
    "privacy.epsilon": 40.0,
    "privacy.rounds": 2,
    "model.start_images": 5,
    "model.start_steps": 3,
}


class Pair:
    """Both studies, the run of the first, and where the second will run."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        self.data, self.first = folder / "data", folder / "first"
        self.second_toml = folder / "second.toml"

    def write(self, name: str, changes: dict[str, Any]) -> Path:
        return write_study(self.folder / name, study_with(changes, str(self.base)))

    def simulate(self, study: Path, run: Path, data: Path | None = None, *more: object) -> Any:
        return call("simulate", study, "--data", data or self.data, "--split-by", "site", "--out", run, *more)

    def second(self, name: str = "second.toml", start: Path | None = None, **changes: Any) -> Path:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        return self.write(name, SECOND | {"model.start": str(start or self.first / "release")} | named)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Pair]:
    """The first study, planned with the second, has run."""
    made = Pair(tmp_path_factory.mktemp("lineage"), tiny_base)
    write_folder(made.data, 12, 32, sites=SITES)
    with added_method(made.folder / "methods"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("undertone_server.release.SAMPLE_STEPS", 2)
        second = made.second()
        first = made.write("first.toml", FIRST | {"privacy.successor": str(second)})
        result = made.simulate(first, made.first)
        assert result.exit_code == 0, result.output
        yield made


@pytest.fixture(scope="module")
def run(pair: Pair) -> Path:
    """The second study's RUN."""
    folder = pair.folder / "then"
    result = pair.simulate(pair.second_toml, folder)
    assert result.exit_code == 0, result.output
    return folder


def words(text: str) -> str:
    """What a person reads in a table's lines."""
    return " ".join(text.translate(dict.fromkeys(map(ord, "│┃"), " ")).split())


def plan_in(folder: Path) -> Plan:
    return Plan.from_bytes((folder / "plan.json").read_bytes())


def test_both_plans_make_one_claim_which_each_shows(pair: Pair, run: Path) -> None:
    first, then = plan_in(pair.first), plan_in(run)
    assert then.joint
    assert first.successor is not None
    assert first.successor.charges == then.charges
    assert then.privacy.epsilon == first.privacy.epsilon <= 60.0
    alone, _ = epsilons(then.charges, then.privacy.delta)
    assert 39.9 < alone <= 40.0  # what the second says is its own, the first has the rest
    assert then.start is not None
    assert then.start.manifest == sha256_hex((pair.first / "release" / MANIFEST).read_bytes())
    shown = dict(describe(then))
    assert shown["the claim covers"] == "this study and shifts-first together"
    assert shown["epsilon, shifts-then alone"] == f"{alone:.6f} at delta 1e-05"
    assert "manifest" in shown["start"]
    assert dict(describe(first))["the claim covers"] == "this study and shifts-then together"


def test_the_release_lists_its_ancestor_and_verifies(pair: Pair, run: Path) -> None:
    result = call("verify", run / "release", *coordinator_of(run))
    assert result.exit_code == 0, result.output
    assert "this study and shifts-first together" in words(result.output)
    assert call("verify", pair.first / "release", *coordinator_of(pair.first)).exit_code == 0
    both = call("verify", run / "release", *coordinator_of(run), "--start", pair.first / "release")
    assert (both.exit_code, "the release that its plan pins" in words(both.output)) == (0, True)
    other = call("verify", run / "release", *coordinator_of(run), "--start", run / "release")
    assert (other.exit_code, "another release" in words(other.stderr)) == (3, True)
    stated = json.loads((run / "release" / "privacy.json").read_bytes())
    assert stated["start"]["study"] == "shifts-first"
    assert stated["start"]["plan_digest"] == plan_in(pair.first).digest
    card = (run / "release" / "README.md").read_text(encoding="utf-8")
    assert "starts from the release of shifts-first" in card
    assert "One claim covers both studies" in card


def test_a_statement_without_the_ancestor_is_refused(run: Path, tmp_path: Path) -> None:
    """Signed anew by the coordinator itself, who leaves it out."""
    from undertone.core.canonical import canonical_json
    from undertone.release.manifest import write_manifest

    release = tmp_path / "release"
    shutil.copytree(run / "release", release)
    stated = json.loads((release / "privacy.json").read_bytes())
    del stated["start"]
    (release / "privacy.json").write_bytes(canonical_json(stated))
    for name in (MANIFEST, "MANIFEST.sig"):
        (release / name).unlink()
    write_manifest(release, RunFolder(run).key())
    result = call("verify", release, *coordinator_of(run))
    assert result.exit_code == 3
    assert "start" in result.stderr


def test_every_sites_ledger_holds_both_studies(pair: Pair, run: Path) -> None:
    first, then = plan_in(pair.first), plan_in(run)
    for site in SITES:
        with Ledger.open(run / "sites" / site / "ledger.sqlite", read_only=True) as ledger:
            assert [(one.round, one.attempt) for one in ledger.charges(first.digest)] == [(1, 1)]
            assert [charge.round for charge in ledger.charges(then.digest)] == [1, 2]
            (budget,) = Budget.of_all(ledger)
        assert [study.digest for study in budget.studies] == [first.digest, then.digest]


def test_the_first_state_is_trained_on_what_the_release_draws(pair: Pair, run: Path) -> None:
    """It follows from release and base alone: no image of a site is there when it is made again."""
    folder, then = RunFolder(run), plan_in(run)
    kept = kept_start(folder)
    assert kept is not None
    assert np.abs(kept).max() > 0
    base = pin(str(pair.base))
    pixels, classes = drawn(folder, then, base)
    assert (pixels.shape, classes) == ((5, 32, 32, 3), None)
    (run / "checkpoints" / "start" / "state.npy").rename(run / "checkpoints" / "start" / "aside.npy")
    try:
        again = first_state(folder, then, planned_method(then, base), base)
        np.testing.assert_array_equal(again, kept)
    finally:
        (run / "checkpoints" / "start" / "aside.npy").rename(run / "checkpoints" / "start" / "state.npy")
    noised = [np.load(run / "checkpoints" / f"round-00000{round_}" / "noised-001.npy") for round_ in (1, 2)]
    moved = 2.0 * sum(noised) / (then.grid.scale * sum(then.cohort.units.values()))
    last = folder.kept_state(2)
    np.testing.assert_allclose(last, kept + moved, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_death_before_or_after_the_first_state_is_durable_changes_no_bit(
    pair: Pair, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, it is trained anew and comes out the same; after, it is not trained again."""
    folder, made = pair.folder / "killed", list[int]()
    method: Any = METHODS["channel-shift"]
    warm, wanted = method.warm_start, kept_start(RunFolder(run))

    def counted(self: Any, *arguments: Any) -> Any:
        made.append(1)
        return warm(self, *arguments)

    def die(_run: RunFolder, _state: Any) -> None:
        raise Killed("before the first state is durable")

    monkeypatch.setattr(method, "warm_start", counted)
    with monkeypatch.context() as patch:
        patch.setattr(starting, "keep_start", die)
        with pytest.raises(Killed):
            pair.simulate(pair.second_toml, folder)
    assert (made, kept_start(RunFolder(folder))) == ([1], None)
    again = ("simulate", pair.second_toml, "--out", folder, "--resume")
    with at("rounds/prepared"), pytest.raises(Killed):
        call(*again)
    assert RunFolder(folder).attempts_used() == 0
    np.testing.assert_array_equal(kept_start(RunFolder(folder)), wanted)
    result = call(*again)
    assert result.exit_code == 0, result.output
    assert made == [1, 1]
    np.testing.assert_array_equal(kept_start(RunFolder(folder)), wanted)


# --- what is no start -----------------------------------------------------------------------------


def tampered(pair: Pair, change: Callable[[Path], None], folder: Path) -> Path:
    """The first study's RUN with a release that somebody changed."""
    shutil.copytree(pair.first, folder)
    change(folder / "release")
    return folder / "release"


def flip(name: str) -> Callable[[Path], None]:
    def change(release: Path) -> None:
        data = bytearray((release / name).read_bytes())
        data[-1] ^= 1
        (release / name).write_bytes(data)

    return change


@pytest.mark.parametrize("name", ["channel_shift.safetensors", "plan.json", "privacy.json", MANIFEST])
def test_a_release_that_was_tampered_with_is_no_start(pair: Pair, tmp_path: Path, name: str) -> None:
    release = tampered(pair, flip(name), tmp_path / "run")
    with pytest.raises(UnfitStart):
        pinned_start(release)
    result = call("plan", pair.second("tampered.toml", release))
    assert result.exit_code == 3
    assert "no study starts from it" in words(result.stderr) or "no release that a study" in words(result.stderr)


def test_another_release_than_the_pinned_one_is_refused(pair: Pair, run: Path) -> None:
    with pytest.raises(UnfitStart, match="another release"):
        check_start(plan_in(run), run / "release")
    check_start(plan_in(run), pair.first / "release")
    with pytest.raises(UnfitStart, match="starts from its base"):
        check_start(plan_in(pair.first), pair.first / "release")


def test_a_run_whose_copy_of_the_start_changed_goes_no_further(pair: Pair, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "start")
    flip("channel_shift.safetensors")(copy / "start")
    then, base = plan_in(run), pin(str(pair.base))
    with pytest.raises(UnfitStart, match="was changed"):
        first_state(RunFolder(copy), then, planned_method(then, base), base)


def test_a_method_that_cannot_warm_up_has_no_start(pair: Pair) -> None:
    result = call("plan", pair.second("lora.toml", method={"name": "dp-lora"}))
    assert result.exit_code == 2
    assert "starts from its base alone" in result.stderr


def test_a_second_study_of_other_noise_claims_its_own_figure(pair: Pair) -> None:
    study = pair.second("other.toml", privacy__max_attempts=4)
    shown = call("plan", study, "--json")
    assert shown.exit_code == 0, shown.output
    plan = Plan.from_bytes(shown.stdout.strip().encode())
    assert not plan.joint
    assert plan.privacy.epsilon == pytest.approx(epsilons(plan.charges, plan.privacy.delta)[0])
    said = dict(describe(plan))
    assert "No figure is claimed over both studies" in said["both together"]
    assert {"epsilon, shifts-first alone", "epsilon, shifts-then alone"} <= set(said)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another unit": ({"privacy.unit": "record", "data.unit_column": None}, "privacy.unit is patient here and record"),
    "another delta": ({"privacy.delta": 1e-6}, "privacy.delta is 1e-05 here and 1e-06"),
    "all of epsilon": ({"privacy.epsilon": 60.0}, "say less there"),
    "a successor of its own": (
        {"model.start": None, "model.start_images": None, "model.start_steps": None, "privacy.successor": "x.toml"},
        "a claim covers two studies",
    ),
    "a method without a warm start": ({"method": {"name": "dp-lora"}}, "starts from its base alone"),
    "other classes": ({"data.class_column": "finding", "data.classes": ["clear", "mass"]}, "classes that this study"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_successor_that_could_share_no_claim_is_refused_when_the_first_is_planned(pair: Pair, case: str) -> None:
    changes, why = WRONG[case]
    second = pair.write("wrong.toml", SECOND | {"model.start": "nowhere"} | changes)
    first = pair.write("wrong-first.toml", FIRST | {"privacy.successor": str(second)})
    result = call("plan", first)
    assert result.exit_code == 2, result.output
    assert why in words(result.stderr)


def test_keys_of_a_start_have_one(pair: Pair) -> None:
    for changes, why in (
        ({"model.start_images": 3}, "goes with model.start"),
        ({"model.start": "x", "privacy.successor": "y"}, "exclude each other"),
        ({"model.start": str(pair.folder / "none")}, "none"),
    ):
        result = call("plan", pair.write("keys.toml", FIRST | changes))
        assert result.exit_code in (2, 3)
        assert why in words(result.stderr)


# --- simulated sites have the ancestor's charges --------------------------------------------------


def test_a_simulation_on_other_images_is_refused(pair: Pair, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 12, 32, first=500, sites=SITES)
    result = pair.simulate(pair.second_toml, tmp_path / "run", tmp_path / "data")
    assert result.exit_code == 2
    assert "holds other images" in words(result.stderr)
    assert not (tmp_path / "run").exists()


def test_a_release_without_its_sites_starts_no_simulation(pair: Pair, tmp_path: Path) -> None:
    shutil.copytree(pair.first / "release", tmp_path / "release")
    study = pair.second("alone.toml", tmp_path / "release")
    result = pair.simulate(study, tmp_path / "run")
    assert result.exit_code == 3
    assert "goes on with what its sites were charged" in words(result.stderr)
