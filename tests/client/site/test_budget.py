"""The budget of a data set, for ever, in a site's ledger (PRIVACY 13)."""

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.approvals import DATA, HUB, approved
from tests.support.failpoints import Killed, at
from tests.support.site_budget import DELTA, SUM, UNITS, data_set, new_ledger, varied, whole_cap
from tests.support.world import World, data_of, make_plan
from undertone.core.keys import PLAN_DOMAIN, public_hex, sign
from undertone.errors import (
    BudgetExceeded,
    FolderError,
    InputError,
    LedgerCorrupt,
    LedgerRestored,
    MechanismViolation,
    NotApproved,
    PlanChanged,
    ReplayedAttempt,
    UndertoneError,
)
from undertone.privacy.accounting import GaussianEvent
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone.study.stage import Stage
from undertone_client.registration.registered import register
from undertone_client.site.accounts import Accounts
from undertone_client.site.budget import Budget, charge, free, lose, price, register_cap, reserve
from undertone_client.site.folder import SiteDir
from undertone_client.site.rollback import ledger_head_of, refuse_older
from undertone_server.run_folder import RunFolder

Make = Callable[..., World]


@pytest.fixture
def plan(dummy_base: Path, dummy_method: None) -> Plan:
    """Four attempts at two rounds."""
    del dummy_method
    return make_plan(dummy_base, UNITS, rounds=2, max_attempts=4, sigma=4096, sampling_rate=0.9)


@pytest.fixture
def ledger(tmp_path: Path, plan: Plan) -> Iterator[Ledger]:
    """Of a site whose one data set holds the plan and no more."""
    with new_ledger(tmp_path / "ledger.sqlite") as opened:
        register_cap(opened, data_set(price(plan)))
        yield opened


def again(ledger: Ledger) -> Ledger:
    return Ledger.open(ledger._path)


def kinds(ledger: Ledger) -> list[str]:
    return [entry.kind for entry in ledger.entries()]


# --- what is spent, reserved and left ---------------------------------------------------------------


def test_a_plan_reserves_all_it_may_charge_and_frees_what_it_did_not(ledger: Ledger, plan: Plan) -> None:
    data = data_set(price(plan))
    new = Budget.of(ledger, data)
    assert (new.name, new.unit, new.epsilon, new.delta) == ("chest", "patient", price(plan), DELTA)
    assert (new.spent, new.reserved, new.committed, new.studies) == (0.0, 0.0, 0.0, ())
    assert 0.9 * new.epsilon < new.left < new.epsilon

    planned = Budget.of(ledger, data, plan)
    assert kinds(ledger) == ["open", "data set"]
    reserve(ledger, plan, "chest")
    reserved = Budget.of(ledger, data)
    assert reserved == planned == Budget.of(ledger, data, plan)
    with pytest.raises(BudgetExceeded):
        Budget.of(ledger, data, varied(plan, "second"))
    assert reserved.spent == 0.0
    assert new.epsilon - 0.001 < reserved.reserved == reserved.committed <= new.epsilon
    assert reserved.left < 0.03

    charge(ledger, plan, 1, 1, SUM)
    charge(ledger, plan, 1, 2, SUM)  # the first was void: its vector had left
    under_way = Budget.of(ledger, data)
    assert 0 < under_way.spent < reserved.committed
    assert under_way.committed == reserved.committed
    (study,) = under_way.studies
    assert (study.digest, study.attempts, study.charged, study.freed) == (plan.digest, 4, 2, None)
    assert study.spent == under_way.spent
    assert study.reserved == under_way.reserved == study.spent

    free(ledger, plan.digest, "ended")
    ended = Budget.of(ledger, data)
    assert ended.spent == ended.committed == under_way.spent
    assert ended.reserved == ended.studies[0].reserved == 0.0
    assert ended.studies[0].freed == "ended"
    assert reserved.left < ended.left < new.left
    assert Budget.of(ledger, data, plan).studies == (replace(study, freed=None),)
    with again(ledger) as opened:
        assert Budget.of(opened, data) == ended
        assert Budget.of_all(opened) == [ended]


