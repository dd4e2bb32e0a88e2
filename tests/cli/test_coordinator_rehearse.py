"""`undertone coordinator rehearse`: every message at every site, on drawn images, and who took part."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.coordinating import Coordination, coordination
from tests.support.runs import call
from tests.support.world import World, secure
from undertone.core.keys import public_hex
from undertone.errors import NotVerified, TooFewSites
from undertone.privacy.ledger import Ledger
from undertone.release import verify
from undertone_cli.commands import coordinator_rehearse, coordinator_runs
from undertone_client.node import Node
from undertone_server import run_study
from undertone_server.collect.deadlines import Deadlines
from undertone_server.run_folder import RunFolder
from undertone_server.studies.standing import runs_of

Make = Callable[..., World]
DISTRIBUTED = {"noise": "distributed", "ready_seconds_per_unit": 0.001}


def hub_of(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...] = ()) -> Coordination:
    """Flower's run of a rehearsal happens while the command sleeps."""
    made = coordination(folder, world, monkeypatch)
    monkeypatch.setattr("undertone_server.telemetry.epsilon_spent", lambda *_: 1.0)
    monkeypatch.setattr(run_study, "deadlines_for", lambda _setting: replace(Deadlines.equal(5.0), pause=0.0))
    monkeypatch.setattr(coordinator_rehearse, "plan_of", lambda *_args, **_options: world.plan)
    monkeypatch.setenv("UNDERTONE_HOME", str(made.home.folder))

    def sleep(_seconds: float) -> None:
        for run in runs_of(made.home):
            if run.plan().rehearsal:
                with suppress(TooFewSites):  # the command reads the status
                    made.run(run.folder, absent)

    monkeypatch.setattr(coordinator_rehearse, "time", SimpleNamespace(sleep=sleep))
    return made


def rehearse(*words: object) -> tuple[int, Any]:
    result = call("coordinator", "rehearse", *words, "--json")
    assert result.stdout, (result.output, result.exception)
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.parametrize(
    "planned",
    [
        {"aggregation": secure(3)},
        {"aggregation": secure(3), **DISTRIBUTED},
        {},
    ],
    ids=["chain", "distributed", "plain"],
)
def test_every_message_at_every_site_and_nothing_is_charged(
    make_world: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: dict[str, Any]
) -> None:
    world = make_world(rounds=4, max_attempts=9, sampling_rate=0.9, **planned)
    hub = hub_of(world, tmp_path, monkeypatch)
    kinds: set[str] = set()
    handle = Node.handle

    def seen(node: Node, request: Any) -> Any:
        kinds.add(request.kind)
        return handle(node, request)

    monkeypatch.setattr(Node, "handle", seen)
    code, said = rehearse("study.toml")
    assert code == 0
    assert said["state"] == "rehearsed"
    assert said["sites"] == dict.fromkeys(world.sites, "took part")
    secure_kinds = {"share_keys", "masked_input", "consistency_check", "unmasking"}
    assert kinds == {"hello", "prepare", "ready"} | ({"plain_input"} if not planned else secure_kinds)
    (run,) = runs_of(hub.home)
    assert not run.release.exists()
    assert not run.result.exists()
    for site, folder in world.sites.items():
        assert world.charges(site) == []
        with Ledger.open(folder / "rehearsal" / run.plan().digest / "ledger.sqlite", read_only=True) as ledger:
            assert [(charge.round, charge.attempt) for charge in ledger.charges(run.plan().digest)] == [(1, 1)]


def test_who_is_away_is_named_and_is_an_exit_code(
    make_world: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(rounds=1, max_attempts=4, sampling_rate=0.9)
    hub_of(world, tmp_path, monkeypatch, absent=("south",))
    code, said = rehearse("study.toml")
    assert code == 3
    assert said["sites"] == {"north": "took part", "east": "took part", "south": "did not answer"}


def test_a_site_whose_policy_refuses_the_study_is_named(
    make_world: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(aggregation=secure(3), sampling_rate=0.9)
    hub_of(world, tmp_path, monkeypatch)
    world.allow("east", methods=[])
    code, said = rehearse("study.toml")
    assert (code, said["state"]) == (3, "stopped")
    assert "does not allow" in said["sites"]["east"]
    assert "took part" not in said["sites"].values()


def test_a_plan_file_is_rehearsed_too_and_again(
    make_world: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(sampling_rate=0.9, max_attempts=4)
    hub = hub_of(world, tmp_path, monkeypatch)
    monkeypatch.setattr(coordinator_rehearse, "plan_of", None)
    names = [rehearse(world.run.folder / "plan.json")[1]["name"]]
    later = coordinator_rehearse.utc_now()
    monkeypatch.setattr(coordinator_rehearse, "utc_now", lambda: later.replace(year=later.year, second=0, minute=0))
    names.append(rehearse(world.run.folder / "plan.json")[1]["name"])
    assert len(set(names)) == len(runs_of(hub.home)) == 2


def test_one_that_takes_too_long_is_stopped(make_world: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(sampling_rate=0.9, max_attempts=4)
    hub = hub_of(world, tmp_path, monkeypatch)
    times = iter([0, 0, 100])
    monkeypatch.setattr(coordinator_rehearse, "time", SimpleNamespace(sleep=lambda _seconds: None))
    run = coordinator_runs.make_run(hub.home, world.plan, coordinator_rehearse.utc_now(), 0)
    number = coordinator_runs.start(hub.home, run, Path("app"), coordinator_rehearse.utc_now())
    now = coordinator_rehearse.utc_now()
    clock = lambda: now.fromtimestamp(now.timestamp() + next(times), now.tzinfo)  # noqa: E731
    assert coordinator_rehearse.wait(hub.home, run, number, 60.0, clock).state == "submitted"
    assert hub.asked()[-1][:2] == ["stop", number]


def test_a_rehearsals_plan_is_verified_by_nobody(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if its coordinator signs a release of it by hand."""
    world = make_world(sampling_rate=0.9)
    plan = world.plan.model_copy(update={"rehearsal": True})
    run = RunFolder.create(world.folder / "other", plan, {"setting": "x"})
    monkeypatch.setattr(verify, "check_manifest", lambda *_: public_hex(run.key()))
    with pytest.raises(NotVerified, match="a rehearsal's, on drawn images"):
        verify.checked_plan(run.folder)
