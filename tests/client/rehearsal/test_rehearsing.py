"""A rehearsal runs every message on drawn images: nothing private is read, nothing is charged, and little is asked."""

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.approvals import HUB
from tests.support.world import World, secure
from undertone.core.clock import utc_now
from undertone.core.durable import exclusively
from undertone.core.keys import PLAN_DOMAIN, create_key, sign
from undertone.errors import FolderError, NotApproved
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone.study.rehearsal import drawn_units, rehearsal_of
from undertone.wire.messages import YES, Reply
from undertone.wire.vectors import LARGEST_HEADER
from undertone_client import node as node_module
from undertone_client.approval.books import LedgerBooks
from undertone_client.approval.checks import check_plan
from undertone_client.approval.pending import keep_pending, waiting
from undertone_client.approval.proposing import propose
from undertone_client.node import Node
from undertone_client.registration.stored import registered
from undertone_client.rehearsal import rehearsing
from undertone_client.site.folder import SiteDir

Make = Callable[..., World]


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world(aggregation=secure(3), rounds=2, max_attempts=5, sampling_rate=0.9)


def rehearsal(world: World, name: str = "dummy-rehearsal") -> Plan:
    return rehearsal_of(world.plan, name)


def ask(world: World, plan: Plan, kind: str = "prepare", **changes: Any) -> Reply:
    """The answer of north to a message about a plan that its coordinator signed."""
    signature = sign(world.run.key(), PLAN_DOMAIN, plan.digest)
    request = world.request(kind, plan=plan.as_bytes(), signature=signature, **changes)
    return Node(world.sites["north"]).handle(request)


def place(world: World, plan: Plan) -> Path:
    return world.sites["north"] / "rehearsal" / plan.digest


def ledger_of(site: Path) -> list[Any]:
    with Ledger.open(site / "ledger.sqlite", read_only=True) as ledger:
        return [(entry.kind, entry.body) for entry in ledger.entries()]


def test_nothing_private_is_read_and_nothing_is_charged(world: World) -> None:
    site, plan = world.sites["north"], rehearsal(world)
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file() and path.suffix != ".log"}
    shutil.rmtree(world.folder / "data")  # whoever read it would fail
    for file in ("secret.key", "ledger.sqlite", "state.sqlite"):
        if (site / file).exists():
            (site / file).rename(site / f"{file}.away")  # nor are the site's secret and ledger opened
    reply = ask(world, plan, "ready")
    assert (reply.error, reply.body, reply.site) == ("", YES, "north")
    for file in site.glob("*.away"):
        file.rename(site / file.stem)
    after = {path: path.read_bytes() for path in before}
    assert after == before
    drawn = place(world, plan)
    table = registered(SiteDir(drawn), plan)
    assert table is not None
    assert len(table.units()) == drawn_units(plan, "north") == 3
    assert table.root.is_relative_to(drawn)
    assert (drawn / "secret.key").read_bytes() != (site / "secret.key").read_bytes()
    assert stat.S_IMODE(drawn.stat().st_mode) == 0o700


def test_a_rehearsal_charges_its_own_ledger_alone(world: World) -> None:
    plan, before = rehearsal(world), ledger_of(world.sites["north"])
    assert ask(world, plan, "ready").error == ""
    assert ledger_of(world.sites["north"]) == before
    assert [kind for kind, body in ledger_of(place(world, plan)) if plan.digest in str(body)]


def test_it_answers_with_the_sites_own_identity_also_when_that_changes(world: World) -> None:
    plan, key = rehearsal(world), world.sites["north"] / "identity.key"
    ask(world, plan, "ready")
    assert (place(world, plan) / "identity.key").is_symlink()
    key.unlink()
    new = create_key(key)
    assert SiteDir(place(world, plan)).identity().private_bytes_raw() == new.private_bytes_raw()


@pytest.mark.parametrize(
    "changes", [{"methods": []}, {"models": []}, {"largest_sampling_rate": 0.1}, {"fewest_sites": 9}]
)
def test_a_policy_that_does_not_allow_the_study_refuses_its_rehearsal(world: World, changes: dict[str, Any]) -> None:
    world.allow("north", **changes)
    reply = ask(world, rehearsal(world))
    assert reply.error == "NotApproved"
    assert next(iter(changes)) in reply.message
    assert not place(world, rehearsal(world)).exists()


def test_a_stranger_rehearses_nothing(world: World, tmp_path: Path) -> None:
    plan, stranger = rehearsal(world), create_key(tmp_path / "key")
    request = world.request(plan=plan.as_bytes(), signature=sign(stranger, PLAN_DOMAIN, plan.digest))
    assert Node(world.sites["north"]).handle(request).error == "NotApproved"
    assert Node(world.sites["north"]).state_due(request) == 0
    assert not (world.sites["north"] / "rehearsal").exists()