def test_the_price_is_the_least_cap_in_thousandths_that_holds_the_plan(tmp_path: Path, plan: Plan) -> None:
    assert plan.privacy.epsilon_rdp < price(plan) < 1.1 * plan.privacy.epsilon_rdp
    assert price(plan, 1e-6) > price(plan) == price(plan, DELTA)
    for name, epsilon in (("enough", price(plan)), ("less", price(plan) - 0.001)):
        with new_ledger(tmp_path / name) as ledger:
            register_cap(ledger, data_set(epsilon))
            if name == "enough":
                reserve(ledger, plan, "chest")
            else:
                with pytest.raises(BudgetExceeded, match="above the cap"):
                    reserve(ledger, plan, "chest")
                assert kinds(ledger) == ["open", "data set"]


RARE = {"sampling_rate": 0.05, "rounds": 90, "max_attempts": 100}


@pytest.mark.parametrize("second", [{"sigma": 6000, "sampling_rate": 1.0}, RARE])
def test_two_studies_that_claim_the_cap_together_pass_and_a_thousandth_more_is_refused(
    tmp_path: Path, plan: Plan, second: dict[str, Any]
) -> None:
    other = varied(plan, "second", **second)
    epsilon = whole_cap(plan, other)
    assert epsilon < price(plan) + price(other)
    for first, last in ((plan, other), (other, plan)):
        with new_ledger(tmp_path / f"{first.study} first") as ledger:
            register_cap(ledger, data_set(epsilon))
            reserve(ledger, first, "chest")
            reserve(ledger, last, "chest")
            assert epsilon - 0.001 <= Budget.of_all(ledger)[0].committed <= epsilon
        with new_ledger(tmp_path / f"{first.study} first, too much") as ledger:
            register_cap(ledger, data_set(epsilon - 0.001))
            reserve(ledger, first, "chest")
            with pytest.raises(BudgetExceeded, match=rf"{epsilon:.3f}, above the cap"):
                reserve(ledger, last, "chest")


def test_data_sets_have_budgets_of_their_own(ledger: Ledger, plan: Plan) -> None:
    register_cap(ledger, data_set(1.0, "knees"))
    reserve(ledger, plan, "chest")
    charge(ledger, plan, 1, 1, SUM)
    chest, knees = Budget.of_all(ledger)
    assert (chest.name, knees.name) == ("chest", "knees")
    assert chest.spent > 0 == knees.committed
    with pytest.raises(BudgetExceeded, match="cap of epsilon 1 at"):
        reserve(ledger, varied(plan, "second"), "knees")
    with pytest.raises(PlanChanged, match="on the data set chest"):
        reserve(ledger, plan, "knees")


# --- one cap for all, for ever ----------------------------------------------------------------------


@pytest.mark.parametrize("who", ["renamed", "another-coordinators", "a-second-users"])
@pytest.mark.parametrize("used", ["reserved", "spent"])
def test_nobody_gets_a_fresh_budget(ledger: Ledger, plan: Plan, who: str, used: str) -> None:
    """A plan is a digest, its event and its attempts: whose it is and what it is called changes nothing."""
    reserve(ledger, plan, "chest")
    if used == "spent":
        for attempt in range(1, 5):
            charge(ledger, plan, 1, attempt, SUM)
        free(ledger, plan.digest, "ended")
    other = varied(plan, who, rounds=1, max_attempts=1)
    with again(ledger) as opened, pytest.raises(BudgetExceeded, match="above the cap"):
        reserve(opened, other, "chest")
    with pytest.raises(NotApproved, match="reserved nothing"):
        charge(ledger, other, 1, 1, SUM)


def test_another_coordinators_study_meets_the_budget_that_an_earlier_one_used_up(make_world: Make) -> None:
    """The site knows the second coordinator and lists its plan: the ledger alone refuses."""
    world = make_world()
    assert world.ask("prepare").error == world.ask("plain_input").error == ""
    site = SiteDir(world.sites["north"])
    with Ledger.open(site.ledger) as ledger:
        free(ledger, world.plan.digest, "ended")
    other = varied(world.plan, "another")
    run = RunFolder.create(world.folder / "other", other, {})
    policy = site.folder / "policy.toml"
    policy.write_text(policy.read_text().replace(site.policy.coordinators[HUB], public_hex(run.key())))
    site = SiteDir(site.folder)
    approved(site, other)
    with Ledger.open(site.ledger) as ledger, pytest.raises(BudgetExceeded):
        reserve(ledger, other, DATA)
    signed = {"plan": other.as_bytes(), "signature": sign(run.key(), PLAN_DOMAIN, other.digest)}
    register(site, other, data_of(site))
    for kind in ("prepare", "plain_input"):
        reply = world.ask(kind, **signed)
        assert (reply.error, reply.words) == ("NotApproved", None)
        assert "holds no reservation" in reply.message
    with Ledger.open(site.ledger) as ledger, pytest.raises(NotApproved, match="reserved nothing"):
        charge(ledger, other, 1, 1, "ab" * 32)


