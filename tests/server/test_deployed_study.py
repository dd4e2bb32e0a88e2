"""A study between institutions: it waits for approvals, says where it stands, and loses nothing that was learned."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID

from tests.support.approvals import approved
from tests.support.lines import Lines
from tests.support.world import World, identify, secure
from undertone.core.canonical import canonical_json
from undertone.core.keys import create_key, public_hex
from undertone.core.progress import reporting
from undertone.core.text import REASON, is_shown
from undertone.errors import FolderError, MechanismViolation, TooFewSites
from undertone.privacy.stages import Release
from undertone.release.manifest import check_manifest
from undertone.release.statement import SIMULATION, TookPart
from undertone.wire.messages import Reply
from undertone_cli.engines.inprocess import InProcessGrid
from undertone_client.app import app as client_app
from undertone_client.approval.pending import waiting
from undertone_client.node import Node
from undertone_client.site.folder import SiteDir
from undertone_server import release, run_study
from undertone_server.collect.deadlines import Deadlines
from undertone_server.run_folder import RunFolder
from undertone_server.status import read_status, tell

Make = Callable[..., World]
LIMITS = replace(Deadlines.equal(5.0), pause=0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dummy base draws no pictures, the odometer's accountant takes a second, and nobody waits for a day."""
    monkeypatch.setattr(
        release, "_draw_samples", lambda _plan, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )
    monkeypatch.setattr("undertone_server.telemetry.epsilon_spent", lambda *_: 1.0)
    monkeypatch.setattr(run_study, "deadlines_for", lambda _setting: LIMITS)


def deploy(world: World, **facts: Any) -> World:
    identify()
    facts = {"setting": "federation hub"} | facts
    (world.run.folder / "run.json").write_bytes(canonical_json(facts))
    return world


def run(world: World, absent: tuple[str, ...] = ()) -> Release | None:
    there = [folder for site, folder in world.sites.items() if site not in absent]
    grid = InProcessGrid(client_app, dict(enumerate(there, SUPERLINK_NODE_ID + 1)))
    return run_study.run_study(grid, world.run.folder)


def status_of(world: World) -> Any:
    return read_status(world.run)


def sites_in_every_sum(world: World) -> list[str]:
    statement = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))
    return list(statement["cohort"]["sites_in_every_sum"])


class Approving(Lines):
    """When the study says that it waits, its status is kept and the site's operator approves."""

    def __init__(self, world: World, site: str) -> None:
        super().__init__()
        self.world, self.site, self.seen = world, site, []  # type: ignore[var-annotated]

    def line(self, text: str) -> None:
        super().line(text)
        if text.startswith("waiting"):
            self.seen.append(status_of(self.world))
            if len(self.seen) == 2:
                approved(SiteDir(self.world.sites[self.site]), self.world.plan)


# --- approvals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", [{}, {"aggregation": secure(3)}])
def test_a_study_waits_for_a_site_that_has_not_approved_and_says_so(make_world: Make, aggregation: Any) -> None:
    world = deploy(make_world(**aggregation))
    world.withdraw("south")
    with reporting(said := Approving(world, "south")):
        run(world)
    assert said.lines[0] == "waiting for south: 2 of 3 sites are here and have approved the plan"
    assert said.seen[1].state == "waiting"
    assert said.seen[1].not_approved == ["south"]
    assert [one.digest for one in waiting(SiteDir(world.sites["south"]))] == [world.plan.digest]
    assert sites_in_every_sum(world) == ["east", "north", "south"]
    assert (status_of(world).state, status_of(world).missing) == ("released", {})
    assert world.run.attempts_asked(1) == [1]


