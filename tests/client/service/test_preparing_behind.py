"""A node that stays answers `prepare` at once and makes the rows behind that answer, one attempt after the other."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.approvals import approved
from tests.support.hand_session import HandSession
from tests.support.images import write_folder
from tests.support.served import SECONDS, held, served, until_ready
from tests.support.world import START, World, describe_data, secure
from undertone import PROTOCOL
from undertone.core.progress import reporter
from undertone.errors import NotPrepared, PlanChanged
from undertone.privacy.ledger import Ledger
from undertone.study.plan import Plan
from undertone.wire.hello import CHALLENGE_BYTES
from undertone.wire.messages import NO, YES, Request
from undertone_client import node
from undertone_client.compute.preparing import Preparation
from undertone_client.registration.registered import register
from undertone_client.service.queue import PreparationQueue
from undertone_client.site.budget import register_cap, reserve
from undertone_client.site.folder import SiteDir
from undertone_server.collect.waiting import Waiting

Make = Callable[..., World]


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world(max_attempts=3)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Preparations wait until it is set."""
    event, run = threading.Event(), Preparation.run

    def waiting(self: Preparation) -> None:
        held(event)()
        run(self)

    monkeypatch.setattr(Preparation, "run", waiting)
    yield event
    event.set()


def another_study(world: World) -> dict[str, Any]:
    """`changes` of requests of a second study at the same sites, over data sets of its own."""
    plan = Plan.model_validate(world.plan.model_dump() | {"study": "another-study"})
    changes = world.signed(plan)
    for index, folder in enumerate(world.sites.values()):
        site, images = SiteDir(folder), world.folder / "second" / folder.name
        write_folder(images, len(world.records[folder.name]), first=1000 * (index + 1))
        data = describe_data(site, images, plan, name="second")
        register(site, plan, data)
        approved(site, plan, data_set="second")
        with Ledger.open(site.ledger) as ledger:
            register_cap(ledger, data)
            reserve(ledger, plan, "second")
    return changes


def test_prepare_is_answered_at_once_and_ready_says_when_the_rows_are_there(
    world: World, gate: threading.Event
) -> None:
    with served(world.sites["north"]) as client:
        assert client.ask(world.request("prepare"), SECONDS).error == ""
        ready = world.request("ready", state=None)
        for _ in range(3):
            answer = client.ask(ready, SECONDS)
            assert (answer.body, answer.error, len(answer.ledger_head)) == (NO, "", 64)
        gate.set()
        assert until_ready(client, ready).body == YES
        answered = client.ask(world.request("plain_input"), SECONDS)
    assert answered.words is not None
    assert world.charges("north") == [(1, 1)]


def test_a_vector_before_it_is_ready_is_refused_and_costs_nothing(world: World, gate: threading.Event) -> None:
    with served(world.sites["north"]) as client:
        client.ask(world.request("prepare"), SECONDS)
        reply = client.ask(world.request("plain_input"), SECONDS)
        assert (reply.error, reply.words) == (NotPrepared.__name__, None)
        assert world.charges("north") == []
        gate.set()
        until_ready(client, world.request("ready", state=None))
        assert client.ask(world.request("plain_input"), SECONDS).error == ""


def test_a_masked_vector_before_it_is_ready_is_refused_and_the_step_is_not_spent(
    make_world: Make, gate: threading.Event
) -> None:
    world = make_world(aggregation=secure(3))
    with served(world.sites["north"]) as client:
        session = HandSession(world)
        gate.set()
        for site in ("east", "south"):
            assert session.ask("prepare", site, session.params.to_bytes(), state=START).error == ""
        gate.clear()

        def north(kind: str, body: bytes, state: Any = None) -> Any:
            return client.ask(world.request(kind, session=1, body=body, state=state), SECONDS)

        kept = session.ask
        session.ask = lambda kind, site, body, **changes: (  # type: ignore[method-assign]
            north(kind, body, changes.get("state")) if site == "north" else kept(kind, site, body, **changes)
        )
        keys = {"north": north("prepare", session.params.to_bytes(), START).body}
        assert len(keys["north"]) > 64
        assert north("masked_input", b"").error == NotPrepared.__name__
        assert north("ready", b"").body == NO
        gate.set()
        assert until_ready(client, world.request("ready", session=1, state=None)).body == YES
        # The step after `prepare` is still to be taken: the refusal above spent none.
        assert north("masked_input", b"").error == "ReplayedAttempt"