def test_a_state_is_taken_in_for_a_rehearsal_that_the_policy_allows(world: World) -> None:
    plan = rehearsal(world)
    signature = sign(world.run.key(), PLAN_DOMAIN, plan.digest)
    request = world.request(plan=plan.as_bytes(), signature=signature)
    assert Node(world.sites["north"]).state_due(request) >= 4 * plan.method.dimension
    world.allow("north", methods=[])
    assert Node(world.sites["north"]).state_due(request) == 0


def test_the_signature_of_one_is_not_of_the_other(world: World) -> None:
    plan = rehearsal(world)
    request = world.request(plan=world.plan.as_bytes(), signature=sign(world.run.key(), PLAN_DOMAIN, plan.digest))
    assert Node(world.sites["north"]).handle(request).error == "NotApproved"
    request = world.request(plan=plan.as_bytes(), signature=world.run.signature())
    assert Node(world.sites["north"]).handle(request).error == "NotApproved"


def test_nobody_can_approve_a_rehearsal(world: World) -> None:
    plan, site = rehearsal(world), SiteDir(world.sites["north"])
    digest = keep_pending(site, plan.as_bytes(), sign(world.run.key(), PLAN_DOMAIN, plan.digest))
    with pytest.raises(NotApproved, match="is a rehearsal: it runs on drawn images"):
        propose(site, digest, "data", "A. Operator", None, LedgerBooks(site.ledger), utc_now())


def test_a_rehearsals_folder_takes_part_in_no_study(world: World) -> None:
    plan = rehearsal(world)
    ask(world, plan, "ready")
    reply = Node(place(world, plan)).handle(world.request())
    assert reply.error == "NotApproved"
    with pytest.raises(NotApproved, match="drawn images for rehearsals alone"):
        check_plan(SiteDir(place(world, plan)), world.plan)


def test_rehearsals_are_few_and_old_ones_make_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsing, "MOST", 2)
    plans = [rehearsal(world, f"dummy-rehearsal-{number}") for number in range(3)]
    for plan in plans[:2]:
        assert ask(world, plan, "ready").error == ""
    reply = ask(world, plans[2], "ready")
    assert (reply.error, "2 rehearsals were begun at north" in reply.message) == ("NotApproved", True)
    monkeypatch.setattr(rehearsing, "_HOUR", 0.0)
    assert ask(world, plans[2], "ready").error == ""
    assert [place(world, plan).exists() for plan in plans] == [False, True, True]


def test_one_that_was_half_made_is_made_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = rehearsal(world)

    def dying(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(rehearsing, "approve_unattended", dying)
        with pytest.raises(SystemExit):
            ask(world, plan, "ready")
    assert place(world, plan).exists()
    assert ask(world, plan, "ready").error == ""


def test_a_disk_that_is_full_is_the_sites_own_matter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise FolderError("/srv/secret-place cannot be used: no space left")

    monkeypatch.setattr(rehearsing, "draw_records", full)
    reply = ask(world, rehearsal(world), "ready")
    assert reply.error == "SiteFault"
    assert "secret-place" not in reply.message
    assert "secret-place" in world.log("north")


def test_a_rehearsal_is_no_plan_that_waits(world: World) -> None:
    ask(world, rehearsal(world), "ready")
    assert waiting(SiteDir(world.sites["north"])) == []
    assert world.plan.digest not in {path.name for path in (world.sites["north"] / "rehearsal").iterdir()}
    assert HUB in SiteDir(place(world, rehearsal(world))).policy.coordinators


def test_a_rehearsal_that_is_made_waits_for_no_other(world: World) -> None:
    plan = rehearsal(world)
    assert ask(world, plan, "ready").error == ""
    with exclusively(world.sites["north"] / "rehearsal"):  # another one is being made
        assert ask(world, plan, "ready").error == ""


def test_the_state_of_a_rehearsal_has_a_bound_that_its_plan_does_not_set(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = rehearsal(world)
    request = world.request(plan=plan.as_bytes(), signature=sign(world.run.key(), PLAN_DOMAIN, plan.digest))
    size = plan.method.dimension * 4
    assert Node(world.sites["north"]).state_due(request) == size + LARGEST_HEADER
    monkeypatch.setattr(node_module, "_LARGEST_REHEARSED", size - 4)
    assert Node(world.sites["north"]).state_due(request) == size - 4 + LARGEST_HEADER


def test_a_rehearsal_that_cannot_be_made_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a base that a plan names is hashed with every message."""
    hashed: list[str] = []

    def fails(reference: str, _revision: object) -> None:
        hashed.append(reference)
        raise FolderError("it is not here")

    monkeypatch.setattr(rehearsing, "pin", fails)
    monkeypatch.setattr(rehearsing, "MOST", 3)
    replies = [ask(world, rehearsal(world), "ready") for _ in range(6)]
    assert [reply.error for reply in replies] == ["SiteFault"] * 3 + ["NotApproved"] * 3
    assert len(hashed) == 3
