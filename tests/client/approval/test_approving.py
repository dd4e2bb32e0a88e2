"""A plan is approved whole or not at all, and everything that is wrong with it is found before a person is asked."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.client.approval.conftest import Office
from tests.support.approvals import DATA, HUB, OPERATOR
from tests.support.failpoints import Killed, kill_before
from tests.support.world import data_of
from undertone.core.keys import PLAN_DOMAIN, public_hex, sign
from undertone.core.settings_file import settings_toml
from undertone.errors import (
    BudgetExceeded,
    DataError,
    FolderError,
    InputError,
    NotApproved,
    PlanChanged,
    UnderstatedClaim,
)
from undertone.study.plan import Plan
from undertone_client.approval import approving
from undertone_client.approval.approvals import approval_of
from undertone_client.approval.approving import approve, free_expired, withdraw
from undertone_client.approval.books import Standing
from undertone_client.approval.pending import keep_pending, waiting
from undertone_client.approval.proposing import propose, requested, write_request
from undertone_client.site.datasets import DataSet


def changed(plan: Plan, *path: str, value: Any) -> Plan:
    """The plan with one field changed."""
    data = plan.model_dump(mode="json")
    table = data
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = value
    return Plan.model_validate(data)


def test_an_approved_plan_is_answered(office: Office) -> None:
    assert office.answer() == ("NotApproved", f"plan {office.digest[:8]} is not approved at north")
    approval = office.approve()
    assert office.answer() == ("", "")
    assert (approval.document.operator, approval.document.data_set) == (OPERATOR, DATA)
    assert approval.document.until == str(office.now.date() + timedelta(days=90))
    assert approval.approved == "2026-11-29T12:00:00Z"
    assert approval.plan_approved() == office.world.plan
    assert office.books.calls == [("reserve", office.digest)]
    assert waiting(office.site) == []
    assert approval_of(office.site, office.digest) == approval


def test_what_was_shown_is_kept(office: Office) -> None:
    office.arrives()
    proposal = office.propose()
    assert proposal.document.page == office.approve().document.page
    assert "WHAT IT COSTS ONE PATIENT" in proposal.document.page


def test_a_proposal_changes_nothing(office: Office) -> None:
    office.arrives()
    office.propose()
    assert office.nothing_is_approved()
    assert office.books.calls == []
    assert [one.digest for one in waiting(office.site)] == [office.digest]


def test_a_plan_is_approved_once(office: Office) -> None:
    office.arrives()
    office.approve()
    office.arrives()
    with pytest.raises(InputError, match=r"is approved until 2027-02-27; there is nothing to do"):
        office.propose()


# name -> what of the policy changed since the plan was approved; none of it stands in the way of a new approval
HONOURED_NO_MORE: dict[str, Callable[[Office], Any]] = {
    "the coordinator has another key": lambda office: office.world.allow("north", coordinators=other_key(office)),
    "another federation": lambda office: (office.world.allow("north", federations={HUB: "ab" * 32}), office.arrives()),
    "a shorter longest day": lambda office: (
        office.world.allow("north", longest_approval_days=2),
        setattr(office, "now", office.now + timedelta(days=3)),
        office.arrives(),
    ),
    "no reservation": lambda office: (office.books.reserved.clear(), office.arrives()),
}


def other_key(office: Office) -> dict[str, str]:
    """The plan comes again, signed by a coordinator whose key is new."""
    key = Ed25519PrivateKey.generate()
    office.world.allow("north", coordinators={"hub": public_hex(key)})
    keep_pending(office.site, office.world.plan.as_bytes(), sign(key, PLAN_DOMAIN, office.digest))
    return {"hub": public_hex(key)}


@pytest.mark.parametrize("case", HONOURED_NO_MORE)
def test_a_plan_whose_approval_is_honoured_no_more_is_approved_anew(office: Office, case: str) -> None:
    office.arrives()
    office.approve()
    HONOURED_NO_MORE[case](office)
    assert office.approve() == approval_of(office.site, office.digest)
    assert set(office.books.reserved) == {office.digest}
    with pytest.raises(InputError, match="there is nothing to do"):
        office.propose()


# --- what is found before a person is asked -------------------------------------------------------

# name -> the change of plan or site; the error and its words
Change = Callable[[Office], Plan | None]
WRONG: dict[str, tuple[Change, type[Exception], str]] = {
    "an understated epsilon": (
        lambda office: changed(office.world.plan, "privacy", "epsilon", value=0.01),
        UnderstatedClaim,
        r"claims epsilon 0\.01 .* its mechanism gives",
    ),
    "an understated RDP": (
        lambda office: changed(office.world.plan, "privacy", "epsilon_rdp", value=0.01),
        UnderstatedClaim,
        r"RDP 0\.01",
    ),
    "another version": (lambda office: changed(office.world.plan, "package", value="99.0"), PlanChanged, "99.0"),
    "another protocol": (lambda office: changed(office.world.plan, "protocol", value=9), PlanChanged, "protocol 9"),
    "other code": (
        lambda office: changed(office.world.plan, "package_sha256", value="0" * 64),
        PlanChanged,
        "other code",
    ),
    "another roster": (
        lambda office: changed(office.world.plan, "cohort", "units", value={"east": 4, "south": 5}),
        NotApproved,
        "north is not on the roster",
    ),
    "another figure": (
        lambda office: changed(office.world.plan, "cohort", "units", value={"north": 300, "east": 4, "south": 5}),
        NotApproved,
        "counts 300 units at north, which publishes 3",
    ),
    "another unit": (
        lambda office: Plan.model_validate(
            changed(office.world.plan, "privacy", "unit", value="record").model_dump()
            | {"data": {"unit_column": None, "caption": "a {token}"}}
        ),
        NotApproved,
        f"protects each record, the data set {DATA} each patient that the column patient_id names, which is fixed for",
    ),
    "another unit column": (
        lambda office: changed(office.world.plan, "data", "unit_column", value="finding"),
        NotApproved,
        f"the column finding names, the data set {DATA} each patient that the column patient_id names",
    ),
    "a caption that is none": (
        lambda office: changed(office.world.plan, "data", "caption", value="a {token"),
        PlanChanged,
        "is not a template",
    ),
    "a policy that was tightened": (
        lambda office: office.world.allow("north", methods=[], fewest_sites=3),
        NotApproved,
        "methods: the plan says dummy.* fewest_sites: the plan says 2",
    ),
    "a policy without a longest day": (
        lambda office: office.world.allow("north", longest_approval_days=None),
        NotApproved,
        "longest_approval_days",
    ),
    "a budget that is used up": (
        lambda office: setattr(office.books, "cap", 0.5),
        BudgetExceeded,
        "above the cap",
    ),
    "no coordinator any more": (
        lambda office: office.world.allow("north", coordinators={}),
        NotApproved,
        "signed by no coordinator",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_found_before_a_person_is_asked(office: Office, case: str) -> None:
    change, error, words = WRONG[case]
    office.arrives()
    plan = change(office)
    digest = office.arrives(plan) if plan is not None else office.digest
    with pytest.raises(error, match=words):
        office.propose(digest)
    assert office.nothing_is_approved()


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"data": "none"}, NotApproved, "north has no data set none"),
        ({"operator": " "}, InputError, "--operator"),
        ({"operator": "A\nB"}, InputError, "--operator"),
        ({"operator": "A" * 300}, InputError, "--operator"),
        ({"operator": "Ops/1"}, InputError, "--operator"),
        ({"operator": "2nd shift"}, InputError, "--operator"),
        ({"until": date(2026, 11, 28)}, InputError, "is over"),
        ({"until": date(2027, 2, 28)}, InputError, "name a day up to 2027-02-27"),
        ({"digest": "0" * 64}, FolderError, "no plan 00000000 waits"),
    ],
)
def test_what_the_operator_says_is_checked(office: Office, wrong: Any, error: type[Exception], words: str) -> None:
    office.arrives()
    with pytest.raises(error, match=words):
        office.propose(**wrong)


def test_a_plan_that_was_changed_where_it_waits_is_not_approved(office: Office) -> None:
    office.arrives()
    path = office.site.folder / "pending" / f"{office.digest}.json"
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(FolderError, match="not the plan that was signed"):
            office.propose()


# --- all or nothing -------------------------------------------------------------------------------


def test_bad_records_end_an_approval_before_anything_is_reserved(office: Office) -> None:
    office.arrives()
    path = office.world.folder / "data" / "north" / "metadata.csv"
    path.write_text(path.read_text(encoding="utf-8") + "missing.png,patient-9,clear\n", encoding="utf-8")
    with pytest.raises(DataError):
        office.approve()
    assert office.nothing_is_approved()
    assert office.books.calls == []


def test_a_budget_that_was_taken_in_between_ends_an_approval(office: Office) -> None:
    office.arrives()
    proposal = office.propose()
    office.books.reserved["another"] = 9.5
    with pytest.raises(BudgetExceeded):
        approve(office.site, proposal, office.books, office.now)
    assert approval_of(office.site, office.digest) is None
    assert office.answer()[0] == "NotApproved"


@pytest.mark.parametrize("step", ["register", "keep_approval", "drop_pending"])
def test_whoever_dies_in_between_leaves_no_half_approval(
    office: Office, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    office.arrives()
    with monkeypatch.context() as patch:
        kill_before(patch, approving, step)
        with pytest.raises(Killed):
            office.approve()
    done = step == "drop_pending"
    assert (approval_of(office.site, office.digest) is not None) is done
    assert office.answer()[0] == ("" if done else "NotApproved")
    if not done:
        office.approve()  # the same command again finishes what was begun
        assert office.answer() == ("", "")
    assert set(office.books.reserved) == {office.digest}


def test_what_a_killed_approval_reserved_can_be_freed(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.arrives()
    with monkeypatch.context() as patch:
        kill_before(patch, approving, "keep_approval")
        with pytest.raises(Killed):
            office.approve()
    withdraw(office.site, office.digest, office.books, office.now)
    assert office.books.reserved == {}


# --- withdrawal and expiry ------------------------------------------------------------------------


def test_a_withdrawn_plan_is_refused_for_good(office: Office) -> None:
    office.arrives()
    office.approve()
    withdraw(office.site, office.digest, office.books, office.now)
    assert office.books.calls[-1] == ("withdrawn", office.digest)
    assert office.answer() == (
        "NotApproved",
        f"plan {office.digest[:8]} was withdrawn at north; the study must be planned anew",
    )
    office.arrives()
    with pytest.raises(NotApproved, match="was withdrawn for good"):
        office.propose()
    withdraw(office.site, office.digest, office.books, office.now)  # once more is no fault


def test_a_node_refuses_before_the_budget_is_free(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.arrives()
    office.approve()
    with monkeypatch.context() as patch:
        kill_before(patch, office.books, "free")
        with pytest.raises(Killed):
            withdraw(office.site, office.digest, office.books, office.now)
    assert office.answer()[0] == "NotApproved"
    assert office.books.reserved
    withdraw(office.site, office.digest, office.books, office.now)
    assert not office.books.reserved


def test_what_was_never_approved_cannot_be_withdrawn(office: Office) -> None:
    with pytest.raises(NotApproved):
        withdraw(office.site, office.digest, office.books, office.now)


def test_a_plan_withdrawn_while_a_person_reads_is_not_approved(office: Office) -> None:
    office.arrives()
    proposal = office.propose()
    approve(office.site, proposal, office.books, office.now)
    withdraw(office.site, office.digest, office.books, office.now)
    with pytest.raises(NotApproved, match="withdrawn"):
        approve(office.site, proposal, office.books, office.now)


def test_an_approval_holds_to_the_end_of_its_last_day(office: Office) -> None:
    office.arrives()
    office.approve(until=date(2026, 12, 1))
    office.now = office.now.replace(month=12, day=1, hour=23, minute=59)
    assert office.answer() == ("", "")
    assert free_expired(office.site, office.books, office.now) == []
    office.now += timedelta(minutes=1)
    code, message = office.answer()
    assert (code, "held until 2026-12-01" in message) == ("NotApproved", True)
    assert office.books.reserved
    assert [one.document.digest for one in free_expired(office.site, office.books, office.now)] == [office.digest]
    assert office.books.reserved == {}


def test_an_expired_plan_can_be_approved_again(office: Office) -> None:
    office.arrives()
    office.approve(until=date(2026, 12, 1))
    office.now += timedelta(days=30)
    free_expired(office.site, office.books, office.now)
    office.arrives()
    office.approve()
    assert office.answer() == ("", "")
    assert office.books.calls == [("reserve", office.digest), ("expired", office.digest), ("reserve", office.digest)]


# --- what a node checks again ---------------------------------------------------------------------


def test_another_coordinator_cannot_use_an_approval(office: Office) -> None:
    office.arrives()
    office.approve()
    lab = Ed25519PrivateKey.generate()
    hub = office.site.policy.coordinators["hub"]
    office.world.allow("north", coordinators={"hub": hub, "lab": public_hex(lab)})
    signature = sign(lab, PLAN_DOMAIN, office.digest)
    code, message = office.answer(signature=signature)
    assert (code, "approved at north for another coordinator" in message) == ("NotApproved", True)
    assert office.answer() == ("", "")


def test_a_coordinator_with_a_new_key_asks_again(office: Office) -> None:
    """The name in policy.toml is the site's own word; what was approved is the key."""
    office.arrives()
    office.approve()
    other = Ed25519PrivateKey.generate()
    office.world.allow("north", coordinators={"hub": public_hex(other)})
    assert office.answer(signature=sign(other, PLAN_DOMAIN, office.digest))[0] == "NotApproved"