def test_when_the_time_for_approvals_is_over_those_who_approved_go_on(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = deploy(make_world(), approval_days=0)
    world.withdraw("south")
    run(world)
    assert sites_in_every_sum(world) == ["east", "north"]
    assert status_of(world).not_approved == ["south"]


def test_a_dead_node_blocks_no_start(make_world: Make) -> None:
    world, said = deploy(make_world()), Lines()
    with reporting(said):
        run(world, absent=("south",))
    assert not [line for line in said.lines if line.startswith("waiting")]
    assert status_of(world).missing == {"south": "did not answer"}


def test_too_few_sites_are_waited_for_before_the_first_round(make_world: Make) -> None:
    world, said = deploy(make_world(), approval_days=0), Lines()
    with reporting(said), pytest.raises(TooFewSites):
        run(world, absent=("south", "east"))
    assert said.lines[0].startswith("waiting for east, south: 1 of 3")
    status = status_of(world)
    assert status.state == "stopped"
    assert status.because.startswith("TooFewSites: 1 sites answered, the plan needs 2")


def test_a_study_that_goes_on_asks_nobody_for_approval_again(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = deploy(make_world(rounds=2, max_attempts=5, sampling_rate=0.9))
    world.run.mark_asked(1, 1)
    asked: list[str] = []
    handle = Node.handle

    def counting(node: Node, request: Any) -> Reply:
        asked.append(request.kind)
        return handle(node, request)

    monkeypatch.setattr(Node, "handle", counting)
    run(world)
    assert "prepare" in asked
    assert "ready" not in asked[: asked.index("prepare")]


# --- status -----------------------------------------------------------------------------------------


def test_status_says_which_round_and_who_is_missing(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = deploy(make_world(rounds=2, max_attempts=5, sampling_rate=0.9))
    seen: list[Any] = []
    update = "undertone_server.rounds.update"
    real = __import__("undertone_server.update", fromlist=["update"]).update

    def watched(*arguments: Any) -> Any:
        seen.append(status_of(world))
        return real(*arguments)

    monkeypatch.setattr(update, watched)
    run(world, absent=("south",))
    assert [(one.state, one.round, one.attempt) for one in seen] == [("running", 1, 1), ("running", 2, 1)]
    assert seen[0].missing == {"south": "did not answer"}


def test_status_says_waiting_while_it_waits_and_running_from_then_on(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = deploy(make_world(aggregation=secure(3)))
    handle, away, seen = Node.handle, ["prepare", "prepare"], []

    def watched(node: Node, request: Any) -> Reply:
        if node.site.config.site == "south" and request.kind in away:
            away.remove(request.kind)
            return Reply("south", request.protocol, error="NodeUnavailable", message="restarted")
        if request.kind == "masked_input" or away == ["prepare"]:
            seen.append(status_of(world))
        return handle(node, request)

    monkeypatch.setattr(Node, "handle", watched)
    run(world)
    waiting_, asked = seen[0], seen[-1]
    assert "waiting for south (NodeUnavailable: restarted)" in waiting_.because
    assert (waiting_.state, waiting_.missing) == ("waiting", {"south": "NodeUnavailable: restarted"})
    assert (asked.state, asked.because, asked.missing, asked.round, asked.attempt) == ("running", "", {}, 1, 1)


@pytest.mark.parametrize("text", ["A" * 1_000_000, "\x1b]0;owned\x07\x1b[2J", "\u202e", "a\nb"])
def test_what_a_site_says_stands_in_the_status_as_one_bounded_line(make_world: Make, text: str) -> None:
    world = deploy(make_world())
    tell(world.run, "waiting", {"south": text}, because=text)
    status = status_of(world)
    assert is_shown(status.missing["south"], REASON)
    assert is_shown(status.because, 2000)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"state":"running"}'])
def test_a_damaged_status_is_said_and_stops_nothing(make_world: Make, content: bytes) -> None:
    world = deploy(make_world())
    (world.run.folder / "status.json").write_bytes(content)
    with pytest.raises(FolderError, match="remove it"):
        read_status(world.run)
    run(world)
    assert status_of(world).state == "released"


def test_a_simulation_writes_no_status(make_world: Make) -> None:
    world = deploy(make_world(), setting=SIMULATION)
    run(world)
    assert status_of(world) is None


# --- what was learned is durable first ----------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("no memory"), MemoryError(), OSError("no font")])
def test_samples_that_cannot_be_drawn_cost_no_release(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(_pinned: Any, folder: Path, *_: Any) -> int:
        (folder / "samples.png").write_bytes(b"half")
        raise error

    monkeypatch.setattr(release, "_draw_samples", failing)
    world, said = deploy(make_world()), Lines()
    with reporting(said):
        run(world)
    check_manifest(world.run.release)
    assert not (world.run.release / "samples.png").exists()
    assert "No samples were drawn" in (world.run.release / "README.md").read_text(encoding="utf-8")
    assert "no samples could be drawn" in said.lines[-1]


def test_a_result_survives_a_death_while_samples_are_drawn_and_needs_no_site(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, draw = deploy(make_world()), release._draw_samples

    def dying(*_: Any) -> int:
        raise SystemExit

    monkeypatch.setattr(release, "_draw_samples", dying)
    with pytest.raises(SystemExit):
        run(world, absent=("south",))
    assert {path.name for path in world.run.result.iterdir()} >= {"dummy.safetensors", "privacy.json", "plan.sig"}
    monkeypatch.setattr(release, "_draw_samples", draw)
    run(world, absent=tuple(world.sites))
    check_manifest(world.run.release)
    assert not world.run.result.exists()
    statement = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))
    assert statement["cohort"]["sites_missing"] == {"south": "did not answer"}


def test_the_last_round_done_no_site_is_needed(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world, write = deploy(make_world()), release._write_result

    def dying(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(release, "_write_result", dying)
    with pytest.raises(SystemExit):
        run(world, absent=("south",))
    monkeypatch.setattr(release, "_write_result", write)
    monkeypatch.setattr(InProcessGrid, "get_node_ids", lambda _grid: pytest.fail("a site was looked for"))
    run(world, absent=tuple(world.sites))
    statement = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))
    assert statement["cohort"]["sites_missing"] == {"south": "not in every sum"}


# --- the coordinator's one key ------------------------------------------------------------------------


def test_a_run_holds_no_key_where_the_coordinator_has_one(make_world: Make, tmp_path: Path) -> None:
    plan = make_world().plan
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    key = create_key(home / "coordinator.key")
    made = RunFolder.create(home / "runs" / "study", plan, {"setting": "federation hub"}, home / "coordinator.key")
    assert public_hex(made.key()) == public_hex(key)
    assert not list(made.folder.rglob("*.key"))
    assert made.plan() == plan
    home.rename(tmp_path / "moved")  # a home can be moved
    assert RunFolder(tmp_path / "moved" / "runs" / "study").plan() == plan


def test_who_holds_a_run_is_seen(make_world: Make) -> None:
    world = make_world()
    assert not world.run.held()
    with world.run.locked():
        assert RunFolder(world.run.folder).held()
    assert not world.run.held()


def test_who_only_looks_keeps_no_study_from_starting(make_world: Make) -> None:
    world, over = make_world(), threading.Event()
    world.run.held()

    def look() -> None:
        while not over.is_set():
            world.run.held()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            with world.run.locked():
                assert RunFolder(world.run.folder).held()
    finally:
        over.set()
        looking.join()


# --- rehearsals ---------------------------------------------------------------------------------------


def test_a_rehearsal_releases_nothing(make_world: Make) -> None:
    world = make_world()
    plan = world.plan.model_copy(update={"rehearsal": True})
    with pytest.raises(MechanismViolation, match="a rehearsal releases nothing"):
        release.release(world.run, plan, None, None, TookPart([], {}, 0))  # type: ignore[arg-type]
