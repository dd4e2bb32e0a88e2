"""Who speaks for a site: the name is proven, and no node takes another's place or pushes it out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from tests.support.hostile import FIRST, HostileGrid, MemorySite
from tests.support.lines import Lines
from tests.support.world import START, World, identify, secure
from undertone import PROTOCOL
from undertone.core.keys import SECAGG_DOMAIN, sign
from undertone.core.progress import reporting
from undertone.core.text import REASON, is_shown
from undertone.errors import ProtocolError
from undertone.wire.flower import reply_to_records
from undertone.wire.hello import CHALLENGE_BYTES, PROOF_BYTES, prove, proves
from undertone.wire.messages import Due, Reply, Request
from undertone_client.node import Node
from undertone_client.site.folder import SiteDir
from undertone_server.collect.deadlines import Deadlines
from undertone_server.collect.names import Names
from undertone_server.collect.sites import Sites
from undertone_server.ledger_heads import LedgerHeads, LeftOut

Make = Callable[..., World]
LEDGER_HEAD = "0f" * 32
ROSTER = ("a", "b", "c", "d", "e")


def five(make_world: Make, **plan: Any) -> World:
    identify()
    return make_world(dict.fromkeys(ROSTER, 4), aggregation=secure(5), **({"sampling_rate": 0.9} | plan))


def sites_in(world: World, round_: int = 1) -> tuple[str, ...]:
    kept = world.run.kept_noised(round_)
    assert kept is not None
    return kept[2]


# --- proof ----------------------------------------------------------------------------------------


def test_a_challenge_is_answered_by_the_sites_key_alone(make_world: Make) -> None:
    world = five(make_world)
    federation, challenge = world.run.federation(), b"c" * CHALLENGE_BYTES
    keys = {name: SiteDir(world.sites[name]).identity() for name in ("a", "b")}
    proof = prove(keys["a"], "a", challenge)
    assert len(proof) == PROOF_BYTES
    assert proves(federation, "a", challenge, proof)
    assert not proves(federation, "b", challenge, proof)
    assert not proves(federation, "b", challenge, prove(keys["a"], "b", challenge))
    assert not proves(federation, "stranger", challenge, proof)
    assert not proves(federation, "a", b"d" * CHALLENGE_BYTES, proof)
    assert not proves(federation, "a", challenge, b"")
    assert not proves(federation, "a", challenge, bytes([proof[0] ^ 1]) + proof[1:])
    other = bytes.fromhex(sign(keys["a"], SECAGG_DOMAIN, "0" * 64))
    assert not proves(federation, "a", challenge, other)


def test_a_node_signs_challenges_and_nothing_else(make_world: Make) -> None:
    world = five(make_world)
    for body in (b"", b"x", b"x" * 31, b"x" * 33, b"x" * 64):
        assert world.ask("hello", "a", body=body).body == b""
    assert len(world.ask("hello", "a", body=b"x" * 32).body) == PROOF_BYTES


def test_each_node_is_asked_with_a_challenge_of_its_own(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world, handle, asked = five(make_world), Node.handle, []

    def watched(self: Node, request: Request) -> Reply:
        asked.append((request.kind, request.body))
        return handle(self, request)

    monkeypatch.setattr(Node, "handle", watched)
    world.run_rounds()
    world.run_rounds()
    challenges = [body for kind, body in asked if kind == "hello"]
    assert len(challenges) == len(set(challenges)) == 10


# --- two nodes of one name --------------------------------------------------------------------------


def hello(site: str, error: str = "") -> Reply:
    return Reply(site, PROTOCOL, error=error, message="no" if error else "")


def chosen(names: Names, *answers: tuple[int, Reply]) -> dict[str, tuple[int | None, str]]:
    for node, reply in answers:
        names.heard(node, reply)
    return {site: names.chosen(site, claims) for site, claims in names.claims().items()}


def test_a_name_has_one_node() -> None:
    names = Names(ROSTER)
    both = ((1, hello("a")), (2, hello("a")))
    assert chosen(names, *both) == {"a": (None, "two nodes call themselves a; stop one of them")}
    assert chosen(names, (1, hello("a"))) == {"a": (1, "")}
    assert chosen(names, *both) == {"a": (1, "")}  # the one that is known
    assert chosen(names, *reversed(both)) == {"a": (1, "")}
    names.forget("a")  # it sent something wrong
    assert chosen(names, *both)["a"][0] is None
    assert chosen(names, (2, hello("a"))) == {"a": (2, "")}  # a node that was started anew has another number


def test_a_refusal_pushes_nobody_out() -> None:
    names = Names(ROSTER)
    refusing, able = (1, hello("a", "SiteFault")), (2, hello("a"))
    assert chosen(names, refusing, able) == chosen(names, able, refusing) == {"a": (2, "")}
    assert chosen(names, refusing) == {"a": (None, "SiteFault: no")}


def test_a_node_that_no_longer_knows_its_name_is_the_site_that_it_was() -> None:
    names = Names(ROSTER)
    assert chosen(names, (1, hello("", "SiteFault")), (2, hello("stranger"))) == {}
    chosen(names, (1, hello("a")))
    assert chosen(names, (1, hello("", "SiteFault"))) == {"a": (None, "SiteFault: no")}


@pytest.mark.parametrize("error", ["", "SiteFault"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_site_that_calls_itself_another_costs_itself_alone(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, error: str, order: int
) -> None:
    world, handle = five(make_world), Node.handle
    world.sites = dict([*world.sites.items()][::order])

    def lying(self: Node, request: Request) -> Reply:
        reply = handle(self, request)
        if self.site.config.site != "e" or request.kind != "hello":
            return reply
        return replace(hello("b", error), body=b"" if error else reply.body)

    monkeypatch.setattr(Node, "handle", lying)
    world.run_rounds()
    assert sites_in(world) == tuple("abcd")


@pytest.mark.parametrize("kind", ["prepare", "share_keys", "masked_input", "consistency_check", "unmasking"])
@pytest.mark.parametrize("error", ["", "NotApproved"])
def test_an_answer_in_anothers_name_costs_its_sender_alone(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, kind: str, error: str
) -> None:
    world, handle, said = five(make_world), Node.handle, Lines()

    def lying(self: Node, request: Request) -> Reply:
        reply = handle(self, request)
        if self.site.config.site != "e" or request.kind != kind:
            return reply
        return hello("b", error) if error else replace(reply, site="b")

    monkeypatch.setattr(Node, "handle", lying)
    with reporting(said):
        world.run_rounds()
    assert said.lines[-1] == "round 1: e is missing: answered as b"
    assert all("waiting for e (answered as b)" in line for line in said.lines[:-1])
    assert set(sites_in(world)) >= set("abcd")


def test_a_reply_by_another_node_is_not_heard(make_world: Make) -> None:
    world = five(make_world)
    federation, clamp = world.run.federation(), np.zeros(START.size, dtype=np.int64)
    nodes = {
        FIRST + number: MemorySite(name, SiteDir(world.sites[name]).identity(), federation, clamp, number)
        for number, name in enumerate(ROSTER)
    }

    def forged(message: Message, records: Any) -> Message:
        reply = Message(reply_to_records(Reply("a", PROTOCOL, error="NotApproved", message="no")), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = FIRST + 4
        return reply

    grid: Any = HostileGrid(nodes, {FIRST: forged})
    sites = Sites(grid, ROSTER, federation, Deadlines.equal(0.0))
    sites.find()
    assert sites.present == tuple("bcde")
    assert sites.missing == {"a": "did not answer"}


def test_why_a_site_is_missing_is_one_bounded_line_whoever_says_it(make_world: Make) -> None:
    grid: Any = HostileGrid({})
    sites = Sites(grid, ROSTER, five(make_world).run.federation(), Deadlines.equal(0.0))
    for reason in ("\x1b[2J" + "x" * 10_000, "a\nb", "y" * 501):
        sites.drop("a", reason)
        assert is_shown(sites.missing["a"], REASON)
        sites.leave_out("b", reason)
        assert is_shown(sites.missing["b"], REASON)


def test_two_replies_to_one_message_are_one(make_world: Make) -> None:
    world = five(make_world)
    federation, clamp = world.run.federation(), np.zeros(START.size, dtype=np.int64)
    site = MemorySite("a", SiteDir(world.sites["a"]).identity(), federation, clamp, 0)
    grid: Any = HostileGrid({FIRST: site})
    once = grid.pull_messages

    def twice(identifiers: Any) -> Any:
        for message in once(identifiers):
            yield message
            yield message

    grid.pull_messages = twice
    sites = Sites(grid, ROSTER, federation, Deadlines.equal(0.0))
    sites.find()
    assert sites.present == ("a",)
    grid.changes[FIRST] = lambda _message, _records: reply_to_records(Reply("a", PROTOCOL, ledger_head=LEDGER_HEAD))
    assert [name for name, _ in sites.ask({"a": Request("consistency_check", PROTOCOL)}, Due(ledger_head=True))] == [
        "a"
    ]


# --- what is kept of a site -------------------------------------------------------------------------

GARBAGE = {"not ascii": "\u00e9".encode(), "empty": b"", "no text": b"\xff\xfe\x00", "endless": b"0f" * 5_000_000}


@pytest.mark.parametrize("garbage", [*GARBAGE, "a folder"])
def test_a_damaged_ledger_head_of_an_older_run_costs_its_site_alone(make_world: Make, garbage: str) -> None:
    world, said = five(make_world), Lines()
    path = world.run.checkpoints / "ledger-heads" / "e"
    if garbage == "a folder":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_bytes(GARBAGE[garbage])
    (path.parent / "not a site").write_bytes(b"\xff")
    with reporting(said):
        world.run_rounds()
    assert sites_in(world) == tuple("abcd")
    line = said.lines[-1]
    assert "e is missing: its ledger head in RUN/checkpoints/ledger-heads/e is damaged; restore it" in line


@pytest.mark.parametrize("ledger_head", ["", "\u00e9", "../../../x", "0F" * 32, "0f" * 31, "0f" * 500_000])
def test_what_is_no_ledger_head_is_never_kept(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, ledger_head: str, tmp_path: Any
) -> None:
    world, handle = five(make_world, rounds=2, max_attempts=3), Node.handle

    def lying(self: Node, request: Request) -> Reply:
        reply = handle(self, request)
        return (
            replace(reply, ledger_head=ledger_head)
            if self.site.config.site == "e" and request.kind != "hello"
            else reply
        )

    with monkeypatch.context() as patch:
        patch.setattr(Node, "handle", lying)
        final = world.run_rounds()
    assert sorted(path.name for path in (world.run.checkpoints / "ledger-heads").iterdir()) == list("abcd")
    for absent in (["e"], []):
        np.testing.assert_array_equal(world.run_rounds(absent=absent), final)
    with pytest.raises(ProtocolError, match="nothing was written"):
        LedgerHeads(tmp_path / "ledger-heads")["e"] = ledger_head
    with pytest.raises(ProtocolError, match="nothing was written"):
        LedgerHeads(tmp_path / "ledger-heads")["../e"] = LEDGER_HEAD


def test_who_was_left_out_by_an_earlier_process_stays_so(make_world: Make) -> None:
    world = five(make_world)
    left_out = LeftOut(world.run.checkpoints / "left-out")
    left_out["e"] = "\x1b[2J" + "x" * 10_000
    assert left_out["e"].isprintable()
    said = Lines()
    with reporting(said):
        world.run_rounds()
    assert sites_in(world) == tuple("abcd")
    assert said.lines[-1].startswith("round 1: e is missing: \\x1b[2Jxxx")
