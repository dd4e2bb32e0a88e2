"""The chain of survivor lists with real nodes and the coordinator's round loop (PRIVACY 12)."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from tests.support.failpoints import Killed, at, kill_before
from tests.support.hand_session import HandSession, plain_sum, said
from tests.support.world import START, World, make_plan, secure
from undertone.errors import AttemptVoid, BudgetExceeded, FolderError, SurvivorsChanged, TooFewSites
from undertone.privacy.ledger import Ledger
from undertone.secagg import sealing
from undertone.wire.messages import Reply
from undertone_client.node import Node
from undertone_server.collect.gathering import BRIEF, Patience, next_list

Make = Callable[..., World]
FIVE = dict.fromkeys(("centre", "east", "north", "south", "west"), 4)
FOUR = ("centre", "north", "south", "west")
# Published figures differ: whom a list leaves out besides those that are gone follows from them.
TWELVE = {f"site-{letter}": 4 if letter in "bk" else 6 for letter in "abcdefghijkl"}


def five(make_world: Make, **options: Any) -> World:
    return make_world(FIVE, **({"aggregation": secure(5)} | options))


def sums(world: World) -> dict[int, tuple[str, ...]]:
    """Round -> whose sum was opened."""
    kept = {round_: world.run.kept_noised(round_) for round_ in range(1, world.plan.privacy.rounds + 1)}
    return {round_: found[2] for round_, found in kept.items() if found is not None}


def signed(world: World, site: str) -> list[tuple[str, ...]]:
    """The lists in a site's ledger, oldest first."""
    with Ledger.open(world.sites[site] / "ledger.sqlite", read_only=True) as ledger:
        found = [entry.body["sites"] for entry in ledger.entries() if entry.kind == "survivors"]
    return [tuple(map(str, sites)) for sites in found if isinstance(sites, list)]


def voids(world: World) -> list[tuple[Any, Any]]:
    with Ledger.open(world.run.ledger, read_only=True) as ledger:
        return [(e.body["round"], e.body["attempt"]) for e in ledger.entries() if e.kind == "void"]


Away = Callable[[str, Any, int], bool]


def away(patch: pytest.MonkeyPatch, when: Away) -> list[tuple[str, str, int]]:
    """Sites raise where `when(site, request, how often that site was asked this in this round)`; all that was asked."""
    handle, asked = Node.handle, []

    def failing(self: Node, request: Any) -> Reply:
        site = self.site.config.site
        asked.append((site, request.kind, request.round))
        if when(site, request, asked.count(asked[-1])):
            raise ConnectionError(site)
        return handle(self, request)

    patch.setattr(Node, "handle", failing)
    return asked


def shown_lists(world: World, session: HandSession) -> dict[str, Reply]:
    """Up to `confirm`: what each site says to the list."""
    lists = session.masked_input(session.share_keys(session.prepare()))
    return {site: session.ask("consistency_check", site, lists) for site in session.sites}


# --- a coordinator that lies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "second"),
    [
        ({"sampling_rate": 0.999999, "max_attempts": 2}, {"attempt": 2}),
        ({"sampling_rate": 1.0, "max_attempts": 2}, {"attempt": 2}),
        ({"sampling_rate": 1.0, "rounds": 2, "max_attempts": 2}, {"round_": 2}),
        ({"sampling_rate": 0.5, "rounds": 2, "max_attempts": 2}, {"round_": 2}),
    ],
    ids=["p just below 1", "p = 1", "w again", "w again, half the units"],
)
def test_attack_one_site_less_in_a_second_sum_is_refused_by_every_site(
    make_world: Make, plan: dict[str, Any], second: dict[str, int]
) -> None:
    """The difference of the two sums would be that site's own."""
    world = five(make_world, **plan)
    assert HandSession(world).run().sites == tuple(FIVE)
    replies = shown_lists(world, HandSession(world, sites=FOUR, **second))
    assert {reply.error for reply in replies.values()} == {SurvivorsChanged.__name__}
    assert "1 fewer than in the list signed last" in replies["north"].message
    assert signed(world, "north") == [tuple(FIVE)]


