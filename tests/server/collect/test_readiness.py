"""Asking whether sites are ready: ever more seldom, until all are or the time is over; who forgot prepares again."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.world import World, secure
from undertone.errors import NotPrepared, TooFewSites
from undertone.wire.messages import NO, YES, Reply, Request
from undertone_client.node import Node
from undertone_server.collect import readiness
from undertone_server.collect.waiting import USUAL, Waiting

Make = Callable[..., World]
FOUR = {"north": 6, "east": 6, "south": 4, "west": 4}


class Clock:
    """Time passes by sleeping alone."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(readiness, "time", clock)
    return clock


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[bytes | str]]:
    """Site -> what it answers to `ready`, first to last, before it says yes; a text is the name of a refusal."""
    scripted: dict[str, list[bytes | str]] = {}
    original = Node.handle

    def handle(self: Node, request: Request) -> Reply:
        reply = original(self, request)
        left = scripted.get(self.site.config.site, [])
        if request.kind != "ready" or not left:
            return reply
        said = left.pop(0)
        if isinstance(said, str):
            return Reply(reply.site, reply.protocol, error=said, message="not known here")
        return Reply(reply.site, reply.protocol, body=said, ledger_head=reply.ledger_head)

    monkeypatch.setattr(Node, "handle", handle)
    return scripted


AGGREGATIONS: dict[str, Any] = {
    "plain": {},
    "chain": {"aggregation": secure(4), "sampling_rate": 0.5},
    "free": {"aggregation": secure(4, rosters="free"), "sampling_rate": 0.5},
    "distributed": {"aggregation": secure(4), "noise": "distributed", "sampling_rate": 0.5, "sigma": 8192},
}


@pytest.fixture(params=AGGREGATIONS)
def world(make_world: Make, request: pytest.FixtureRequest) -> World:
    return make_world(FOUR, max_attempts=2, **AGGREGATIONS[request.param])


def test_no_vector_is_asked_for_before_all_are_ready(
    world: World, clock: Clock, answers: dict[str, list[bytes | str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers["east"], answers["west"] = [NO] * 9, [NO] * 2
    seen: list[tuple[str, str]] = []
    handle = Node.handle

    def watched(self: Node, request: Request) -> Reply:
        seen.append((self.site.config.site, request.kind))
        return handle(self, request)

    monkeypatch.setattr(Node, "handle", watched)
    world.run_rounds()
    assert world.charges() == [(1, 1)]
    assert all(world.charges(site) == [(1, 1)] for site in FOUR)
    asked = [site for site, kind in seen if kind == "ready"]
    assert {site: asked.count(site) for site in FOUR} == {"north": 1, "east": 10, "south": 1, "west": 3}
    last = max(place for place, (_, kind) in enumerate(seen) if kind == "ready")
    assert not [kind for _, kind in seen[:last] if kind in ("share_keys", "masked_input", "plain_input")]
    assert clock.pauses[0] == USUAL.pause == 2.0
    assert clock.pauses == sorted(clock.pauses)
    assert clock.pauses[-1] == USUAL.longest_pause == 30.0


def test_who_is_not_ready_in_time_is_left_out_and_named(
    make_world: Make, clock: Clock, answers: dict[str, list[bytes | str]]
) -> None:
    world = make_world(FOUR, max_attempts=2)
    answers["east"] = [NO] * 10_000
    world.run_rounds(waiting=Waiting(100.0, 2.0, 30.0))
    assert sum(clock.pauses) < 100.0
    assert world.charges("east") == []
    assert world.charges("north") == [(1, 1)]
    assert set(world.run.sites_opened(1)[0]) == {"north", "south", "west"}


def test_too_few_ready_name_who_was_not(make_world: Make, clock: Clock, answers: dict[str, list[bytes | str]]) -> None:
    world = make_world({"north": 6, "east": 6}, max_attempts=2)
    answers["east"] = [NO] * 10_000
    with pytest.raises(TooFewSites, match="east: was not ready 100 s after"):
        world.run_rounds(waiting=Waiting(100.0, 2.0, 30.0))
    assert world.charges("north") == []
    assert clock.pauses


@pytest.mark.parametrize("said", [b"", b"\2", b"yes"])
def test_who_answers_neither_yes_nor_no_drops_out(
    make_world: Make, clock: Clock, answers: dict[str, list[bytes | str]], said: bytes
) -> None:
    world = make_world(FOUR)
    answers["east"] = [said]
    world.run_rounds()
    assert set(world.run.sites_opened(1)[0]) == {"north", "south", "west"}
    assert not clock.pauses


def test_a_node_that_forgot_is_asked_to_prepare_again(
    world: World, clock: Clock, answers: dict[str, list[bytes | str]]
) -> None:
    answers["east"] = [NO, NotPrepared.__name__, NO]
    world.run_rounds()
    assert set(world.run.sites_opened(1)[0]) == set(FOUR)
    assert world.charges() == world.charges("east") == [(1, 1)]
    assert clock.pauses


def test_a_node_that_always_forgets_is_left_out(
    make_world: Make, clock: Clock, answers: dict[str, list[bytes | str]]
) -> None:
    world = make_world(FOUR)
    answers["east"] = [NotPrepared.__name__] * 100
    world.run_rounds()
    assert set(world.run.sites_opened(1)[0]) == {"north", "south", "west"}
    assert len(answers["east"]) == 97
    assert not clock.pauses


def test_in_process_ready_is_yes(make_world: Make) -> None:
    world = make_world()
    world.ask("prepare")
    assert world.ask("ready", state=None).body == YES
    assert world.ask("ready", state=None, signature="0" * 128).error == "NotApproved"
