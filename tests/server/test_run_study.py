"""From RUN to release: refused where plan, code or folder are not what they should be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from safetensors.numpy import load_file

from tests.support.dummy import DummyMethod, DummyOptions
from tests.support.hand_session import fails_at, plain_sum
from tests.support.world import START, World, identify, secure
from undertone import PROTOCOL
from undertone.core.canonical import canonical_json
from undertone.core.text import REASON, is_shown
from undertone.errors import FolderError, LedgerRestored, NotApproved, NotVerified, PlanChanged, Refused, TooFewSites
from undertone.privacy.ledger import Ledger
from undertone.release.manifest import check_manifest
from undertone.release.verify import _took_part
from undertone.wire.flower import reply_from_records
from undertone.wire.messages import Due, Reply
from undertone_cli.engines.inprocess import InProcessGrid, run_inprocess
from undertone_client.app import app as client_app
from undertone_client.node import Node
from undertone_client.site.folder import SiteDir
from undertone_client.site.rollback import ledger_head_of, refuse_older
from undertone_server import release
from undertone_server.app import app as server_app
from undertone_server.ledger_heads import LedgerHeads
from undertone_server.run_folder import RunFolder

Make = Callable[..., World]


@pytest.fixture(autouse=True)
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dummy base draws no pictures, and the odometer's accountant takes a second."""
    monkeypatch.setattr(
        release, "_draw_samples", lambda _plan, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )
    monkeypatch.setattr("undertone_server.telemetry.epsilon_spent", lambda *_: 1.0)


def run(world: World) -> None:
    run_inprocess(server_app, client_app, world.run.folder, world.sites.values())


def test_a_study_leaves_a_signed_release_and_events(make_world: Make) -> None:
    world = make_world()
    run(world)
    check_manifest(world.run.release)
    names = {path.name for path in world.run.release.iterdir()}
    assert "dummy.safetensors" in names
    assert "samples.png" in names
    assert list((world.run.folder / "events").iterdir())


def test_a_finished_study_is_not_run_again(make_world: Make) -> None:
    world = make_world()
    run(world)
    with pytest.raises(FolderError, match="this study is done"):
        run(world)


def test_the_missing_sites_are_in_the_statement_with_their_reason(make_world: Make) -> None:
    world = make_world()
    world.withdraw("south")
    run(world)
    cohort = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))["cohort"]
    assert cohort["sites_in_every_sum"] == ["east", "north"]
    assert list(cohort["sites_missing"]) == ["south"]
    assert cohort["sites_missing"]["south"].startswith("NotApproved")


@pytest.mark.parametrize(
    "text", ["A" * 1_000_000, "\x1b]0;owned\x07\x1b[2J", "no\r\nnorth is missing: all is well", "\u202e", "[bold]no[/]"]
)
def test_what_a_site_says_stands_in_the_statement_as_one_bounded_line(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    world, handle = make_world(), Node.handle

    def refusing(node: Node, request: Any) -> Any:
        if node.site.config.site == "south" and request.kind == "prepare":
            return Reply("south", PROTOCOL, error=text, message=text)
        return handle(node, request)

    monkeypatch.setattr(Node, "handle", refusing)
    run(world)
    statement = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))
    reason = statement["cohort"]["sites_missing"]["south"]
    assert reason.startswith("UnknownError: ")
    assert is_shown(reason, REASON)
    assert list(_took_part(statement, world.plan).missing) == ["south"]
    for wrong in (f"NotApproved: {text}" * 600, "\x1b[2J", "a\nb", 7, None, ["no"]):
        statement["cohort"]["sites_missing"]["south"] = wrong
        with pytest.raises(NotVerified, match="a reason that is too long, or no printable text"):
            _took_part(statement, world.plan)
    card = (world.run.release / "README.md").read_text(encoding="utf-8")
    assert text not in card


def test_sites_that_miss_different_rounds_leave_a_release_that_can_be_verified(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = secure(5, rosters="free")
    world = make_world(dict.fromkeys("abcde", 4), aggregation=free, rounds=2, max_attempts=2)
    away, handle = {1: "b", 2: "d"}, Node.handle

    def sometimes(node: Node, request: Any) -> Any:
        if away.get(request.round) == node.site.config.site:
            raise ConnectionError
        return handle(node, request)

    monkeypatch.setattr(Node, "handle", sometimes)
    run(world)
    statement = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))
    assert statement["cohort"]["sites_in_every_sum"] == ["a", "c", "e"]
    assert statement["cohort"]["fewest_sites_in_a_sum"] == world.plan.quorum == 4
    assert _took_part(statement, world.plan).fewest == 4
    statement["cohort"]["fewest_sites_in_a_sum"] = 3
    with pytest.raises(NotVerified, match="a sum of 3 sites was used"):
        _took_part(statement, world.plan)


@pytest.mark.parametrize("rosters", ["free", "chain"])
def test_a_site_that_is_put_back_to_a_backup_is_refused(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, rosters: str
) -> None:
    """It forgot that it answered round 1, and would answer it again; a chain of lists cannot go on without it."""
    world = make_world(dict.fromkeys("abcde", 4), aggregation=secure(5, rosters=rosters), rounds=2, max_attempts=3)
    site, backup, handle = world.sites["d"], world.folder / "backup", Node.handle

    def restoring(node: Node, request: Any) -> Any:
        if node.site.config.site == "d" and request.kind == "prepare":
            if not backup.exists():
                shutil.copytree(site, backup)
            elif request.round == 2:
                shutil.rmtree(site)
                shutil.copytree(backup, site)
        return handle(node, request)

    monkeypatch.setattr(Node, "handle", restoring)
    if rosters == "chain":
        with pytest.raises(TooFewSites, match=r"away: d: LedgerRestored: this site's ledger is an older copy"):
            run(world)
        return
    run(world)
    cohort = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))["cohort"]
    assert cohort["sites_in_every_sum"] == ["a", "b", "c", "e"]
    assert cohort["sites_missing"]["d"].startswith("LedgerRestored: this site's ledger is an older copy")


