"""`undertone coordinator submit | status | stop | resume`, with a stand-in for Flower's command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.coordinating import Coordination, coordination
from tests.support.forgery import forge
from tests.support.lineage import claiming
from tests.support.runs import call
from tests.support.studies import study_with, write_study
from tests.support.world import World, secure
from undertone.core.clock import utc_now
from undertone.core.keys import public_hex
from undertone.errors import (
    FolderError,
    InputError,
    NoisyRelease,
    NotApproved,
    SuperLinkUnreachable,
    TimingRevealed,
    TooFewSites,
    UnfitStart,
)
from undertone.release.start import check_start, pinned_start
from undertone.release.verify import verify
from undertone.study.plan import Plan
from undertone_cli.commands import coordinator_runs
from undertone_server import release, run_study
from undertone_server.collect.deadlines import Deadlines
from undertone_server.run_folder import RunFolder
from undertone_server.studies.flower_runs import numbers_of
from undertone_server.studies.standing import run_named, standing
from undertone_server.studies.submitting import make_run, name_of, start

Make = Callable[..., World]
APP = Path("app")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        release, "_draw_samples", lambda _plan, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )
    monkeypatch.setattr("undertone_server.telemetry.epsilon_spent", lambda *_: 1.0)
    monkeypatch.setattr(run_study, "deadlines_for", lambda _setting: replace(Deadlines.equal(5.0), pause=0.0))


@pytest.fixture
def hub(make_world: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Coordination:
    world = make_world(aggregation=secure(3), rounds=2, max_attempts=5, sampling_rate=0.9)
    made = coordination(tmp_path, world, monkeypatch)
    monkeypatch.setattr(coordinator_runs, "plan_of", lambda *_args, **_options: world.plan)
    monkeypatch.setenv("UNDERTONE_HOME", str(made.home.folder))
    return made


def coordinator(*words: object) -> Any:
    result = call("coordinator", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def state(name: str) -> Any:
    return coordinator("status", name)["studies"][0]


def test_a_study_from_submission_to_a_release_that_the_coordinators_key_verifies(hub: Coordination) -> None:
    said, plan = coordinator("submit", "study.toml", "--approval-days", 0), hub.world.plan
    run = RunFolder(hub.home.runs / name_of(plan))
    assert said == {
        "name": name_of(plan),
        "digest": plan.digest,
        "plan": str(run.folder / "plan.json"),
        "signature": str(run.folder / "plan.sig"),
        "flower_run": "100",
    }
    first = hub.asked()[0]
    assert first[:1] + first[2:4] == ["run", "undertone", "--run-config"]
    assert Path(first[1], "pyproject.toml").is_file()
    assert Path(first[4]).read_text(encoding="utf-8") == f'run-dir = "{run.folder}"\n'
    assert state(said["name"])["state"] == "submitted"
    assert not list(run.folder.rglob("*.key"))
    hub.approve()
    hub.run(run.folder)
    now = state(said["name"])
    assert (now["state"], now["rounds_done"], now["attempts_used"]) == ("released", 2, 2)
    assert 0 < now["epsilon_spent"] < now["epsilon"] == plan.privacy.epsilon
    assert (now["missing"], now["not_approved"]) == ({}, [])
    assert verify(run.release, public_hex(hub.home.key())).signer_checked
    statement = json.loads((run.release / "privacy.json").read_text(encoding="utf-8"))
    assert statement["setting"] == "federation heart"


def test_the_plan_reaches_sites_by_file_too(hub: Coordination) -> None:
    said = coordinator("submit", "study.toml")
    received = call("node", "receive", hub.world.sites["north"], said["plan"], said["signature"])
    assert received.exit_code == 0, received.output
    assert said["digest"][:8] in call("node", "pending", hub.world.sites["north"]).output


def test_status_says_who_has_not_approved_and_what_a_study_waits_for(hub: Coordination) -> None:
    name = coordinator("submit", "study.toml", "--approval-days", 0)["name"]
    with pytest.raises(TooFewSites, match="0 sites answered"):
        hub.run(hub.home.runs / name)
    now = state(name)
    assert (now["state"], now["attempts_used"], now["epsilon_spent"]) == ("stopped", 0, 0.0)
    assert now["not_approved"] == ["east", "north", "south"]
    text = " ".join(call("coordinator", "status", name).output.split())
    assert "not approved by: east, north, south" in text
    assert "attempts used: 0 of 5" in text
    assert "because: TooFewSites" in text
    assert name in call("coordinator", "status").output


def test_stop_and_resume_go_on_with_the_same_run_and_count_attempts_once(hub: Coordination) -> None:
    name = coordinator("submit", "study.toml", "--approval-days", 0)["name"]
    run = RunFolder(hub.home.runs / name)
    assert coordinator("stop", name) == {"name": name, "stopped": "100"}
    assert hub.asked()[-1][:3] == ["stop", "100", "undertone"]
    hub.approve()
    assert coordinator("resume", name) == {"name": name, "flower_run": "101"}
    hub.run(run.folder)
    assert numbers_of(run) == ["100", "101"]
    used = sorted(run.attempts_asked(1) + run.attempts_asked(2))
    assert used == [1, 1]
    for site in hub.world.sites:
        assert hub.world.charges(site) == [(1, 1), (2, 1)]
    done = call("coordinator", "resume", name)
    assert done.exit_code == 2
    assert "this study is done" in done.output


def test_resume_replaces_a_run_that_flower_still_believes_in(hub: Coordination) -> None:
    """After kill -9 Flower says "running" for most of a minute; nobody holds the folder, so nobody waits for that."""
    name = coordinator("submit", "study.toml")["name"]
    coordinator("resume", name)
    assert [words[0] for words in hub.asked()] == ["run", "list", "stop", "run"]
    hub.set(runs={})  # a SuperLink whose own state was lost
    coordinator("resume", name)


def test_resume_refuses_while_another_process_holds_the_run(hub: Coordination) -> None:
    name = coordinator("submit", "study.toml")["name"]
    with RunFolder(hub.home.runs / name).locked():
        refused = call("coordinator", "resume", name)
        assert refused.exit_code == 2
        assert "a process runs the study" in refused.output
        assert state(name)["state"] == "running"
    assert len(hub.asked()) == 1


def test_a_process_that_is_gone_is_said_to_be(hub: Coordination) -> None:
    name = coordinator("submit", "study.toml")["name"]
    run = RunFolder(hub.home.runs / name)
    from undertone_server.status import tell

    tell(run, "running", {}, round_=1, attempt=1)
    assert state(name)["state"] == "interrupted"


def test_a_plan_is_submitted_once(hub: Coordination) -> None:
    coordinator("submit", "study.toml")
    again = call("coordinator", "submit", "study.toml")
    assert again.exit_code == 2
    assert "undertone coordinator resume" in " ".join(again.output.split())


def test_a_study_that_starts_from_a_release_is_submitted_with_it(
    hub: Coordination, dummy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(tmp_path / "release", dummy_base)
    plan = claiming(hub.world.plan, {"start": pinned_start(tmp_path / "release").model_dump()})
    study = write_study(tmp_path / "study.toml", study_with({"model.start": str(tmp_path / "release")}))
    monkeypatch.setattr(coordinator_runs, "plan_of", lambda *_args, **_options: plan)
    monkeypatch.setattr(coordinator_runs, "start", lambda *_: "1")  # Flower
    found = coordinator("submit", study)
    run = RunFolder(Path(found["plan"]).parent)
    check_start(run.plan(), run.start)
    with pytest.raises(UnfitStart, match="name its folder"):
        make_run(hub.home, plan.model_copy(update={"study": "another"}), utc_now(), 14)


def test_a_superlink_that_is_down_is_named_and_the_run_can_be_resumed(hub: Coordination) -> None:
    hub.set(down=True)
    refused = call("coordinator", "submit", "study.toml")
    assert refused.exit_code != 0
    assert "flwr run failed: no connection" in refused.output
    assert "\x1b" not in refused.output
    hub.set(down=False)
    coordinator("resume", name_of(hub.world.plan))


def test_what_no_site_would_answer_is_not_submitted(hub: Coordination, make_world: Make) -> None:
    plan, now = hub.world.plan, utc_now()

    def changed(**changes: Any) -> Plan:
        return Plan.model_validate(plan.model_dump() | changes)

    units = dict.fromkeys(("north", "east", "west"), 3)
    with pytest.raises(NotApproved, match="names west, and manifest 1 of heart holds east, north, south"):
        make_run(hub.home, changed(cohort=plan.cohort.model_dump() | {"units": units}), now, 14)
    assert list(hub.home.runs.iterdir()) == []


def test_distributed_noise_without_a_public_time_is_not_submitted(hub: Coordination, dummy_base: Path) -> None:
    from tests.support.world import make_plan

    plan = make_plan(
        dummy_base,
        dict.fromkeys(hub.world.sites, 4),
        aggregation=secure(3),
        noise="distributed",
        sampling_rate=0.5,
        rounds=2,
        max_attempts=5,
    )
    with pytest.raises(TimingRevealed):
        make_run(hub.home, plan, utc_now(), 14)
    assert list(hub.home.runs.iterdir()) == []


def test_resume_takes_the_newest_manifest(hub: Coordination) -> None:
    from undertone_server.home.membership import issue

    run = make_run(hub.home, hub.world.plan, utc_now(), 14)
    assert run.federation().serial == 1
    issue(hub.home, utc_now(), anew=True)
    start(hub.home, run, APP, utc_now())
    assert run.federation().serial == 2


def test_a_study_is_named_by_its_name_or_the_beginning_of_it(hub: Coordination) -> None:
    run = make_run(hub.home, hub.world.plan, utc_now(), 14)
    for name in (run.folder.name, "dummy", str(run.folder)):
        assert run_named(hub.home, name).folder == run.folder
    for more in ("dummy-study-rehearsal", "dummy-study-2"):
        make_run(hub.home, hub.world.plan.model_copy(update={"study": more}), utc_now(), 14)
    for name in (run.folder.name, "dummy-study", str(run.folder)):
        assert run_named(hub.home, name).folder == run.folder
    for name in ("other", "", "../x", "\x1b[2J"):
        if name:
            with pytest.raises(InputError, match="no study is called") as caught:
                run_named(hub.home, name)
            assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{}", b"[1]", b'["x"]', b"\xff"])
def test_a_damaged_list_of_runs_is_named(hub: Coordination, content: bytes) -> None:
    run = make_run(hub.home, hub.world.plan, utc_now(), 14)
    (run.folder / "flower.json").write_bytes(content)
    with pytest.raises(FolderError, match=r"flower\.json"):
        numbers_of(run)


def test_flower_that_says_no_number_is_an_error(hub: Coordination, monkeypatch: pytest.MonkeyPatch) -> None:
    from undertone_server.studies import flower_runs

    run = make_run(hub.home, hub.world.plan, utc_now(), 14)
    monkeypatch.setattr(flower_runs, "_flwr", lambda *_: {"success": True, "run-id": None})
    with pytest.raises(SuperLinkUnreachable, match="did not say which"):
        start(hub.home, run, APP, utc_now())
    assert numbers_of(run) == []


def test_status_says_that_a_broken_round_ends_a_study_without_spare_attempts(
    hub: Coordination, dummy_base: Path
) -> None:
    from tests.support.world import make_plan

    free = {"aggregation": secure(3, rosters="free"), "rounds": 2, "max_attempts": 2}
    plan = make_plan(dummy_base, dict.fromkeys(hub.world.sites, 4), **free)
    run = make_run(hub.home, plan, utc_now(), 14)
    assert standing(run).no_attempt_to_spare
    text = " ".join(call("coordinator", "status", run.folder.name).output.split())
    assert "a broken round: ends the study" in text


def test_a_study_of_noise_is_refused_as_plan_does(tmp_path: Path, dummy_base: Path, dummy_method: None) -> None:
    study = write_study(
        tmp_path / "study.toml", study_with({"privacy.allow_noisy": False, "privacy.epsilon": 0.01}, str(dummy_base))
    )
    with pytest.raises(NoisyRelease, match="the noise would be"):
        coordinator_runs.plan_of(study, quiet=True)