def test_a_second_registration_gets_no_fresh_budget(ledger: Ledger, plan: Plan) -> None:
    for data in (data_set(price(plan)), data_set(50.0), data_set(50.0, unit="record", unit_column=None)):
        with pytest.raises(BudgetExceeded, match="for ever"):
            register_cap(ledger, data)
    assert kinds(ledger) == ["open", "data set"]
    with pytest.raises(InputError, match="admits no plan at all"):
        register_cap(ledger, data_set(1e-9, "small"))


def test_the_ledger_and_no_file_decides_on_unit_and_cap(ledger: Ledger, plan: Plan) -> None:
    with pytest.raises(FolderError, match="not in the ledger"):
        Budget.of(ledger, data_set(1.0, "knees"))
    for changed in ({"unit_column": "study_id"}, {"delta": 1e-6}, {"unit": "record", "unit_column": None}):
        with pytest.raises(FolderError, match="fixed for life"):
            Budget.of(ledger, data_set(price(plan), **changed))
    with pytest.raises(FolderError, match="fixed for life"):
        Budget.of(ledger, data_set(50.0))
    Budget.of(ledger, data_set(price(plan), folder="moved", publish=4))


def test_a_plan_that_protects_another_unit_is_refused(ledger: Ledger, plan: Plan) -> None:
    other_column = plan.model_copy(update={"data": plan.data.model_copy(update={"unit_column": "image_id"})})
    records = varied(plan, unit="record")
    records = records.model_copy(update={"data": plan.data.model_copy(update={"unit_column": None})})
    for other, words in ((other_column, "of the column image_id"), (records, "each record")):
        with pytest.raises(NotApproved, match=f"{words}; the budget of the data set chest counts each patient of the"):
            reserve(ledger, other, "chest")
    with pytest.raises(NotApproved, match="no data set knees"):
        reserve(ledger, plan, "knees")
    assert kinds(ledger) == ["open", "data set"]


# --- reserving, freeing and charging again ----------------------------------------------------------


def test_a_reservation_made_twice_is_one(ledger: Ledger, plan: Plan) -> None:
    for _ in range(2):
        reserve(ledger, plan, "chest")
    with again(ledger) as opened:
        reserve(opened, plan, "chest")
    charge(ledger, plan, 1, 1, SUM)
    reserve(ledger, plan, "chest")
    assert kinds(ledger) == ["open", "data set", "reserve", "charge"]


def test_freed_twice_is_freed_once(ledger: Ledger, plan: Plan) -> None:
    with pytest.raises(NotApproved, match="nothing to free"):
        free(ledger, plan.digest, "withdrawn")
    reserve(ledger, plan, "chest")
    free(ledger, plan.digest, "withdrawn\n" + "by the operator " * 1000)
    free(ledger, plan.digest, "expired")
    assert kinds(ledger) == ["open", "data set", "reserve", "free"]
    reason = Budget.of_all(ledger)[0].studies[0].freed
    assert reason is not None
    assert reason.startswith("withdrawn\\nby the operator")
    assert len(reason) < 3000


def test_a_plan_approved_again_reserves_what_it_has_not_charged(ledger: Ledger, plan: Plan) -> None:
    reserve(ledger, plan, "chest")
    charge(ledger, plan, 1, 1, SUM)
    free(ledger, plan.digest, "withdrawn")
    with pytest.raises(NotApproved, match="holds no reservation"):
        charge(ledger, plan, 1, 2, SUM)
    reserve(ledger, plan, "chest")
    for attempt in (2, 3, 4):
        charge(ledger, plan, 1, attempt, SUM)
    with pytest.raises(BudgetExceeded):
        charge(ledger, plan, 1, 5, SUM)
    (study,) = Budget.of_all(ledger)[0].studies
    assert (study.charged, study.attempts, study.reserved) == (4, 4, 0.0)
    free(ledger, plan.digest, "ended")
    with pytest.raises(BudgetExceeded):
        reserve(ledger, varied(plan, "second", max_attempts=1, rounds=1), "chest")