@pytest.mark.parametrize("second", [{"attempt": 2}, {"round_": 2}])
def test_the_same_list_is_signed_again_in_another_attempt_and_round(make_world: Make, second: dict[str, int]) -> None:
    """With rows that repeat, too: equal sums over equal lists tell nothing apart."""
    world = five(make_world, rounds=2, max_attempts=4)
    first, again = HandSession(world).run(), HandSession(world, **second).run()
    assert first.sites == again.sites == tuple(FIVE)
    assert signed(world, "north") == [tuple(FIVE)] * 2


def test_attack_a_site_that_was_left_out_cannot_come_back(make_world: Make) -> None:
    world = five(make_world, max_attempts=2)
    assert HandSession(world, sites=FOUR).run().sites == FOUR
    replies = shown_lists(world, HandSession(world, attempt=2))
    assert {site for site, reply in replies.items() if reply.error} == set(FOUR)
    assert "cannot come back" in replies["north"].message


def test_attack_a_request_that_overtakes_another_is_seen_in_the_ledgers_own_transaction(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempt 1's request has looked at everything but the ledger when attempt 2 is signed over another list."""
    world = five(make_world, max_attempts=2)
    first, second = HandSession(world), HandSession(world, attempt=2, sites=FOUR)
    lists = first.masked_input(first.share_keys(first.prepare()))
    append, overtaken = Ledger.append, []

    def overtaking(ledger: Ledger, kind: str, body: Mapping[str, Any], *arguments: Any) -> str:
        if kind == "survivors" and body["attempt"] == 1 and not overtaken:
            overtaken.append(True)
            assert not shown_lists(world, second)["north"].error
        return append(ledger, kind, body, *arguments)

    monkeypatch.setattr(Ledger, "append", overtaking)
    assert first.ask("consistency_check", "north", lists).error == SurvivorsChanged.__name__
    assert signed(world, "north") == [FOUR]


@pytest.mark.parametrize("dies", ["at the signature", "session/survivors durable"])
def test_a_list_stands_in_the_ledger_before_it_is_signed(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, dies: Any
) -> None:
    world = five(make_world, max_attempts=2)
    first = HandSession(world)
    lists = first.masked_input(first.share_keys(first.prepare()))
    with monkeypatch.context() as patch, at(dies) if "/" in dies else nullcontext():
        if "/" not in dies:
            kill_before(patch, sealing, "sign_statement")
        with pytest.raises(Killed):
            first.ask("consistency_check", "north", lists)
    assert signed(world, "north") == [tuple(FIVE)]
    assert first.ask("consistency_check", "north", lists).error == "ReplayedAttempt"
    replies = shown_lists(world, HandSession(world, attempt=2, sites=FOUR))
    assert {site for site, reply in replies.items() if reply.error} == {"north"}


def test_a_list_of_another_plan_is_another_chain(make_world: Make, dummy_base: Any) -> None:
    """What the chain does not cover: another study with another roster over the same data."""
    world = five(make_world)
    HandSession(world).run()
    body = {"digest": "1" * 64, "round": 1, "attempt": 1, "session": 1, "sites": ["stranger"]}
    with Ledger.open(world.sites["north"] / "ledger.sqlite") as ledger:
        ledger.append("survivors", body)
    assert signed(world, "north") == [tuple(FIVE), ("stranger",)]
    other = make_plan(dummy_base, world.plan.cohort.units, aggregation=secure(5), min_sites=3)
    assert other.digest != world.plan.digest


def test_free_lists_need_the_sites_word(make_world: Make) -> None:
    world = five(make_world, aggregation=secure(5, rosters="free"))
    world.allow("north", allow_free_rosters=False)
    session = HandSession(world)
    reply = session.ask("prepare", "north", session.params.to_bytes(), state=START)
    assert (reply.error, "allow_free_rosters: the plan says" in reply.message) == ("NotApproved", True)
    assert session.ask("prepare", "south", session.params.to_bytes(), state=START).error == ""


@pytest.mark.parametrize("options", [{}, {"noise": "distributed", "max_attempts": 2}])
def test_where_nothing_is_given_away_no_word_is_needed(make_world: Make, options: dict[str, Any]) -> None:
    world = five(make_world, **options)
    for site in world.sites:
        world.allow(site, allow_free_rosters=False)
    world.run_rounds()
    assert sums(world) == {1: tuple(FIVE)}


# --- honest studies -----------------------------------------------------------------------------------------------


def test_a_site_that_is_away_for_one_try_costs_no_attempt(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, draws: list[np.ndarray]
) -> None:
    world = five(make_world, rounds=2, max_attempts=2)
    away(monkeypatch, lambda site, request, often: (site, request.kind, often) == ("east", "prepare", 1))
    away(monkeypatch, lambda site, request, often: (site, request.kind, often) == ("west", "share_keys", 1))
    world.run_rounds()
    assert sums(world) == {1: tuple(FIVE), 2: tuple(FIVE)}
    assert world.charges() == world.charges("east") == [(1, 1), (2, 1)]
    assert voids(world) == []
    kept = world.run.kept_noised(1)
    assert kept is not None
    np.testing.assert_array_equal(kept[1] - plain_sum(world, FIVE), draws[0])


def test_vectors_are_asked_for_only_when_all_of_the_list_are_ready(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, rounds=2, max_attempts=2)
    with monkeypatch.context() as patch:
        gone = away(patch, lambda site, request, _often: (site, request.round) == ("east", 2))
        with pytest.raises(TooFewSites, match="away: east") as caught:
            world.run_rounds()
    assert not isinstance(caught.value, AttemptVoid)
    for words in ("cannot shrink", "may lose 3 sites", "bring the sites back and resume", 'rosters = "free"'):
        assert words in str(caught.value)
    assert ("north", "masked_input", 2) not in gone
    assert gone.count(("north", "prepare", 2)) == BRIEF.tries
    assert (world.run.attempts_asked(2), world.charges("north")) == ([], [(1, 1)])
    world.run_rounds()  # resumed, with east back
    assert sums(world) == {1: tuple(FIVE), 2: tuple(FIVE)}
    assert world.charges() == [(1, 1), (2, 1)]


def test_a_site_that_leaves_between_mask_and_vector_voids_the_attempt_and_another_follows(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, rounds=3, max_attempts=4)
    away(monkeypatch, lambda s, r, often: (s, r.kind, r.round, often) == ("east", "masked_input", 2, 1))
    world.run_rounds()
    assert sums(world) == {round_: tuple(FIVE) for round_ in (1, 2, 3)}
    assert world.charges() == [(1, 1), (2, 2), (3, 1)]
    assert voids(world) == [(2, 1)]
    assert world.charges("north") == [(1, 1), (2, 1), (2, 2), (3, 1)]
    assert world.charges("east") == [(1, 1), (2, 2), (3, 1)]


def test_a_site_that_leaves_between_vector_and_signature_is_in_the_sum_and_back(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, rounds=2, max_attempts=2)
    away(monkeypatch, lambda s, r, _often: (s, r.kind, r.round) == ("east", "consistency_check", 1))
    world.run_rounds()
    assert sums(world) == {1: tuple(FIVE), 2: tuple(FIVE)}
    assert signed(world, "east") == [tuple(FIVE)]
    assert world.charges() == [(1, 1), (2, 1)]


def test_an_attempt_that_too_few_sign_is_void_and_another_follows(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, max_attempts=2)
    away(monkeypatch, lambda s, r, often: s in ("east", "west") and (r.kind, often) == ("consistency_check", 1))
    world.run_rounds()
    assert (sums(world), world.charges(), voids(world)) == ({1: tuple(FIVE)}, [(1, 2)], [(1, 1)])


def test_void_attempts_end_where_the_plan_has_no_more(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = five(make_world, rounds=2, max_attempts=3)
    away(monkeypatch, lambda s, r, _often: (s, r.kind, r.round) == ("east", "masked_input", 2))
    with pytest.raises(AttemptVoid, match="round 2, attempt 2: east sent no vector"):
        world.run_rounds()
    assert (world.charges(), voids(world)) == ([(1, 1)], [(2, 1), (2, 2)])
    with pytest.raises(BudgetExceeded, match="3 attempts are used up"):
        world.run_rounds()


def test_the_first_list_is_whoever_is_there(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = five(make_world, rounds=2, max_attempts=2)
    asked = away(monkeypatch, lambda s, r, _often: (s, r.kind, r.round) == ("east", "masked_input", 1))
    world.run_rounds()
    assert sums(world) == {1: FOUR, 2: FOUR}
    assert ("east", "prepare", 2) not in asked
    assert world.charges() == [(1, 1), (2, 1)]


@pytest.mark.parametrize("step", ["secure/survivors durable", "secure/consistency checked", "rounds/answered"])
def test_after_a_crash_the_coordinator_keeps_to_the_list(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, step: Any
) -> None:
    """East was not in the list when the coordinator died; it is back and stays out, whoever had signed."""
    world = five(make_world, max_attempts=2)
    with monkeypatch.context() as patch, at(step):
        away(patch, lambda s, r, _often: (s, r.kind) == ("east", "masked_input"))
        with pytest.raises(Killed):
            world.run_rounds()
    assert world.run.kept_survivors() == FOUR
    world.run_rounds()
    assert (sums(world), world.charges(), voids(world)) == ({1: FOUR}, [(1, 2)], [(1, 1)])
    assert set(signed(world, "north")) == {FOUR}


def test_a_crash_before_the_list_is_durable_leaves_the_roster(make_world: Make) -> None:
    world = five(make_world, max_attempts=2)
    with at("rounds/asked durable"), pytest.raises(Killed):
        world.run_rounds()
    assert world.run.kept_survivors() is None
    world.run_rounds()
    assert sums(world) == {1: tuple(FIVE)}


def test_a_run_that_forgot_its_list_is_stopped_by_the_sites_and_wastes_no_attempts(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, rounds=2, max_attempts=9)
    with at("rounds/state durable"), pytest.raises(Killed):
        world.run_rounds()
    (world.run.checkpoints / "survivors.json").unlink()
    away(monkeypatch, lambda s, r, _often: (s, r.round) == ("east", 2))
    with pytest.raises(TooFewSites, match="SurvivorsChanged: the survivors are 1 fewer") as caught:
        world.run_rounds()
    assert not isinstance(caught.value, AttemptVoid)
    assert world.run.attempts_asked(2) == [1]


def test_a_damaged_list_is_named(make_world: Make) -> None:
    world = five(make_world)
    (world.run.checkpoints / "survivors.json").write_bytes(b'{"a": 1}')
    with pytest.raises(FolderError, match=r"survivors\.json"):
        world.run_rounds()


def test_the_coordinator_keeps_to_the_rule_itself(make_world: Make) -> None:
    world = five(make_world)
    world.run.keep_survivors(("centre", "east", "north", "south"))
    with pytest.raises(SurvivorsChanged, match="cannot come back"):
        _enter(world, tuple(FIVE), tuple(FIVE))
    with pytest.raises(AttemptVoid, match="west sent no vector"):
        _enter(world, ("east", "north", "south", "west"), ("east", "north", "south"))
    assert world.run.kept_survivors() == ("centre", "east", "north", "south")


def _enter(world: World, asked: tuple[str, ...], survivors: tuple[str, ...]) -> None:
    from undertone_server.collect.attempt import Attempt
    from undertone_server.collect.gathering import enter_list

    unused: Any = None
    enter_list(Attempt(world.plan, unused, world.run, 1, 1, unused, START), asked, survivors)


def test_twelve_sites_lose_three_at_once_when_one_stays_away(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """n = 12, t = 9, c = 1. With the site that stays away go the two whose public figures are smallest."""
    world = make_world(
        TWELVE, aggregation=secure(12, threshold=9, colluders=1), rounds=3, max_attempts=3, sampling_rate=0.9
    )
    asked = away(monkeypatch, lambda s, r, _often: (s, r.round) == ("site-d", 2))
    world.run_rounds()
    nine = tuple(site for site in sorted(TWELVE) if site[-1] not in "bdk")
    assert sums(world) == {1: tuple(sorted(TWELVE)), 2: nine, 3: nine}
    assert world.charges() == [(1, 1), (2, 1), (3, 1)]
    assert signed(world, "site-a") == [tuple(sorted(TWELVE)), nine, nine]
    assert signed(world, "site-b") == [tuple(sorted(TWELVE))]
    assert not [entry for entry in asked if entry[0] in ("site-b", "site-d") and entry[2] == 3]


def test_the_largest_list_without_those_that_are_gone(make_world: Make) -> None:
    plan = make_world(TWELVE, aggregation=secure(12, threshold=8, colluders=1), min_sites=7).plan
    everybody = tuple(sorted(TWELVE))
    assert next_list(plan, None, {}) == next_list(plan, everybody, {}) == everybody
    assert next_list(plan, None, {"site-d": "away"}) == tuple(s for s in everybody if s != "site-d")
    for gone, left in (("d", "bdk"), ("bk", "bkl"), ("bdk", "bdk"), ("acdl", "acdl")):
        reasons = {f"site-{letter}": "away" for letter in gone}
        kept = tuple(s for s in everybody if s[-1] not in left)
        assert next_list(plan, everybody, reasons) == kept
    with pytest.raises(TooFewSites, match="7 sites answered, the plan needs 8"):
        next_list(plan, None, {f"site-{letter}": "away" for letter in "abcde"})
    with pytest.raises(TooFewSites, match="cannot shrink"):
        next_list(plan, everybody, {f"site-{letter}": "away" for letter in "abcde"})
    with pytest.raises(TooFewSites, match="list of 10 survivors cannot shrink"):
        next_list(plan, everybody[:10], {"site-a": "away"})


def test_a_patient_coordinator_waits_until_the_site_is_back(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = five(make_world, rounds=2, max_attempts=2)
    asked = away(monkeypatch, lambda s, r, often: (s, r.kind, r.round) == ("east", "prepare", 2) and often < 6)
    world.run_rounds(patience=Patience(seconds=60.0, pause=0.001))
    assert sums(world) == {1: tuple(FIVE), 2: tuple(FIVE)}
    assert asked.count(("east", "prepare", 2)) == 6
    assert world.charges() == [(1, 1), (2, 1)]


def test_patience_ends_with_its_seconds() -> None:
    now = time.monotonic()
    assert Patience(seconds=60.0).lasts(10**6, now)
    assert not Patience(seconds=60.0, pause=61.0).lasts(13, now)
    assert not Patience(seconds=4.0, pause=61.0).lasts(1, now)  # at first a pause lasts 5 s
    assert not Patience(seconds=60.0).lasts(1, now - 61)
    assert [BRIEF.lasts(tries, 0.0) for tries in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("rate", [1.0, 0.9])
def test_with_free_lists_k_of_n_go_on_round_by_round(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    world = five(make_world, aggregation=secure(5, rosters="free"), rounds=2, max_attempts=2, sampling_rate=rate)
    away(monkeypatch, lambda s, r, _often: (s, r.round) in (("east", 1), ("west", 2)))
    world.run_rounds()
    assert sums(world) == {1: FOUR, 2: ("centre", "east", "north", "south")}
    assert not any(signed(world, site) for site in FIVE)
    assert world.run.kept_survivors() is None


def test_what_the_coordinator_keeps_is_the_list_alone(make_world: Make) -> None:
    world = five(make_world)
    world.run_rounds()
    path = world.run.checkpoints / "survivors.json"
    assert json.loads(path.read_bytes()) == list(FIVE)
    before = path.stat().st_mtime_ns
    path.with_name("survivors.json.part").write_bytes(b"half")
    world.run.keep_survivors(tuple(FIVE))
    assert path.stat().st_mtime_ns == before
    assert not list(world.run.checkpoints.glob("*.part"))


def test_reasons_of_the_sites_that_were_left_out_are_told(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = five(make_world)
    away(monkeypatch, lambda s, r, _often: s == "east" and r.kind == "prepare")
    world.run_rounds()
    assert sums(world) == {1: FOUR}
    said(world.node("east").handle(world.request("hello")))