def test_a_second_coordinator_is_served_too(office: Office) -> None:
    lab, hub = Ed25519PrivateKey.generate(), office.site.policy.coordinators["hub"]
    office.world.allow("north", coordinators={"hub": hub, "lab": public_hex(lab)})
    signature = sign(lab, PLAN_DOMAIN, office.digest)
    keep_pending(office.site, office.world.plan.as_bytes(), signature)
    assert office.approve().document.coordinator == "lab"
    assert office.answer(signature=signature) == ("", "")
    assert office.answer()[0] == "NotApproved"


TIGHTER: dict[str, dict[str, Any]] = {
    "methods": {"methods": []},
    "models": {"models": []},
    "noise": {"noise": ["distributed"]},
    "largest_sampling_rate": {"largest_sampling_rate": 0.4},
    "largest_rounds": {"largest_rounds": 2},
    "fewest_sites": {"fewest_sites": 4},
    "fewest_patients": {"fewest_patients": 13},
    "fewest_honest_shares": {"fewest_honest_shares": 3},
}


@pytest.mark.parametrize("key", TIGHTER)
def test_a_policy_that_was_tightened_stops_an_approved_plan(secure_office: Office, key: str) -> None:
    secure_office.arrives()
    secure_office.approve()
    secure_office.world.allow("north", **TIGHTER[key])
    code, message = secure_office.answer()
    assert (code, f": {key}: the plan says" in message) == ("NotApproved", True)