def test_what_may_be_charged_is_what_was_reserved(ledger: Ledger, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotApproved, match="reserved nothing"):
        charge(ledger, plan, 1, 1, SUM)
    reserve(ledger, plan, "chest")
    charge(ledger, plan, 1, 1, SUM)
    before = ledger.head
    with pytest.raises(ReplayedAttempt):
        charge(ledger, plan, 1, 1, SUM)
    monkeypatch.setattr(Stage, "event", GaussianEvent(8192, plan.privacy.sensitivity, 0.9, 1))
    with pytest.raises(MechanismViolation, match="no event of plan"):
        charge(ledger, plan, 1, 2, SUM)
    with pytest.raises(PlanChanged, match="with the events of its stages"):
        reserve(ledger, plan, "chest")
    monkeypatch.undo()
    assert ledger.head == before
    for attempt in (2, 3, 4):
        charge(ledger, plan, 1, attempt, SUM)
    more = varied(plan, max_attempts=5)
    monkeypatch.setattr(Plan, "digest", plan.digest)
    with pytest.raises(BudgetExceeded, match="reserved 4 charges"):
        charge(ledger, more, 1, 5, SUM)
    with pytest.raises(PlanChanged, match="reserved 4 attempts"):
        reserve(ledger, more, "chest")


def test_a_study_that_answers_a_round_once_is_held_to_it(ledger: Ledger, plan: Plan) -> None:
    free_lists = varied(plan, sampling_rate=1.0, sigma=8192)
    assert free_lists.once_per_round
    reserve(ledger, free_lists, "chest")
    charge(ledger, free_lists, 1, 1, SUM)
    with pytest.raises(ReplayedAttempt, match="in another attempt"):
        charge(ledger, free_lists, 1, 2, SUM)
    charge(ledger, free_lists, 2, 2, SUM)


@pytest.mark.parametrize("step", ["register", "reserve", "charge", "free"])
def test_what_dies_before_its_commit_was_never_there(tmp_path: Path, plan: Plan, step: str) -> None:
    path = tmp_path / "ledger.sqlite"
    steps: dict[str, Callable[[Ledger], Any]] = {
        "register": lambda ledger: register_cap(ledger, data_set(price(plan))),
        "reserve": lambda ledger: reserve(ledger, plan, "chest"),
        "charge": lambda ledger: charge(ledger, plan, 1, 1, SUM),
        "free": lambda ledger: free(ledger, plan.digest, "ended"),
    }
    new_ledger(path).close()
    for name, act in steps.items():
        if name == step:
            with Ledger.open(path) as ledger:
                before = ledger.head
                with pytest.raises(Killed), at("ledger/before commit"):
                    act(ledger)
            with Ledger.open(path) as ledger:
                assert ledger.head == before
        with Ledger.open(path) as ledger:
            act(ledger)
    with Ledger.open(path) as ledger:
        assert kinds(ledger) == ["open", "data set", "reserve", "charge", "free"]


# --- a ledger that somebody else wrote, or put back -------------------------------------------------


def forged(plan: Plan, **changes: Any) -> dict[str, Any]:
    body = {"digest": plan.digest, "data_set": "chest", "event": plan.stage_of(1).event.as_dict(), "attempts": 4}
    return body | changes