def test_tokens_of_ledgers_are_kept_by_the_run_and_say_nothing_without_the_secret(make_world: Make) -> None:
    world = make_world()
    run(world)
    kept = LedgerHeads(world.run.folder / "checkpoints" / "ledger-heads")
    assert set(kept) == set(world.sites)
    for name, folder in world.sites.items():
        site = SiteDir(folder)
        with Ledger.open(site.ledger, read_only=True) as ledger:
            assert kept[name] == ledger_head_of(site.secret(), ledger.head) != ledger_head_of(bytes(32), ledger.head)
            refuse_older(ledger, site.secret(), kept[name])
            refuse_older(ledger, site.secret(), "")
            with pytest.raises(LedgerRestored, match="restore the newest"):
                refuse_older(ledger, site.secret(), "0" * 64)


def test_ten_sites_of_which_three_drop_release_what_seven_give(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, draws: list[np.ndarray]
) -> None:
    ten = {f"site-{letter}": 4 for letter in "abcdefghij"}
    dropped = {"site-a": "prepare", "site-d": "share_keys", "site-h": "masked_input"}
    world = make_world(ten, aggregation=secure(10))
    fails_at(monkeypatch, dropped)
    run(world)
    seven = sorted(set(ten) - set(dropped))
    cohort = json.loads((world.run.release / "privacy.json").read_text(encoding="utf-8"))["cohort"]
    assert cohort["sites_in_every_sum"] == seven
    assert sorted(cohort["sites_missing"]) == sorted(dropped)
    noised = plain_sum(world, seven) + draws[-1]
    expected = DummyMethod(DummyOptions()).step(START, noised / world.plan.denominator(1, seven))
    released = load_file(world.run.release / "dummy.safetensors")
    np.testing.assert_array_equal(np.concatenate([released["features"], released["others"]]), expected)


def test_a_plan_for_other_code_is_not_run(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    monkeypatch.setattr("undertone.core.code_digest.package_sha256", lambda: "0" * 64)
    with pytest.raises(PlanChanged, match="other code"):
        run(world)
    assert world.charges() == []


@pytest.mark.parametrize("name", ["plan.json", "plan.sig", "coordinator.key"])
def test_a_run_without_one_of_its_parts_is_refused(make_world: Make, name: str) -> None:
    world = make_world()
    (world.run.folder / name).unlink()
    with pytest.raises(FolderError, match=r"plan\.json|plan\.sig|coordinator\.key"):
        run(world)


def test_a_plan_changed_in_place_is_refused(make_world: Make) -> None:
    world = make_world()
    tables = world.plan.model_dump(mode="json")
    tables["privacy"]["sigma"] = 65
    (world.run.folder / "plan.json").write_bytes(canonical_json(tables))
    with pytest.raises(NotApproved):
        run(world)
    assert world.charges() == []


def test_a_base_that_changed_since_the_plan_is_refused(make_world: Make, dummy_base: Path) -> None:
    world = make_world()
    config = dummy_base / "scheduler" / "scheduler_config.json"
    before = config.read_text(encoding="utf-8")
    try:
        config.write_text("{ }", encoding="utf-8")
        with pytest.raises(PlanChanged, match="scheduler_config"):
            run(world)
    finally:
        config.write_text(before, encoding="utf-8")


def test_a_release_whose_method_writes_more_is_whole(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest covers whatever files a method's weights make."""
    world = make_world()
    weights = DummyMethod.weights
    monkeypatch.setattr(DummyMethod, "weights", lambda self, *w: {"extra.safetensors": {}, **weights(self, *w)})
    run(world)
    (world.run.release / "extra.safetensors").unlink()
    with pytest.raises(NotVerified, match=r"extra\.safetensors"):
        check_manifest(world.run.release)


def test_a_crashing_node_sends_no_word_of_its_exception(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()

    def crash(*_: Any) -> None:
        raise RuntimeError("patient-1 scan-0002.png")

    monkeypatch.setattr("undertone_client.app.Node", crash)
    identify()
    grid = InProcessGrid(client_app, {SUPERLINK_NODE_ID + 1: world.sites["north"]})
    message = Message(RecordDict(), dst_node_id=SUPERLINK_NODE_ID + 1, message_type="query.hello")
    (reply,) = grid.send_and_receive([message])
    answer = reply_from_records(reply.content, Due())
    assert answer.error == "SiteFault"
    assert "patient" not in answer.message
    assert "scan" not in answer.message


def test_a_request_that_cannot_be_read_is_a_fault_of_the_site(make_world: Make) -> None:
    world = make_world()
    identify()
    grid = InProcessGrid(client_app, {SUPERLINK_NODE_ID + 1: world.sites["north"]})
    content = RecordDict({"header": ConfigRecord({"protocol": "one"})})
    message = Message(content, dst_node_id=SUPERLINK_NODE_ID + 1, message_type="train.prepare")
    (reply,) = grid.send_and_receive([message])
    assert reply_from_records(reply.content, Due()).error == "SiteFault"


def test_refusals_and_bad_input_have_their_exit_codes() -> None:
    assert (FolderError("x").exit_code, PlanChanged("x").exit_code) == (2, 3)
    assert issubclass(NotApproved, Refused)


def test_a_new_run_is_never_laid_over_an_old_one(make_world: Make) -> None:
    world = make_world()
    with pytest.raises(FolderError, match="exists already"):
        RunFolder.create(world.run.folder, world.plan, {})