def test_other_studies_are_answered_while_one_is_prepared(world: World, gate: threading.Event) -> None:
    other = another_study(world)
    with served(world.sites["north"]) as client:
        client.ask(world.request("prepare"), SECONDS)
        began = time.monotonic()
        assert client.ask(Request("hello", PROTOCOL, body=bytes(CHALLENGE_BYTES)), SECONDS).site == "north"
        assert client.ask(world.request("prepare", **other), SECONDS).error == ""
        assert client.ask(world.request("ready", state=None, **other), SECONDS).body == NO
        assert time.monotonic() - began < SECONDS / 2
        gate.set()
        for changes in ({}, other):
            assert until_ready(client, world.request("ready", state=None, **changes)).body == YES
        assert client.ask(world.request("plain_input"), SECONDS).error == ""


def test_what_a_restarted_node_does_not_know_is_prepared_again_with_the_same_coins(make_world: Make) -> None:
    world = make_world(sampling_rate=0.5, max_attempts=2)
    ready = world.request("ready", state=None)
    with served(world.sites["north"]) as client:
        assert client.ask(ready, SECONDS).error == NotPrepared.__name__
        client.ask(world.request("prepare"), SECONDS)
        assert until_ready(client, ready).body == YES
    rows = world.rows()
    with served(world.sites["north"]) as client:
        reply = client.ask(ready, SECONDS)
        assert (reply.error, reply.site) == (NotPrepared.__name__, "north")
        assert client.ask(world.request("plain_input"), SECONDS).error == NotPrepared.__name__
        assert client.ask(world.request("prepare"), SECONDS).error == ""
        assert until_ready(client, ready).body == YES
    again = world.rows()
    assert rows.keys() == again.keys()
    assert all(np.array_equal(rows[unit], again[unit]) for unit in rows)