Forge = Callable[[Ledger, Plan], Any]
CAP = {"epsilon": 50.0, "delta": DELTA, "billionths": {"2": 10**9}}
FORGERIES: dict[str, tuple[Forge, str]] = {
    "a second cap": (
        lambda ledger, _: ledger.append(
            "data set", {"name": "chest", "unit": "patient", "unit_column": "patient_id", "cap": CAP}
        ),
        "registered twice",
    ),
    "weights above 1": (
        lambda ledger, _: ledger.append(
            "data set",
            {"name": "a", "unit": "site", "unit_column": None, "cap": CAP | {"billionths": {"2": 10**9, "3": 1}}},
        ),
        "more than one delta",
    ),
    "a cap without weights": (
        lambda ledger, _: ledger.append("data set", {"name": "a", "unit": "site", "unit_column": None, "cap": {}}),
        "a cap has the keys",
    ),
    "no data set": (lambda ledger, _: ledger.append("data set", {"name": "a"}), "registers no data set"),
    "a reservation on nothing": (
        lambda ledger, plan: ledger.append("reserve", forged(plan, data_set="knees")),
        "no data set knees",
    ),
    "a reservation of nothing": (
        lambda ledger, plan: ledger.append("reserve", forged(plan, attempts=0)),
        "no attempts",
    ),
    "an event for many": (
        lambda ledger, plan: ledger.append(
            "reserve", forged(plan, event=plan.stage_of(1).event.as_dict() | {"count": 2})
        ),
        "one charge each",
    ),
    "no event": (lambda ledger, plan: ledger.append("reserve", forged(plan, event={})), "an event has the keys"),
    "no reservation": (lambda ledger, _: ledger.append("reserve", {}), "reserves nothing"),
    "a reservation for the same plan": (
        lambda ledger, plan: (reserve(ledger, plan, "chest"), ledger.append("reserve", forged(plan))),
        "had reserved before",
    ),
    "a cheaper reservation": (
        lambda ledger, plan: (
            reserve(ledger, plan, "chest"),
            free(ledger, plan.digest, "ended"),
            ledger.append("reserve", forged(plan, attempts=3)),
        ),
        "had reserved before",
    ),
    "freed, never reserved": (
        lambda ledger, plan: ledger.append("free", {"digest": plan.digest, "reason": "ended"}),
        "held no reservation",
    ),
    "freed twice": (
        lambda ledger, plan: (
            reserve(ledger, plan, "chest"),
            free(ledger, plan.digest, "ended"),
            ledger.append("free", {"digest": plan.digest, "reason": "ended"}),
        ),
        "held no reservation",
    ),
    "nothing lost": (lambda ledger, _: ledger.append("lost", {}), "gives no reason"),
    "no end": (lambda ledger, _: ledger.append("free", {}), "frees nothing"),
    "a charge past the reservation": (
        lambda ledger, plan: ledger.charge(plan.digest, 1, 1, plan.stage_of(1).event, SUM, 4),
        "held no reservation",
    ),
    "a charge after the end": (
        lambda ledger, plan: (
            reserve(ledger, plan, "chest"),
            free(ledger, plan.digest, "ended"),
            ledger.charge(plan.digest, 1, 1, plan.stage_of(1).event, SUM, 4),
        ),
        "held no reservation",
    ),
    "another event": (
        lambda ledger, plan: (
            reserve(ledger, plan, "chest"),
            ledger.charge(plan.digest, 1, 1, GaussianEvent(1 << 20, 1024, 1.0, 1), SUM, 4),
        ),
        "reserved another event",
    ),
    "more charges than attempts": (
        lambda ledger, plan: (
            reserve(ledger, plan, "chest"),
            [ledger.charge(plan.digest, 1, attempt, plan.stage_of(1).event, SUM, 9) for attempt in range(5)],
        ),
        "charged all that it reserved",
    ),
    "more than the cap": (
        lambda ledger, plan: (
            reserve(ledger, plan, "chest"),
            ledger.append("reserve", forged(plan, digest="a" * 64)),
        ),
        "more on the data set chest than its cap",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_entries_that_cannot_stand_where_they_do_stop_everything(ledger: Ledger, plan: Plan, forgery: str) -> None:
    """Each has a chain that holds: it was made with the program's own parts."""
    forge, words = FORGERIES[forgery]
    forge(ledger, plan)
    other = varied(plan, "other")
    charged = other if forgery == "more charges than attempts" else plan
    for act in (
        lambda: reserve(ledger, other, "chest"),
        lambda: charge(ledger, charged, 2, 4, SUM),
        lambda: Budget.of_all(ledger),
    ):
        before = ledger.head
        with pytest.raises(LedgerCorrupt, match=words):
            act()
        assert ledger.head == before


def test_an_older_copy_of_the_ledger_is_refused_before_it_gives_a_budget_out_twice(
    ledger: Ledger, plan: Plan, tmp_path: Path
) -> None:
    reserve(ledger, plan, "chest")
    charge(ledger, plan, 1, 1, SUM)
    ledger.copy_to(tmp_path / "backup")
    charge(ledger, plan, 1, 2, SUM)
    head, secret = ledger.head, b"s" * 32
    with Ledger.open(tmp_path / "backup") as older, pytest.raises(LedgerRestored, match="restore the newest"):
        refuse_older(older, secret, ledger_head_of(secret, head))
    with pytest.raises(LedgerCorrupt, match="old copy"):
        Ledger.open(tmp_path / "backup", expect_head=head)
    refuse_older(ledger, secret, ledger_head_of(secret, head))


def test_where_charges_are_lost_for_good_all_that_is_reserved_counts_as_charged(tmp_path: Path, plan: Plan) -> None:
    """An older copy is all there is: it never says less than what was charged."""
    ended, begun, since = (varied(plan, name) for name in ("ended", "begun", "since"))
    with new_ledger(tmp_path / "ledger.sqlite") as ledger:
        register_cap(ledger, data_set(whole_cap(ended, begun, since)))
        for each in (ended, begun):
            reserve(ledger, each, "chest")
        charge(ledger, ended, 1, 1, SUM)
        free(ledger, ended.digest, "ended")
        ledger.copy_to(tmp_path / "backup")
        reserve(ledger, since, "chest")
        for each in (begun, begun, since):
            charge(ledger, each, 2, 1 + len(ledger.charges(each.digest)), SUM)
        truth = Budget.of_all(ledger)[0]
    with Ledger.open(tmp_path / "backup") as ledger:
        assert Budget.of_all(ledger)[0].spent < truth.spent
        reserve(ledger, since, "chest")
        lose(ledger, "the disk of the node broke")
        (budget,) = Budget.of_all(ledger)
        assert truth.spent < budget.spent == budget.committed == truth.committed
        assert [study.charged for study in budget.studies] == [1, 4, 4]
        assert [study.freed for study in budget.studies] == ["ended", *["the disk of the node broke"] * 2]
        for each in (begun, since):
            free(ledger, each.digest, "expired")
            with pytest.raises(NotApproved, match="holds no reservation"):
                charge(ledger, each, 1, 4, SUM)
            reserve(ledger, each, "chest")
            with pytest.raises(BudgetExceeded, match="reserved 4 charges of this kind and 5"):
                charge(ledger, each, 1, 4, SUM)
        assert Budget.of_all(ledger)[0].spent == budget.spent


# --- several processes ------------------------------------------------------------------------------


def contend(path: Path, start: Any, results: Any, plan: Plan, act: str) -> None:
    """One of several processes that want the last of the cap."""
    with Ledger.open(path) as ledger:
        start.wait(timeout=120)
        try:
            if act == "reserve":
                reserve(ledger, plan, "chest")
            else:
                charge(ledger, plan, 2, 7, SUM)
            results.put("done")
        except UndertoneError as error:
            results.put(type(error).__name__)


@pytest.mark.parametrize(("act", "loser"), [("reserve", "BudgetExceeded"), ("charge", "ReplayedAttempt")])
def test_of_two_processes_one_gets_the_last_of_the_cap(
    tmp_path: Path, plan: Plan, dummy_base: Path, act: str, loser: str
) -> None:
    path = tmp_path / "ledger.sqlite"
    plans = [varied(plan, "one"), varied(plan, "two")] if act == "reserve" else [plan, plan]
    with new_ledger(path) as ledger:
        register_cap(ledger, data_set(price(plan)))
        if act == "charge":
            reserve(ledger, plan, "chest")
            for attempt in (1, 2, 3):
                charge(ledger, plan, 1, attempt, SUM)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=contend, args=(path, start, results, each, act)) for each in plans]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(outcomes) == sorted(["done", loser])
    with Ledger.open(path) as ledger:
        accounts = Accounts.read(ledger.entries())
        assert len(accounts.reservations) == 1
        assert accounts.filter("chest").figures().committed <= price(plan)
        assert sum(each.charged for each in accounts.reservations.values()) == (4 if act == "charge" else 0)


def test_what_is_lost_is_not_freed_by_an_end_that_comes_later(ledger: Ledger, plan: Plan) -> None:
    """After a restore the charges of a plan that expired meanwhile are what is missing: they count all the same."""
    reserve(ledger, plan, "chest")
    committed = Budget.of(ledger, data_set(price(plan))).committed
    lose(ledger, "the newest copy is gone")
    assert not free(ledger, plan.digest, "expired")
    assert Budget.of(ledger, data_set(price(plan))).committed == committed > 0