def test_an_approval_lasts_no_longer_than_the_policy_of_now_allows(office: Office) -> None:
    office.arrives()
    office.approve()
    office.now += timedelta(days=30)
    office.world.allow("north", longest_approval_days=30)
    assert office.answer() == ("", "")
    office.world.allow("north", longest_approval_days=29)
    code, message = office.answer()
    assert (code, "approved at north on 2026-11-29, and longest_approval_days of policy.toml is 29 now" in message) == (
        "NotApproved",
        True,
    )
    office.now -= timedelta(days=30)
    assert office.answer() == ("", "")
    office.world.allow("north", longest_approval_days=None)
    assert "is not said now" in office.answer()[1]


def test_a_node_that_runs_on_knows_the_policy_of_now(office: Office) -> None:
    office.arrives()
    office.approve()
    node, request = office.node(), office.world.request()
    assert node.handle(request).error == ""
    office.world.allow("north", methods=[])
    assert node.handle(request).error == "NotApproved"
    (office.site.folder / "policy.toml").write_text("allow = everything", encoding="utf-8")
    reply = node.handle(request)
    assert (reply.error, reply.message) == (
        "SiteFault",
        "the site cannot take part now; its operator finds why in node.log",
    )


def test_a_data_set_that_changed_its_unit_stops_an_approved_plan(office: Office) -> None:
    office.arrives()
    office.approve()
    path = office.site.folder / "datasets" / f"{DATA}.toml"
    data = DataSet(name=DATA, folder="x", unit="record", publish=3, epsilon=1.0, delta=1e-5)
    path.write_bytes(settings_toml(data))
    assert "fixed for life" in office.answer()[1]
    path.unlink()
    assert office.answer() == ("NotApproved", f"north has no data set {DATA}; `undertone node data list` shows them")


