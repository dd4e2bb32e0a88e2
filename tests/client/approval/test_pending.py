"""Plans that wait: known coordinators alone, in bounded number, and none is dropped for another."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.client.approval.conftest import Office
from tests.client.approval.test_approving import changed
from undertone.core.bounds import PLAN_BYTES
from undertone.core.canonical import sha256_hex
from undertone.core.durable import exclusively
from undertone.core.keys import PLAN_DOMAIN, public_hex, sign
from undertone.errors import FolderError, NotApproved, PlanChanged, ProtocolError
from undertone.study.plan import Plan
from undertone_client.approval.pending import (
    MOST_PENDING,
    drop_pending,
    keep_pending,
    pending_plan,
    read_plan,
    waiting,
)


def plans(office: Office, count: int) -> list[Plan]:
    """Different plans."""
    return [changed(office.world.plan, "study", value=f"study-{number}") for number in range(count)]


def second_coordinator(office: Office) -> Ed25519PrivateKey:
    """The policy names the coordinator lab as well; its key."""
    key = Ed25519PrivateKey.generate()
    hub = office.site.policy.coordinators["hub"]
    office.world.allow("north", coordinators={"hub": hub, "lab": public_hex(key)})
    return key


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_message_of_a_known_coordinator_leaves_its_plan(office: Office) -> None:
    assert office.answer()[0] == "NotApproved"
    (found,) = waiting(office.site)
    assert (found.digest, found.coordinator, read_plan(found)) == (office.digest, "hub", office.world.plan)
    assert names(office.site.folder / "pending") == [f"{office.digest}.json", f"{office.digest}.sig"]
    office.approve()
    assert office.answer() == ("", "")
    assert waiting(office.site) == []


def test_a_strangers_plan_is_not_kept(office: Office) -> None:
    stranger = Ed25519PrivateKey.generate()
    for signature in (sign(stranger, PLAN_DOMAIN, office.digest), "", "ab" * 64):
        assert office.answer(signature=signature)[0] == "NotApproved"
        with pytest.raises(NotApproved, match="by no coordinator"):
            keep_pending(office.site, office.world.plan.as_bytes(), signature)
    assert waiting(office.site) == []


@pytest.mark.parametrize("state", ["withdrawn", "expired"])
def test_a_plan_that_was_decided_does_not_wait_again(office: Office, state: str) -> None:
    from undertone_client.approval.approving import withdraw

    office.arrives()
    office.approve()
    if state == "withdrawn":
        withdraw(office.site, office.digest, office.books, office.now)
    else:
        office.now = office.now.replace(year=2028)
    assert office.answer()[0] == "NotApproved"
    assert waiting(office.site) == []


def test_each_coordinator_has_room_for_so_many_and_none_is_dropped(office: Office) -> None:
    lab, many = second_coordinator(office), plans(office, MOST_PENDING + 2)
    for plan in many[:MOST_PENDING]:
        office.arrives(plan)
    office.arrives(many[0])  # once more is no fault
    before = [one.digest for one in waiting(office.site)]
    with pytest.raises(NotApproved, match=f"{MOST_PENDING} plans of hub wait at north already"):
        office.arrives(many[-1])
    signature = sign(office.world.run.key(), PLAN_DOMAIN, many[-2].digest)
    code, message = office.answer(plan=many[-2].as_bytes(), signature=signature)
    assert (code, "is not approved" in message) == ("NotApproved", True)
    assert "a plan was not kept: 16 plans of hub wait" in office.world.log()
    assert [one.digest for one in waiting(office.site)] == before
    keep_pending(office.site, many[-1].as_bytes(), sign(lab, PLAN_DOMAIN, many[-1].digest))
    assert [one.coordinator for one in waiting(office.site)].count("lab") == 1
    drop_pending(office.site, many[0].digest)
    office.arrives(many[-2])
    assert len(waiting(office.site)) == MOST_PENDING + 1


def test_a_plan_that_waits_stays_the_plan_of_who_sent_it_first(office: Office) -> None:
    lab = second_coordinator(office)
    office.arrives()
    keep_pending(office.site, office.world.plan.as_bytes(), sign(lab, PLAN_DOMAIN, office.digest))
    assert [one.coordinator for one in waiting(office.site)] == ["hub"]
    office.world.allow("north", coordinators={"lab": public_hex(lab)})
    keep_pending(office.site, office.world.plan.as_bytes(), sign(lab, PLAN_DOMAIN, office.digest))
    assert [one.coordinator for one in waiting(office.site)] == ["lab"]  # the first is nobody now


def test_what_is_too_long_for_a_plan_is_not_kept(office: Office) -> None:
    data = b" " * (PLAN_BYTES + 1)
    with pytest.raises(ProtocolError, match="is not kept"):
        keep_pending(office.site, data, sign(office.world.run.key(), PLAN_DOMAIN, sha256_hex(data)))


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"\xff" * 1000, json.dumps({"format": 1}).encode()])
def test_what_is_no_plan_waits_unread_and_is_never_approved(
    office: Office, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    signature = sign(office.world.run.key(), PLAN_DOMAIN, sha256_hex(data))
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "from_bytes", lambda *_: pytest.fail("parsed"))
        office.answer(plan=data, signature=signature)
    (found,) = waiting(office.site)
    with pytest.raises(PlanChanged):
        read_plan(found)
    with pytest.raises(PlanChanged):
        office.propose(found.digest)


def test_a_plan_of_a_coordinator_that_the_policy_no_longer_names_is_nobodys(office: Office) -> None:
    office.arrives()
    office.world.allow("north", coordinators={})
    (found,) = waiting(office.site)
    assert found.coordinator == ""
    with pytest.raises(NotApproved, match="signed by no coordinator"):
        pending_plan(office.site, office.digest)


@pytest.mark.parametrize("damage", ["missing", "not ASCII", "another"])
def test_a_plan_without_its_signature_is_nobodys(office: Office, damage: str) -> None:
    office.arrives()
    path = office.site.folder / "pending" / f"{office.digest}.sig"
    {
        "missing": path.unlink,
        "not ASCII": lambda: path.write_bytes(b"\xff" * 128),
        "another": lambda: path.write_text("ab" * 64),
    }[damage]()
    with pytest.raises(NotApproved, match="signed by no coordinator"):
        office.propose()


def test_a_pending_folder_that_is_busy_makes_no_fault(office: Office) -> None:
    office.arrives()
    drop_pending(office.site, office.digest)
    with exclusively(office.site.folder / "pending"):
        assert office.answer()[0] == "NotApproved"
    assert "a plan was not kept" in office.world.log()
    assert waiting(office.site) == []


def test_a_disk_that_is_full_makes_no_fault(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise FolderError("no space left")

    monkeypatch.setattr("undertone_client.approval.pending.write_durable", full)
    assert office.answer() == ("NotApproved", f"plan {office.digest[:8]} is not approved at north")
    assert "no space left" in office.world.log()