def test_a_prepare_that_crossed_its_own_charge_makes_no_rows_again(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, refuse, looked = make_world(keep_rows=False), node._refuse_replay, []

    def late(*asked: Any) -> None:
        looked.append(1)
        if len(looked) > 1:  # the request itself looked before the attempt was charged
            refuse(*asked)

    ready = world.request("ready", state=None)
    with served(world.sites["north"]) as client:
        client.ask(world.request("prepare"), SECONDS)
        assert until_ready(client, ready).body == YES
        assert client.ask(world.request("plain_input"), SECONDS).error == ""
        monkeypatch.setattr(node, "_refuse_replay", late)
        assert client.ask(world.request("prepare"), SECONDS).error == ""
        assert until_ready(client, ready).error == "ReplayedAttempt"
    assert world.rows() == {}
    assert world.charges("north") == [(1, 1)]


def test_ready_of_another_attempt_is_refused(world: World) -> None:
    with served(world.sites["north"]) as client:
        client.ask(world.request("prepare"), SECONDS)
        until_ready(client, world.request("ready", state=None))
        assert client.ask(world.request("ready", attempt=2, state=None), SECONDS).error == NotPrepared.__name__


def test_a_plan_that_is_withdrawn_while_it_waits_is_not_prepared(world: World, gate: threading.Event) -> None:
    other = another_study(world)
    log: list[str] = []
    with served(world.sites["north"], log=log) as client:
        client.ask(world.request("prepare"), SECONDS)
        client.ask(world.request("prepare", **other), SECONDS)
        world.withdraw("north")
        site = SiteDir(world.sites["north"])
        approved(site, world.plan)  # the first one runs already, and is approved again
        plan = Plan.from_bytes(other["plan"])
        (site.folder / "approved" / f"{plan.digest}.json").unlink()
        gate.set()
        until_ready(client, world.request("ready", state=None))
        assert client.ask(world.request("ready", state=None, **other), SECONDS).error == "NotApproved"
        for _ in range(100):
            if "prepare failed: NotApproved" in "".join(log):
                break
            time.sleep(0.02)
        approved(site, plan, data_set="second")
        assert until_ready(client, world.request("ready", state=None, **other)).error == "NotApproved"
        assert client.ask(world.request("prepare", **other), SECONDS).error == ""
        assert until_ready(client, world.request("ready", state=None, **other)).body == YES


def test_whatever_goes_wrong_behind_the_answer_is_a_refusal_in_fixed_words(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_self: Preparation) -> None:
        raise RuntimeError("patient-17 has no lungs")

    monkeypatch.setattr(Preparation, "run", failing)
    with served(world.sites["north"]) as client:
        client.ask(world.request("prepare"), SECONDS)
        reply = until_ready(client, world.request("ready", state=None))
    assert reply.error == "SiteFault"
    assert "patient-17" not in reply.message
    assert "patient-17" in world.log()


def test_a_study_runs_over_sockets_as_it_does_in_process(make_world: Make) -> None:
    from tests.support.served import Relayed

    world = make_world({"north": 6, "east": 6, "south": 4}, aggregation=secure(3), rounds=2, max_attempts=3)
    with served(world.sites["north"]) as north, served(world.sites["east"]) as east:
        app = Relayed({"north": north, "east": east})
        world.run_rounds(app=app, waiting=Waiting(60.0, 0.02, 0.1))
    assert world.charges() == world.charges("north") == world.charges("east") == [(1, 1), (2, 1)]
    assert {kind for _, kind in app.asked} >= {"hello", "prepare", "ready", "masked_input", "unmasking"}


# --- the queue --------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> Iterator[PreparationQueue]:
    queue = PreparationQueue(lambda _line: None, clock)
    yield queue
    assert queue.end(SECONDS)


FIRST, SECOND, OTHER = ("a" * 64, 1, 1), ("a" * 64, 1, 2), ("b" * 64, 1, 1)
W = "0" * 64


def wait(queue: PreparationQueue, attempt: Any = FIRST) -> bool:
    """Whether it becomes ready."""
    for _ in range(200):
        if queue.is_ready(attempt):
            return True
        time.sleep(0.01)
    return False


def begun(queue: PreparationQueue, attempt: Any, ready_after: float, work: Callable[[], None]) -> None:
    """Begin, and wait until the work has begun."""
    started = threading.Event()

    def noted() -> None:
        started.set()
        work()

    queue.begin(attempt, W, ready_after, noted)
    assert started.wait(SECONDS)


def nothing() -> None:
    """Work that is done at once."""


def test_one_attempt_at_a_time_in_the_order_in_which_they_came(queue: PreparationQueue) -> None:
    order: list[str] = []
    running: list[int] = []
    most: list[int] = []

    def work(name: str) -> Callable[[], None]:
        def done() -> None:
            running.append(1)
            most.append(len(running))
            order.append(name)
            time.sleep(0.01)
            running.pop()

        return done

    event = threading.Event()
    queue.begin(("c" * 64, 1, 1), W, 0.0, held(event))
    queue.begin(FIRST, W, 0.0, work("first"))
    queue.begin(OTHER, W, 0.0, work("other"))
    queue.begin(SECOND, W, 0.0, work("second"))  # takes the place of the first, which nobody asks for any more
    event.set()
    assert wait(queue, SECOND)
    assert order == ["other", "second"]
    assert max(most) == 1
    with pytest.raises(NotPrepared, match="does not know"):
        queue.is_ready(FIRST)


def test_asking_twice_prepares_once_and_another_state_is_refused(queue: PreparationQueue) -> None:
    event, often = threading.Event(), []

    def work() -> None:
        often.append(1)
        held(event)()

    queue.begin(FIRST, W, 0.0, work)
    queue.begin(FIRST, W, 0.0, work)
    with pytest.raises(PlanChanged, match="another model state"):
        queue.begin(FIRST, "1" * 64, 0.0, work)
    event.set()
    assert wait(queue)
    assert len(often) == 1


def test_with_a_public_time_ready_is_no_before_it_and_yes_from_then_on(queue: PreparationQueue, clock: Clock) -> None:
    done = threading.Event()
    queue.begin(FIRST, W, 60.0, done.set)
    assert done.wait(SECONDS)
    time.sleep(0.05)
    for now, yes in ((100.0, False), (159.999, False), (160.0, True), (1000.0, True)):
        clock.now = now
        assert queue.is_ready(FIRST) is yes
    queue.begin(FIRST, W, 60.0, done.clear)  # another session of the same attempt: its time has come already
    assert queue.is_ready(FIRST)


def test_who_is_not_done_at_the_public_time_is_refused_for_ever_in_fixed_words(
    queue: PreparationQueue, clock: Clock
) -> None:
    event = threading.Event()
    begun(queue, FIRST, 60.0, held(event))
    clock.now = 160.0
    texts = set()
    for late in (160.0, 170.0):
        clock.now = late
        with pytest.raises(NotPrepared) as found:
            queue.is_ready(FIRST)
        texts.add(str(found.value))
        event.set()
        time.sleep(0.05)
    with pytest.raises(NotPrepared) as found:
        queue.begin(FIRST, W, 60.0, event.clear)
    assert texts == {str(found.value)}
    begun(queue, SECOND, 60.0, event.set)
    clock.now = 300.0
    queue.begin(OTHER, W, 0.0, event.set)
    assert wait(queue, OTHER)


def test_a_failure_is_not_told_before_the_public_time(queue: PreparationQueue, clock: Clock) -> None:
    def failing() -> None:
        raise PlanChanged("at once")

    begun(queue, FIRST, 60.0, failing)
    time.sleep(0.05)
    assert queue.is_ready(FIRST) is False
    queue.begin(FIRST, W, 60.0, failing)
    clock.now = 160.0
    with pytest.raises(NotPrepared, match="public time"):
        queue.is_ready(FIRST)


def failing_work() -> None:
    raise RuntimeError("at once")


@pytest.mark.parametrize("how", ["open", "done", "failed"])
def test_before_the_public_time_another_state_is_refused_whether_the_work_has_ended_or_not(
    queue: PreparationQueue, how: str
) -> None:
    event = threading.Event()
    begun(queue, FIRST, 60.0, {"open": held(event), "done": nothing, "failed": failing_work}[how])
    time.sleep(0.05)
    with pytest.raises(PlanChanged, match="another model state"):
        queue.begin(FIRST, "1" * 64, 60.0, nothing)
    queue.begin(FIRST, W, 60.0, nothing)
    assert queue.is_ready(FIRST) is False
    event.set()


@pytest.mark.parametrize("work", [nothing, failing_work])
@pytest.mark.parametrize("behind", [OTHER, SECOND])
def test_behind_a_public_time_no_work_begins_before_it(
    queue: PreparationQueue, clock: Clock, work: Callable[[], None], behind: Any
) -> None:
    begun(queue, FIRST, 60.0, work)
    started = threading.Event()
    queue.begin(behind, W, 0.0, started.set)
    clock.now = 159.999
    assert not started.wait(0.3)
    assert queue.is_ready(behind) is False
    clock.now = 160.0
    assert wait(queue, behind)


def test_the_public_time_counts_from_when_the_work_begins(queue: PreparationQueue, clock: Clock) -> None:
    event, started = threading.Event(), threading.Event()
    begun(queue, OTHER, 0.0, held(event))
    queue.begin(FIRST, W, 60.0, started.set)
    clock.now = 200.0
    assert queue.is_ready(FIRST) is False
    queue.begin(FIRST, W, 60.0, started.set)
    event.set()
    assert started.wait(SECONDS)
    time.sleep(0.05)
    for now, yes in ((259.999, False), (260.0, True)):
        clock.now = now
        assert queue.is_ready(FIRST) is yes


def test_late_work_ends_behind_its_block_so_that_nobody_sees_how_much_was_left(
    queue: PreparationQueue, clock: Clock
) -> None:
    from undertone.core.progress import reporter

    blocks = []

    def work() -> None:
        with reporter().task("rows", 10_000) as progress:
            for block in range(10_000):
                blocks.append(block)
                time.sleep(0.001)
                progress(1)

    begun(queue, FIRST, 60.0, work)
    queue.begin(OTHER, W, 0.0, nothing)
    clock.now = 160.0
    assert wait(queue, OTHER)
    assert len(blocks) < 10_000
    with pytest.raises(NotPrepared, match="public time"):
        queue.is_ready(FIRST)


def test_the_public_time_holds_at_the_node(make_world: Make, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    world = make_world(max_attempts=2)
    monkeypatch.setattr(Plan, "ready_after", lambda _self, _site: 60.0)
    ready = world.request("ready", state=None)
    with served(world.sites["north"], clock) as client:
        client.ask(world.request("prepare"), SECONDS)
        wait_for_rows(world)
        assert client.ask(ready, SECONDS).body == NO
        assert client.ask(world.request("plain_input"), SECONDS).error == NotPrepared.__name__
        clock.now += 60.0
        assert client.ask(ready, SECONDS).body == YES
        assert client.ask(world.request("plain_input"), SECONDS).error == ""


def test_a_node_that_stays_refuses_a_plan_whose_coins_would_show_on_a_clock(make_world: Make) -> None:
    world = make_world(
        dict.fromkeys(("east", "north", "south", "west"), 4),
        noise="distributed",
        sampling_rate=0.5,
        aggregation=secure(4),
    )
    assert world.plan.amplified_at_sites
    with served(world.sites["north"]) as client:
        reply = client.ask(world.request("prepare"), SECONDS)
    assert (reply.error, "ready_seconds_per_unit" in reply.message) == ("TimingRevealed", True)
    assert world.ask("prepare").error != "TimingRevealed"  # in a simulation all sites are one person's


def wait_for_rows(world: World) -> None:
    for _ in range(300):
        if len(world.rows()) == 3:
            time.sleep(0.2)
            return
        time.sleep(0.02)
    raise AssertionError("no rows are made")


def test_a_node_that_is_stopped_ends_a_preparation_behind_its_block() -> None:
    from undertone.core.progress import reporter

    started, blocks = threading.Event(), []

    def work() -> None:
        with reporter().task("rows", 10_000) as progress:
            for block in range(10_000):
                blocks.append(block)
                started.set()
                time.sleep(0.001)
                progress(1)

    queue = PreparationQueue(lambda _line: None)
    queue.begin(FIRST, W, 0.0, work)
    assert started.wait(SECONDS)
    assert queue.end(SECONDS)
    assert len(blocks) < 10_000


def endless() -> None:
    """Work that goes on until it is ended, block by block."""
    with reporter().task("rows", 1) as progress:
        while True:
            progress(1)
            time.sleep(0.005)


def test_a_rehearsal_comes_after_all_others_and_gives_way_to_them(queue: PreparationQueue, clock: Clock) -> None:
    order: list[str] = []
    event = threading.Event()
    begun(queue, ("c" * 64, 1, 1), 0.0, held(event))
    queue.begin(FIRST, W, 0.0, lambda: order.append("rehearsal"), spare=True)
    queue.begin(OTHER, W, 0.0, lambda: order.append("study"))
    event.set()
    assert wait(queue)
    assert order == ["study", "rehearsal"]
    queue.begin(SECOND, W, 0.0, endless, spare=True)
    time.sleep(0.05)
    assert queue.is_ready(SECOND) is False
    other = ("c" * 64, 2, 1)
    queue.begin(other, W, 0.0, nothing)
    assert wait(queue, other)
    with pytest.raises(NotPrepared, match="while no study waits"):
        queue.is_ready(SECOND)


def test_a_rehearsal_lasts_an_hour_at_the_most(queue: PreparationQueue, clock: Clock) -> None:
    queue.begin(FIRST, W, 0.0, endless, spare=True)
    time.sleep(0.05)
    assert queue.is_ready(FIRST) is False
    clock.now += 3601
    with pytest.raises(NotPrepared, match="for an hour at the most"):
        wait(queue)