def test_no_byte_of_an_approval_can_change(office: Office) -> None:
    office.arrives()
    office.approve()
    path = office.site.folder / "approved" / f"{office.digest}.json"
    data = path.read_bytes()
    for place in range(0, len(data), 53):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(FolderError, match="damaged"):
            approval_of(office.site, office.digest)
    assert office.answer()[0] == "SiteFault"
    other = "0" * 64
    path.with_name(f"{other}.json").write_bytes(data)
    with pytest.raises(FolderError, match="damaged"):
        approval_of(office.site, other)


def test_an_approval_of_another_site_is_none(office: Office) -> None:
    """Whoever can write a file into approved/ has not the site's secret, under which approvals are sealed."""
    office.arrives()
    office.approve()
    path = office.site.folder / "approved" / f"{office.digest}.json"
    path.write_bytes((office.world.sites["east"] / "approved" / path.name).read_bytes())
    with pytest.raises(FolderError, match="damaged"):
        approval_of(office.site, office.digest)


# --- approvers ------------------------------------------------------------------------------------


@pytest.fixture
def dean(office: Office) -> Ed25519PrivateKey:
    """The key of the one who must sign at north; the plan waits."""
    key = Ed25519PrivateKey.generate()
    office.world.allow("north", approvers={"dean": public_hex(key)})
    office.arrives()
    return key


