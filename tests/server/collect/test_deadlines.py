"""Nobody waits for a stranger or a dead node: each kind of message has its deadline, and lives no longer on Flower."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from tests.support.hostile import FIRST, HostileGrid, MemorySite
from tests.support.world import START, World, identify, secure
from undertone import PROTOCOL
from undertone.release.statement import SIMULATION
from undertone.wire.flower import MESSAGE_TYPES, reply_to_records
from undertone.wire.messages import Due, Reply, Request
from undertone_client.site.folder import SiteDir
from undertone_server.collect import sites as module
from undertone_server.collect.deadlines import DEPLOYED, SIMULATED, Deadlines, deadlines_for
from undertone_server.collect.sites import Sites

Make = Callable[..., World]
ROSTER = ("a", "b", "c")
STRANGER = FIRST + 9
LIMITS = replace(Deadlines.equal(0.0), hello=60.0, again=10.0, step=300.0, line=1000.0)


@dataclass
class Clock:
    """Seconds pass only where somebody sleeps."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class SilentGrid(HostileGrid):
    """Nodes of `silent` are connected and never answer; what was pushed is kept."""

    silent: set[int] = field(default_factory=set)
    messages: list[Message] = field(default_factory=list)

    def get_node_ids(self) -> list[int]:
        return sorted({*self.sites, *self.silent})

    def push_messages(self, messages: Any) -> Any:
        for message in messages:
            self.messages.append(message)
            yield from super().push_messages([message])

    def pull_messages(self, message_ids: Any) -> Any:
        for identifier in message_ids:
            if identifier in self._sent and self._sent[identifier].metadata.dst_node_id not in self.silent:
                yield from super().pull_messages([identifier])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def grid_of(make_world: Make, *silent: int) -> tuple[SilentGrid, Sites]:
    identify()
    world = make_world(dict.fromkeys(ROSTER, 4), aggregation=secure(3), sampling_rate=0.9)
    federation, clamp = world.run.federation(), np.zeros(START.size, dtype=np.int64)
    nodes = {
        FIRST + number: MemorySite(name, SiteDir(world.sites[name]).identity(), federation, clamp, number)
        for number, name in enumerate(ROSTER)
    }
    grid = SilentGrid(nodes, silent=set(silent))
    return grid, Sites(grid, ROSTER, federation, LIMITS)  # type: ignore[arg-type]


def test_a_stranger_that_never_answers_blocks_no_start(make_world: Make, clock: Clock) -> None:
    grid, sites = grid_of(make_world, STRANGER)
    sites.find()
    assert sites.present == ROSTER
    assert clock.now == 0.0
    assert STRANGER in {message.metadata.dst_node_id for message in grid.messages}
    grid.messages.clear()
    sites.find()
    assert grid.messages == []  # all are in: nobody is asked


def test_a_dead_node_of_the_roster_is_waited_for_once(make_world: Make, clock: Clock) -> None:
    grid, sites = grid_of(make_world, FIRST, STRANGER)
    sites.find()
    assert sites.present == ("b", "c")
    assert sites.missing == {"a": "did not answer"}
    assert LIMITS.hello <= clock.now < LIMITS.hello + 2
    before = clock.now
    sites.find()
    assert LIMITS.again <= clock.now - before < LIMITS.again + 2
    grid.silent.clear()
    sites.find()
    assert sites.present == ROSTER


def test_a_name_that_is_not_proven_ends_no_search(make_world: Make, clock: Clock) -> None:
    """A stranger that refuses in a site's name must not make the coordinator stop looking for the site."""
    grid, sites = grid_of(make_world, FIRST)
    refusal = reply_to_records(Reply("a", PROTOCOL, error="NotApproved", message="no"))
    grid.sites[STRANGER] = grid.sites[FIRST]
    grid.changes[STRANGER] = lambda _message, _records: refusal
    sites.find()
    assert clock.now >= LIMITS.hello
    assert sites.present == ("b", "c")


def test_a_message_lives_as_long_as_its_answer_is_waited_for(make_world: Make, clock: Clock) -> None:
    grid, sites = grid_of(make_world)
    sites.find()
    assert {message.metadata.ttl for message in grid.messages} == {LIMITS.hello}
    grid.messages.clear()
    grid.silent = set(grid.sites)
    asked = {site: Request("prepare", PROTOCOL, state=np.zeros(500, dtype=np.float32)) for site in ROSTER}
    assert list(sites.ask(asked, Due(ledger_head=True))) == []
    assert {message.metadata.ttl for message in grid.messages} == {302.0}
    assert 302.0 <= clock.now < 304.0


@pytest.mark.parametrize(("words", "seconds"), [(None, 300.0), ((False, 500), 302.0), ((True, 1500), 301.5)])
def test_a_vector_gets_the_time_of_a_slow_line(make_world: Make, clock: Clock, words: Any, seconds: float) -> None:
    grid, sites = grid_of(make_world)
    sites.find()
    grid.messages.clear()
    grid.silent = set(grid.sites)
    list(sites.ask({"a": Request("masked_input", PROTOCOL)}, Due(words=words, ledger_head=True)))
    assert [message.metadata.ttl for message in grid.messages] == [seconds]


def test_deployed_nobody_waits_half_a_day_for_a_message() -> None:
    assert deadlines_for(SIMULATION) is SIMULATED
    assert deadlines_for("federation hub") is DEPLOYED
    assert DEPLOYED.of("hello") == 60.0
    for kind in MESSAGE_TYPES:
        assert DEPLOYED.of(kind) <= 300.0
        assert DEPLOYED.of(kind, 40_000_000) <= 1200.0
