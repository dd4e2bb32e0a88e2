"""Sites that are missing, refuse or misbehave: k of n go on, and who was missing is said."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from tests.support.dummy import DIMENSION
from tests.support.lines import Lines
from tests.support.world import START, World
from undertone.core.progress import reporting
from undertone.errors import TooFewSites
from undertone.models.layout import state_sha256
from undertone.privacy.quantise import from_ring
from undertone.wire.messages import Reply
from undertone_client.node import Node
from undertone_client.site.attempt_store import AttemptStore

Make = Callable[..., World]


def test_k_of_n_sites_go_on_and_the_missing_are_named(make_world: Make) -> None:
    world = make_world()
    world.run_rounds(absent=["south"])
    kept = world.run.kept_noised(1)
    assert kept is not None
    assert kept[2] == ("east", "north")


def test_too_few_sites_say_who_is_missing_and_why(make_world: Make) -> None:
    world = make_world()
    world.withdraw("east")
    with pytest.raises(TooFewSites) as caught:
        world.run_rounds(absent=["south"])
    message = str(caught.value)
    assert "1 sites answered, the plan needs 2" in message
    assert "east: NotApproved" in message
    assert "south: did not answer" in message
    assert world.run.attempts_asked(1) == []  # found out while preparing: no attempt is lost
    assert world.charges("north") == []


def bad_contribution(monkeypatch: pytest.MonkeyPatch, site: str, change: Callable[[Reply], Any]) -> None:
    """The node of `site` answers `plain_input` with `change(reply)`."""
    handle = Node.handle

    def changed(self: Node, request: Any) -> Any:
        reply = handle(self, request)
        return change(reply) if self.site.config.site == site and request.kind == "plain_input" else reply

    monkeypatch.setattr(Node, "handle", changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: replace(reply, words=reply.words[:-1]),
        lambda reply: replace(reply, words=None),
        lambda reply: replace(reply, site="east"),
        lambda reply: replace(reply, words=None, error="SiteFault", message="no"),
    ],
    ids=["short", "no words", "another's name", "refusal"],
)
def test_one_bad_reply_is_a_dropout(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, change: Callable[[Reply], Reply]
) -> None:
    world = make_world()
    bad_contribution(monkeypatch, "south", change)
    world.run_rounds()
    kept = world.run.kept_noised(1)
    assert kept is not None
    assert kept[2] == ("east", "north")


def test_a_reply_that_cannot_be_read_is_a_dropout(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import undertone_client.app as relay

    world = make_world()
    bad_contribution(monkeypatch, "south", lambda reply: replace(reply, message="spoil me"))
    write = relay.reply_to_records

    def spoiled(reply: Reply) -> RecordDict:
        return RecordDict({"header": ConfigRecord({"site": 7})}) if reply.message == "spoil me" else write(reply)

    monkeypatch.setattr(relay, "reply_to_records", spoiled)
    world.run_rounds()
    kept = world.run.kept_noised(1)
    assert kept is not None
    assert kept[2] == ("east", "north")


def test_a_site_that_crashes_is_a_dropout(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()

    def crash(_reply: Reply) -> Reply:
        raise RuntimeError("patient-1")

    bad_contribution(monkeypatch, "south", crash)
    world.run_rounds()
    kept = world.run.kept_noised(1)
    assert kept is not None
    assert kept[2] == ("east", "north")


def test_two_nodes_of_one_name_cost_that_name_alone(make_world: Make) -> None:
    world = make_world()
    world.sites["twin"] = world.sites["north"]  # the operator started the node twice
    said = Lines()
    with reporting(said):
        world.run_rounds()
    assert sites_in(world) == ("east", "south")
    assert said.lines == ["round 1: north is missing: two nodes call themselves north; stop one of them"]


def sites_in(world: World, round_: int = 1) -> tuple[str, ...]:
    kept = world.run.kept_noised(round_)
    assert kept is not None
    return kept[2]


def test_a_node_that_is_not_on_the_roster_is_left_out(make_world: Make) -> None:
    world = make_world()
    config = world.sites["south"] / "node.toml"
    config.write_text(config.read_text(encoding="utf-8").replace('"south"', '"stranger"'), encoding="utf-8")
    world.run_rounds()
    kept = world.run.kept_noised(1)
    assert kept is not None
    assert kept[2] == ("east", "north")


def test_a_site_that_did_not_clamp_drops_out_where_its_vector_is_seen(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    huge = np.full(DIMENSION, 1 << 31, dtype=np.uint32)  # the most negative integer of the ring
    bad_contribution(monkeypatch, "south", lambda reply: replace(reply, words=huge))
    said = Lines()
    with reporting(said):
        world.run_rounds()
    assert sites_in(world) == ("east", "north")
    assert said.lines == ["round 1: south is missing: sent a vector that is not clamped"]


def test_words_of_a_node_are_within_its_clamp(make_world: Make) -> None:
    world = make_world()
    world.ask("prepare")
    with AttemptStore(world.sites["north"] / "state.sqlite") as store:
        key = (world.plan.digest, 1, 1)
        unit = next(iter(store.rows(key)))
        store.forget(key)
        store.keep_sample(key, state_sha256(START), [unit])
        store.keep_rows(key, [(unit, np.full(DIMENSION, 1e30, dtype=np.float32))])
    world.ask("prepare")
    words = world.ask("plain_input").words
    assert words is not None
    assert np.linalg.norm(from_ring(words, 1, world.plan.grid.site_clamp)) <= world.plan.privacy.sensitivity
