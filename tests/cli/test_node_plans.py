"""`undertone node policy | receive | pending | approve | withdraw`, from a plan's file to an answered request."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.approvals import DATA
from tests.support.failpoints import Killed, kill_before
from tests.support.runs import call
from tests.support.world import World, secure
from undertone.core.canonical import sha256_hex
from undertone.core.durable import exclusively
from undertone.core.keys import PLAN_DOMAIN, public_hex, sign
from undertone.errors import FolderError, NotApproved
from undertone.privacy.ledger import Ledger
from undertone_client.approval import approving
from undertone_client.approval.approvals import approval_of, approvals
from undertone_client.approval.approving import free_expired
from undertone_client.approval.books import LedgerBooks
from undertone_client.approval.pending import keep_pending
from undertone_client.node import Node
from undertone_client.registration.stored import registration_of
from undertone_client.site import budget
from undertone_client.site.datasets import data_sets
from undertone_client.site.folder import SiteDir
from undertone_client.site.policy import Policy
from undertone_client.site.rollback import ledger_head_of

Make = Callable[..., World]


class Desk:
    """The operator of north at a terminal; the coordinator has sent plan.json and plan.sig."""

    def __init__(self, world: World) -> None:
        self.world, self.folder, self.digest = world, world.sites["north"], world.plan.digest
        for name in ("approved", "registered"):
            shutil.rmtree(self.folder / name)
        LedgerBooks(self.folder / "ledger.sqlite").free(self.digest, "withdrawn")
        self.plan, self.signature = world.folder / "plan.json", world.folder / "plan.sig"
        self.plan.write_bytes(world.plan.as_bytes())
        self.signature.write_text(world.run.signature() + "\n", encoding="ascii")

    def says(self, command: str, *more: Any) -> Result:
        return call("node", command, self.folder, *more)

    def receive(self) -> Result:
        return self.says("receive", self.plan, self.signature)

    def approve(self, *more: Any, digest: str = "") -> Result:
        return self.says("approve", digest or self.digest[:8], "--data", DATA, "--operator", "A. Operator", *more)

    def committed(self) -> float:
        data = data_sets(self.folder)[DATA]
        return LedgerBooks(self.folder / "ledger.sqlite").standing(data).committed


@pytest.fixture
def desk(make_world: Make) -> Desk:
    return Desk(make_world(aggregation=secure(3), sampling_rate=0.5, rounds=2, max_attempts=3))


def flat(result: Result) -> str:
    return " ".join(result.output.split())


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert all(word in flat(result) for word in words), result.output
    assert "Traceback" not in result.output


def test_from_a_file_to_an_answer_and_back(desk: Desk) -> None:
    refused(desk.approve(), 2, "no plan that waits begins with")
    assert f"plan {desk.digest[:8]} waits" in flat(desk.receive())
    assert f"waits {desk.digest[:8]} study dummy-study, from hub" in flat(desk.says("pending"))
    result = desk.approve("--yes-digest", desk.digest[:8])
    assert result.exit_code == 0, result.output
    for heading in ("WHO ASKS", "WHAT LEAVES THIS SITE", "WHAT IT TAKES FROM THE BUDGET", "HOW LONG IT HOLDS"):
        assert heading in result.output
    assert f"plan {desk.digest[:8]} is approved until" in flat(result)
    approval = approval_of(SiteDir(desk.folder), desk.digest)
    assert approval is not None
    assert approval.document.page.strip() in result.output
    assert desk.committed() > 0
    assert "A. Operator" in flat(desk.says("pending"))
    refused(desk.says("withdraw", "0" * 8), 2, "no plan that was approved begins with 00000000")
    assert "is withdrawn for good" in flat(desk.says("withdraw", desk.digest[:8]))
    assert desk.committed() == 0
    assert f"withdrawn {desk.digest[:8]}" in flat(desk.says("pending"))
    assert desk.receive().exit_code == 0
    refused(desk.approve("--yes-digest", desk.digest[:8]), 3, "NotApproved", "was withdrawn for good")


@pytest.mark.parametrize("typed", ["00000000", "", "y", "yes"])
def test_other_digits_than_those_of_the_page_approve_nothing(desk: Desk, typed: str) -> None:
    desk.receive()
    refused(desk.approve("--yes-digest", typed), 2, "InputError", "nothing was approved")
    assert approvals(SiteDir(desk.folder)) == []
    assert desk.committed() == 0


def test_who_is_asked_types_the_digits(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.receive()
    asked: list[str] = []

    def prompt(text: str) -> str:
        asked.append(text)
        return f" {desk.digest[:8]} "

    monkeypatch.setattr("undertone_cli.commands.node_plans.click.prompt", prompt)
    assert desk.approve().exit_code == 0
    assert asked == ["To approve, type the first 8 digits of the digest"]


@pytest.mark.parametrize("form", ["raw", "hexadecimal"])
def test_an_approver_signs_what_was_printed(desk: Desk, form: str) -> None:
    dean = Ed25519PrivateKey.generate()
    desk.world.allow("north", approvers={"dean": public_hex(dean)})
    desk.receive()
    refused(desk.approve("--yes-digest", desk.digest[:8]), 3, "NotApproved", "one of them must sign")
    printed = desk.approve("--print-request")
    assert printed.exit_code == 0, printed.output
    request = desk.folder / "pending" / f"{desk.digest}.request"
    assert str(request) in flat(printed)
    assert "openssl pkeyutl -sign -rawin -inkey KEY.pem" in flat(printed)
    path = desk.world.folder / "approval.sig"
    path.write_bytes(b"\x00" * 64)
    refused(desk.approve("--signature", path), 3, "NotApproved", "none of them has signed")
    assert approvals(SiteDir(desk.folder)) == []
    refused(desk.approve("--signature", path, "--until", "2999-01-01"), 2, "leave --until out")
    signature = dean.sign(request.read_bytes())
    path.write_bytes(signature if form == "raw" else signature.hex().encode() + b"\n")
    assert "signed by dean" in flat(desk.approve("--signature", path))
    assert desk.committed() > 0


@pytest.mark.parametrize("step", ["register", "keep_approval"])
def test_a_signed_approval_that_was_broken_off_is_finished_by_the_same_command(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    dean = Ed25519PrivateKey.generate()
    desk.world.allow("north", approvers={"dean": public_hex(dean)})
    desk.receive()
    desk.approve("--print-request")
    path = desk.world.folder / "approval.sig"
    path.write_bytes(dean.sign((desk.folder / "pending" / f"{desk.digest}.request").read_bytes()))
    with monkeypatch.context() as patch:
        kill_before(patch, approving, step)
        with pytest.raises(Killed):
            desk.approve("--signature", path)
    assert (desk.committed() > 0) is (step == "keep_approval")
    assert "signed by dean" in flat(desk.approve("--signature", path))


def test_a_page_of_yesterday_is_not_approved_by_its_signature(desk: Desk) -> None:
    dean = Ed25519PrivateKey.generate()
    desk.world.allow("north", approvers={"dean": public_hex(dean)})
    desk.receive()
    desk.approve("--print-request")
    request = desk.folder / "pending" / f"{desk.digest}.request"
    path = desk.world.folder / "approval.sig"
    path.write_bytes(dean.sign(request.read_bytes()))
    desk.world.allow("north", federations={})
    refused(desk.approve("--signature", path), 3, "NotApproved", "federation, page changed since", "--print-request")
    assert approvals(SiteDir(desk.folder)) == []
    assert desk.committed() == 0
    desk.approve("--print-request")
    path.write_bytes(dean.sign(request.read_bytes()))
    assert "signed by dean" in flat(desk.approve("--signature", path))


def test_a_policy_is_explained_key_by_key(desk: Desk) -> None:
    result = desk.says("policy")
    assert result.exit_code == 0
    for key, field in Policy.model_fields.items():
        assert key in result.output
        assert " ".join((field.description or "").split()) in flat(result)
    assert f"allows plan {desk.digest[:8]}" in flat(desk.says("policy", desk.plan))
    desk.world.allow("north", methods=[], fewest_sites=None)
    assert "methods Methods that a study may use" in flat(desk.says("policy"))
    assert "nothing, so nothing is allowed" in desk.says("policy").output
    refused(
        desk.says("policy", desk.plan),
        3,
        "methods the plan says dummy the policy says nothing",
        "fewest_sites the plan says 3",
        "NotApproved",
    )


def test_a_plan_beyond_the_policy_is_refused_with_every_reason(desk: Desk) -> None:
    desk.receive()
    desk.world.allow("north", methods=[], largest_rounds=1)
    result = desk.approve("--yes-digest", desk.digest[:8])
    refused(result, 3, "NotApproved", "methods: the plan says dummy", "largest_rounds: the plan says 2 rounds")
    assert "cannot be approved: north does not allow plan" in flat(desk.says("pending"))


def test_what_is_received_is_looked_at(desk: Desk) -> None:
    desk.plan.write_text("{}")
    refused(desk.receive(), 3, "PlanChanged")
    desk.plan.write_bytes(b"x" * ((1 << 20) + 1))
    refused(desk.receive(), 2, "FolderError", "more than")
    desk.plan.unlink()
    refused(desk.receive(), 2, "FolderError")
    desk.plan.write_bytes(desk.world.plan.as_bytes())
    desk.signature.write_text("ab" * 64)
    refused(desk.receive(), 3, "NotApproved", "by no coordinator")
    assert not list(desk.folder.glob("pending/*"))


def test_what_is_reported_is_json_where_it_is_asked_for(desk: Desk) -> None:
    def told(*words: Any) -> Any:
        result = desk.says(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    desk.receive()
    other = sha256_hex(b"{}")
    keep_pending(SiteDir(desk.folder), b"{}", sign(desk.world.run.key(), PLAN_DOMAIN, other))
    waits = {one["digest"]: one for one in told("pending")["plans"]}
    assert (waits[other]["study"], "format" in waits[other]["refused"]) == (None, True)
    known = {"digest": desk.digest, "coordinator": "hub", "study": "dummy-study"}
    assert waits[desk.digest] == known | {"state": "waits", "refused": None}
    assert told("pending", "--drop", other[:8]) == {"site": "north", "dropped": other}
    desk.approve("--yes-digest", desk.digest[:8])
    (approved,) = told("pending")["plans"]
    assert approved["state"] == "approved"
    assert approved.items() >= (known | {"data_set": DATA, "operator": "A. Operator", "approver": None}).items()
    assert told("policy")["policy"] == SiteDir(desk.folder).policy.model_dump(mode="json")
    assert told("policy", desk.plan) == {"site": "north", "plan": desk.digest, "violations": []}
    desk.world.allow("north", methods=[])
    assert "cannot be approved" not in desk.says("pending", "--json").output
    result = desk.says("policy", desk.plan, "--json")
    assert result.exit_code == 3
    (one,) = json.loads(result.stdout)["violations"]
    assert (one["key"], one["plan"], one["policy"]) == ("methods", "dummy", "nothing")


def test_a_plan_is_dropped(desk: Desk) -> None:
    desk.receive()
    assert "waits no longer" in flat(desk.says("pending", "--drop", desk.digest[:8]))
    assert desk.says("pending").output == ""
    refused(desk.says("pending", "--drop", "zz"), 2, "is no digest")


def test_a_last_day_beyond_the_policy_is_refused(desk: Desk) -> None:
    desk.receive()
    refused(desk.approve("--until", "2999-01-01"), 2, "name a day up to")
    refused(desk.approve("--until", "2001-01-01"), 2, "name a day up to")


def test_a_node_frees_what_expired(desk: Desk) -> None:
    desk.receive()
    desk.approve("--yes-digest", desk.digest[:8])
    assert desk.committed() > 0
    late = datetime.now(UTC) + timedelta(days=91)
    with exclusively(desk.folder / "approved"):  # somebody approves just now: freed by the next request
        reply = Node(desk.folder, now=lambda: late).handle(desk.world.request())
    assert (reply.error, desk.committed() > 0) == ("NotApproved", True)
    reply = Node(desk.folder, now=lambda: late).handle(desk.world.request())
    assert (reply.error, "held until" in reply.message) == ("NotApproved", True)
    assert desk.committed() == 0


def test_a_clock_that_was_ahead_leaves_a_plan_that_can_be_approved_again(desk: Desk) -> None:
    """The node frees what it takes for expired; the clock is set right then, and nothing is charged unreserved."""
    desk.receive()
    desk.approve("--yes-digest", desk.digest[:8])
    reserved = desk.committed()
    request = desk.world.request()
    for kind in ("prepare", "share_keys"):
        assert "reservation" not in Node(desk.folder).handle(desk.world.request(kind)).message
    Node(desk.folder, now=lambda: datetime.now(UTC) + timedelta(days=91)).handle(request)
    assert desk.committed() == 0
    for kind in ("prepare", "share_keys", "masked_input", "consistency_check", "unmasking"):
        reply = Node(desk.folder).handle(desk.world.request(kind))
        assert (reply.error, "holds no reservation at north" in reply.message) == ("NotApproved", True), kind
    desk.receive()
    result = desk.approve("--yes-digest", desk.digest[:8])
    assert "as an earlier approval of this plan registered them" in flat(result)
    assert desk.committed() == reserved
    assert "reservation" not in Node(desk.folder).handle(request).message


def test_an_older_ledger_is_called_so_and_not_a_lost_reservation(desk: Desk) -> None:
    """The coordinator has seen an entry that the ledger does not have; the reservation is among what it lacks."""
    older = (desk.folder / "ledger.sqlite").read_bytes()
    desk.receive()
    desk.approve("--yes-digest", desk.digest[:8])
    with Ledger.open(desk.folder / "ledger.sqlite", read_only=True) as ledger:
        token = ledger_head_of(SiteDir(desk.folder).secret(), ledger.head)
    (desk.folder / "ledger.sqlite").write_bytes(older)
    reply = Node(desk.folder).handle(desk.world.request(ledger_heads={"north": token}))
    assert reply.error == "LedgerRestored"
    assert Node(desk.folder).handle(desk.world.request()).error == "NotApproved"


def test_a_study_that_is_ended_frees_what_it_did_not_charge_and_can_go_on_after_all(desk: Desk) -> None:
    desk.receive()
    desk.approve("--yes-digest", desk.digest[:8])
    reserved = desk.committed()
    with Ledger.open(desk.folder / "ledger.sqlite") as ledger:
        budget.charge(ledger, desk.world.plan, 1, 1, "ab" * 32)
    refused(desk.says("end", "0" * 8), 2, "no plan that was approved begins with 00000000")
    assert "it charged 1 of 3 attempts, and what it has not charged is free" in flat(desk.says("end", desk.digest[:8]))
    assert 0 < desk.committed() < reserved
    for kind in ("prepare", "masked_input", "unmasking"):
        reply = Node(desk.folder).handle(desk.world.request(kind, attempt=2))
        assert (reply.error, "holds no reservation at north" in reply.message) == ("NotApproved", True), kind
    with Ledger.open(desk.folder / "ledger.sqlite") as ledger, pytest.raises(NotApproved):
        budget.charge(ledger, desk.world.plan, 1, 2, "ab" * 32)
    assert f"ended {desk.digest[:8]}" in flat(desk.says("pending"))
    refused(desk.says("end", desk.digest[:8]), 2, "InputError", "there is nothing to end")
    desk.receive()
    assert desk.approve("--yes-digest", desk.digest[:8]).exit_code == 0
    assert desk.committed() == reserved
    assert f"approved {desk.digest[:8]}" in flat(desk.says("pending"))


def test_the_same_data_set_holds_no_second_plan_beyond_its_cap(desk: Desk) -> None:
    """The cap is just what the first plan takes; the second is named another way and asks for no less."""
    desk.receive()
    assert desk.approve("--yes-digest", desk.digest[:8]).exit_code == 0
    plan = desk.world.plan.model_copy(update={"study": "renamed"})
    desk.plan.write_bytes(plan.as_bytes())
    signature = desk.world.signed(plan)["signature"]
    shutil.rmtree(desk.world.sites["east"] / "approved")
    (desk.folder / "approved" / f"{plan.digest}.json").unlink()
    desk.signature.write_text(signature)
    desk.receive()
    refused(desk.approve("--yes-digest", plan.digest[:8], digest=plan.digest), 3, "BudgetExceeded")


def test_a_file_of_a_folder_that_is_no_site_is_named(tmp_path: Path) -> None:
    for command, more in {"pending": [], "policy": [], "withdraw": ["0" * 8]}.items():
        refused(call("node", command, tmp_path, *more), 2, "FolderError", "is no SITE_DIR")


def test_a_signature_where_nobody_is_named_approves_nothing(desk: Desk, tmp_path: Path) -> None:
    desk.receive()
    assert desk.approve("--print-request").exit_code == 0
    (tmp_path / "sig").write_bytes(bytes(64))
    refused(desk.approve("--signature", tmp_path / "sig"), 2, "which names none")
    assert not list((desk.folder / "approved").glob("*.json"))


def test_a_reservation_whose_approval_was_never_finished_can_be_freed(desk: Desk) -> None:
    LedgerBooks(desk.folder / "ledger.sqlite").reserve(desk.world.plan, DATA)
    assert desk.committed() > 0
    assert desk.says("withdraw", desk.digest[:8]).exit_code == 0
    assert desk.committed() == 0


def test_an_approval_that_the_ledger_does_not_know_stops_no_other(desk: Desk) -> None:
    """As after a restore: it has expired, and a copy of the ledger from before it holds no reservation of it."""
    desk.receive()
    desk.approve("--yes-digest", desk.digest[:8])
    site = SiteDir(desk.folder)

    class Forgetful(LedgerBooks):
        def free(self, digest: str, reason: str) -> bool:
            raise NotApproved(f"{digest} has reserved nothing: {reason}")

    expired = free_expired(site, Forgetful(site.ledger), datetime.now(UTC) + timedelta(days=91))
    assert [approval.document.digest for approval in expired] == [desk.digest]


def test_the_registration_of_another_plan_is_not_believed(desk: Desk) -> None:
    desk.receive()
    desk.approve("--yes-digest", desk.digest[:8])
    other = desk.world.plan.model_copy(update={"study": "another"})
    path = desk.folder / "registered" / f"{desk.digest}.jsonl"
    shutil.copyfile(path, path.with_name(f"{other.digest}.jsonl"))
    with pytest.raises(FolderError, match="is the registration of plan"):
        registration_of(SiteDir(desk.folder), other)