def test_a_signature_by_a_named_approver_approves(office: Office, dean: Ed25519PrivateKey) -> None:
    document = write_request(office.site, office.propose())
    kept = (office.site.folder / "pending" / f"{office.digest}.request").read_bytes()
    assert kept == document.as_bytes()
    signature = dean.sign(kept).hex()  # as `openssl pkeyutl -sign -rawin` makes it
    proposal = requested(office.site, office.digest, DATA, office.books, office.now + timedelta(days=3))
    approval = approve(office.site, proposal, office.books, office.now + timedelta(days=3), signature)
    assert (approval.approver, approval.signature) == ("dean", signature)
    assert office.answer() == ("", "")
    assert not list((office.site.folder / "pending").iterdir())


@pytest.mark.parametrize("case", ["none", "a stranger's", "over the digest", "over another page", "over another plan"])
def test_without_a_named_approvers_signature_nothing_is_approved(
    office: Office, dean: Ed25519PrivateKey, case: str
) -> None:
    proposal = office.propose()
    document = proposal.document
    signature = {
        "none": "",
        "a stranger's": Ed25519PrivateKey.generate().sign(document.as_bytes()).hex(),
        "over the digest": dean.sign(document.digest.encode()).hex(),
        "over another page": dean.sign(document.model_copy(update={"page": "nothing"}).as_bytes()).hex(),
        "over another plan": dean.sign(document.model_copy(update={"digest": "0" * 64}).as_bytes()).hex(),
    }[case]
    with pytest.raises(NotApproved, match=r"approvers \(dean\), and none of them has signed this approval"):
        approve(office.site, proposal, office.books, office.now, signature)
    assert office.nothing_is_approved()


def test_an_approver_who_left_takes_what_he_signed_with_him(office: Office, dean: Ed25519PrivateKey) -> None:
    proposal = office.propose()
    approve(office.site, proposal, office.books, office.now, dean.sign(proposal.document.as_bytes()).hex())
    assert office.answer() == ("", "")
    office.world.allow("north", approvers={"chair": public_hex(Ed25519PrivateKey.generate())})
    code, message = office.answer()
    assert (code, "approvers (chair)" in message) == ("NotApproved", True)


def test_an_approval_from_before_there_were_approvers_needs_their_signature(office: Office) -> None:
    office.arrives()
    office.approve()
    office.world.allow("north", approvers={"chair": public_hex(Ed25519PrivateKey.generate())})
    assert office.answer()[0] == "NotApproved"


@pytest.mark.parametrize(
    ("changes", "data", "error"),
    [
        ({"site": "east"}, DATA, NotApproved),
        ({"digest": "0" * 64}, DATA, NotApproved),
        ({"coordinator_key": "0" * 64}, DATA, NotApproved),
        ({"coordinator": "lab"}, DATA, NotApproved),
        ({"data_set": "others"}, "others", NotApproved),
        ({}, "others", InputError),
        ({"until": "2030-01-01"}, DATA, InputError),
        ({"until": "2026-02-31"}, DATA, FolderError),
        ({"operator": "Somebody Else"}, DATA, NotApproved),
        ({"price": 0.001}, DATA, NotApproved),
        ({"before": Standing(0.0, 0.0, 99.0)}, DATA, NotApproved),
        ({"after": Standing(0.0, 0.0, 10.0)}, DATA, NotApproved),
        ({"federation": "0" * 64}, DATA, NotApproved),
        ({"registered_before": True}, DATA, NotApproved),
        ({"page": "Nothing is learned, and nothing leaves."}, DATA, NotApproved),
    ],
)
def test_a_request_that_was_changed_is_refused_whoever_signed_it(
    office: Office, dean: Ed25519PrivateKey, changes: dict[str, Any], data: str, error: type[Exception]
) -> None:
    proposal = office.propose()
    write_request(office.site, replace(proposal, document=proposal.document.model_copy(update=changes)))
    if "digest" in changes:
        folder = office.site.folder / "pending"
        (folder / f"{changes['digest']}.request").rename(folder / f"{office.digest}.request")
    with pytest.raises(error):
        requested(office.site, office.digest, data, office.books, office.now)


def test_a_request_is_checked_against_the_policy_of_today(office: Office, dean: Ed25519PrivateKey) -> None:
    with pytest.raises(FolderError, match="no request for plan"):
        requested(office.site, office.digest, DATA, office.books, office.now)
    write_request(office.site, office.propose())
    with pytest.raises(InputError, match="is over"):
        requested(office.site, office.digest, DATA, office.books, office.now + timedelta(days=91))
    office.world.allow("north", methods=[])
    with pytest.raises(NotApproved, match="methods"):
        requested(office.site, office.digest, DATA, office.books, office.now)


# name -> what changes after the page was shown, and what the refusal names
MEANWHILE: dict[str, tuple[Callable[[Office], Any], str]] = {
    "another plan took of the budget": (
        lambda office: office.books.reserved.update({"another": 1.0}),
        "before, after, page",
    ),
    "the price": (lambda office: office.books.prices.update({office.digest: 2.0}), "price, after, page"),
    "the federation": (lambda office: office.world.allow("north", federations={HUB: "ab" * 32}), "federation, page"),
    "the name of the coordinator": (
        lambda office: office.world.allow("north", coordinators={"centre": office.site.policy.coordinators["hub"]}),
        "coordinator, page",
    ),
    "the folder of the images": (
        lambda office: (office.site.folder / "datasets" / f"{DATA}.toml").write_bytes(
            settings_toml(data_of(office.site).model_copy(update={"folder": "/elsewhere"}))
        ),
        "page",
    ),
}


@pytest.mark.parametrize("case", MEANWHILE)
def test_what_changed_while_a_person_read_or_signed_ends_an_approval(office: Office, case: str) -> None:
    office.arrives()
    shown = office.propose()
    write_request(office.site, shown)
    change, named = MEANWHILE[case]
    change(office)
    words = rf"nothing was approved \({named} changed since\)"
    with pytest.raises(NotApproved, match=words):
        approve(office.site, shown, office.books, office.now)
    with pytest.raises(NotApproved, match=words):
        requested(office.site, office.digest, DATA, office.books, office.now)
    assert approval_of(office.site, office.digest) is None
    assert not (office.site.folder / "registered").exists()
    assert office.digest not in office.books.reserved
    assert office.propose().document != shown.document  # what is to be read and signed instead


def test_a_page_that_was_signed_before_an_earlier_approval_registered_is_not_believed(
    office: Office, dean: Ed25519PrivateKey
) -> None:
    write_request(office.site, office.propose(until=date(2027, 1, 31)))
    request = office.site.folder / "pending" / f"{office.digest}.request"
    kept = request.read_bytes()
    proposal = office.propose(until=date(2026, 12, 1))
    approve(office.site, proposal, office.books, office.now, dean.sign(proposal.document.as_bytes()).hex())
    office.now += timedelta(days=30)
    free_expired(office.site, office.books, office.now)
    office.arrives()
    request.write_bytes(kept)
    with pytest.raises(NotApproved, match=r"\(registered before, page changed since\)"):
        requested(office.site, office.digest, DATA, office.books, office.now)


def test_a_page_says_that_an_earlier_approval_registered_the_records(office: Office) -> None:
    office.arrives()
    assert "as they are registered at this approval" in flat(office.approve(until=date(2026, 12, 1)).document.page)
    office.now += timedelta(days=30)
    free_expired(office.site, office.books, office.now)
    office.arrives()
    page = flat(office.approve().document.page)
    assert "as an earlier approval of this plan registered them, which is kept" in page
    assert "at this approval" not in page


def test_another_federation_than_the_one_that_was_approved_stops_the_plan(office: Office) -> None:
    office.arrives()
    approved = office.approve().document.federation
    assert approved == office.site.policy.federations[HUB]
    for other, words in (("ab" * 32, "the federation.json abababab"), (None, "no federation.json")):
        office.world.allow("north", federations={HUB: other} if other else {})
        code, message = office.answer()
        assert (code, f"policy.toml pins {words} now" in message) == ("NotApproved", True)
    office.world.allow("north", federations={HUB: approved})
    assert office.answer() == ("", "")


def flat(text: str) -> str:
    return " ".join(text.split())


def test_propose_takes_a_clock(office: Office) -> None:
    office.arrives()
    early = propose(office.site, office.digest, DATA, OPERATOR, None, office.books, office.now - timedelta(days=10))
    assert early.document.until == "2027-02-17"
