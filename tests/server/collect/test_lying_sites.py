"""A site with a key of its own signs what is wrong: it is left out where that is proven, and the study goes on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.entropy import InsecureTestEntropy
from tests.support.hand_session import plain_sum
from tests.support.lines import Lines
from tests.support.world import World, secure
from undertone.core.progress import reporting
from undertone.errors import MechanismViolation, TooFewSites, UnfaithfulSite
from undertone.secagg import sealing, shamir
from undertone.secagg.encoding import entry_list
from undertone.secagg.messages import SEALED_BYTES, SealedShares, UnmaskingShares
from undertone.wire.messages import Reply, Request
from undertone_client.node import Node
from undertone_client.round import session as site_session

Make = Callable[..., World]
LIAR, SITES = "e", 5
random = InsecureTestEntropy(9)


def five(make_world: Make, rosters: str = "chain", **plan: Any) -> World:
    aggregation = secure(SITES, rosters=rosters)
    return make_world(dict.fromkeys("abcde", 4), aggregation=aggregation, **({"sampling_rate": 0.9} | plan))


def lies(patch: pytest.MonkeyPatch, kind: str, lie: Callable[[Node, Reply], Reply]) -> None:
    """The liar answers `kind` with `lie(reply)`."""
    handle = Node.handle

    def lying(self: Node, request: Request) -> Reply:
        reply = handle(self, request)
        return lie(self, reply) if self.site.config.site == LIAR and request.kind == kind and reply.body else reply

    patch.setattr(Node, "handle", lying)


def garbage_for(number: int) -> Callable[[Node, Reply], Reply]:
    """Seals garbage for so many sites and signs it: the coordinator cannot tell."""

    def lie(node: Node, reply: Reply) -> Reply:
        context = reply.body[2:34]
        honest = SealedShares.from_bytes(reply.body, context, SITES)
        boxes = [(j, random.bytes(SEALED_BYTES) if j < number else box) for j, box in honest.sealed]
        digest = sealing.sealed_shares_statement(context, honest.round_digest, honest.index, entry_list(boxes))
        signature = sealing.sign_statement(node.site.identity(), digest)
        return replace(reply, body=replace(honest, sealed=tuple(boxes), signature=signature).to_bytes(context))

    return lie


def wrong_sharing(patch: pytest.MonkeyPatch) -> None:
    """The liar's shares lie on no polynomial."""
    deal, handle = shamir.deal, Node.handle

    def lying(self: Node, request: Request) -> Reply:
        if self.site.config.site == LIAR and request.kind == "share_keys":
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(
                    shamir, "deal", lambda *_: [b"\0" + random.bytes(32) for _ in deal(bytes(32), [], range(1, 6))]
                )
                return handle(self, request)
        return handle(self, request)

    patch.setattr(Node, "handle", lying)


def sites_in(world: World, round_: int = 1) -> tuple[str, ...]:
    kept = world.run.kept_noised(round_)
    assert kept is not None
    return kept[2]


def test_garbage_for_everyone_costs_its_sender_alone(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, draws: list[np.ndarray]
) -> None:
    """All others refuse. None is charged, and another session of the same attempt goes on without the liar."""
    world = five(make_world, sampling_rate=1.0)
    lies(monkeypatch, "share_keys", garbage_for(4))
    said = Lines()
    with reporting(said):
        world.run_rounds()
    assert sites_in(world) == tuple("abcd")
    kept = world.run.kept_noised(1)
    assert kept is not None
    np.testing.assert_array_equal(kept[1] - plain_sum(world, "abcd"), draws[-1])
    assert world.charges() == [(1, 1)]
    assert [world.charges(site) for site in "abcd"] == [[(1, 1)]] * 4
    assert said.lines[-1].startswith("round 1: e is missing: left out of this study: what it sealed")


def test_garbage_for_some_costs_the_attempt_and_the_next_goes_on(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, "free", max_attempts=2)
    lies(monkeypatch, "share_keys", garbage_for(2))
    with pytest.raises(TooFewSites, match="left out from here on: e"):
        world.run_rounds()
    assert [world.charges(site) for site in "abcd"] == [[], [], [(1, 1)], [(1, 1)]]  # whoever refused pays nothing
    world.run_rounds()  # another process: what was proven is on disk
    assert sites_in(world) == tuple("abcd")
    assert world.charges() == [(1, 2)]


def test_where_lists_form_a_chain_the_next_attempt_follows_by_itself(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, max_attempts=2)
    lies(monkeypatch, "share_keys", garbage_for(2))
    world.run_rounds()
    assert sites_in(world) == tuple("abcd")
    assert world.charges() == [(1, 2)]
    assert [world.charges(site) for site in "abcd"] == [[(1, 2)], [(1, 2)], [(1, 1), (1, 2)], [(1, 1), (1, 2)]]


def test_garbage_for_one_costs_that_one_its_place_in_the_sum(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One accuser is not enough: with c = 1 it may be the liar."""
    world = five(make_world)
    lies(monkeypatch, "share_keys", garbage_for(1))
    world.run_rounds()
    assert sites_in(world) == tuple("bcde")
    assert not (world.run.checkpoints / "left-out").exists()


def test_one_site_cannot_have_another_left_out(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world, handle = five(make_world, rounds=3, max_attempts=4), Node.handle

    def accusing(self: Node, request: Request) -> Reply:
        if self.site.config.site == LIAR and request.kind in ("share_keys", "masked_input"):
            blamed = "abc"[request.round - 1]
            return Reply(LIAR, 1, error="UnfaithfulCoordinator", message="was changed", blamed=blamed)
        return handle(self, request)

    monkeypatch.setattr(Node, "handle", accusing)
    world.run_rounds()
    assert [sites_in(world, round_) for round_ in (1, 2, 3)] == [tuple("abcd")] * 3
    assert not (world.run.checkpoints / "left-out").exists()


def test_one_accuser_has_nobody_left_out_of_an_attempt_that_fails(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With c = 1 it may be the liar: the attempt is lost, for d did not answer either, and nothing is proven."""
    world, handle = five(make_world, "free", max_attempts=2), Node.handle

    def accusing(self: Node, request: Request) -> Reply:
        name = self.site.config.site
        if request.kind != "masked_input" or name not in "de":
            return handle(self, request)
        return Reply(name, 1, error="UnfaithfulCoordinator", message="was changed", blamed="b" if name == LIAR else "")

    with monkeypatch.context() as patch:
        patch.setattr(Node, "handle", accusing)
        with pytest.raises(TooFewSites, match="3 sites answered"):
            world.run_rounds()
    assert not (world.run.checkpoints / "left-out").exists()
    world.run_rounds()
    assert sites_in(world) == tuple("abcde")


def test_shares_of_nothing_cost_one_attempt(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum with the liar's mask in it can never be opened; five shares with one liar among them prove whose."""
    world = five(make_world, "free", max_attempts=2)
    with monkeypatch.context() as patch:
        wrong_sharing(patch)
        with pytest.raises(UnfaithfulSite, match="the shares of e"):
            world.run_rounds()
        world.run_rounds()
    assert sites_in(world) == tuple("abcd")
    assert world.charges() == [(1, 2)]
    assert "dealt shares" in (world.run.checkpoints / "left-out" / LIAR).read_text()


def test_a_liar_on_a_list_that_was_signed_ends_a_chain_as_one_that_goes_away_does(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other four may not sign a list without it alone; they learn why, and nothing that was charged is lost."""
    world = five(make_world, max_attempts=2)
    with monkeypatch.context() as patch:
        wrong_sharing(patch)
        with pytest.raises(UnfaithfulSite, match="the shares of e"):
            world.run_rounds()
        with pytest.raises(TooFewSites, match=r"e: left out of this study: it dealt shares.*cannot shrink"):
            world.run_rounds()
    assert world.charges() == []


def test_nobody_is_left_out_where_it_is_not_proven(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four shares with a lie among them: the owner may have dealt it, or any one may have changed his."""
    world, handle = five(make_world, max_attempts=2), Node.handle

    def fewer(self: Node, request: Request) -> Reply:
        silent = self.site.config.site == "d" and request.kind == "unmasking"
        return Reply("d", 1, error="SiteFault", message="no") if silent else handle(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(Node, "handle", fewer)
        wrong_sharing(patch)
        with pytest.raises(UnfaithfulSite, match="the shares of"):
            world.run_rounds()
    assert not (world.run.checkpoints / "left-out").exists()
    world.run_rounds()
    assert sites_in(world) == tuple("abcde")


def test_wrong_shares_at_the_end_change_nothing(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, draws: list[np.ndarray]
) -> None:
    world, r1 = five(make_world), []

    def remember(_node: Node, reply: Reply) -> Reply:
        r1.append(SealedShares.from_bytes(reply.body, reply.body[2:34], SITES).round_digest)
        return reply

    def lie(node: Node, reply: Reply) -> Reply:
        context = reply.body[2:34]
        honest = UnmaskingShares.from_bytes(reply.body, context, SITES)
        entries, everyone = [(j, b"\0" + random.bytes(32)) for j, _ in honest.shares], tuple(range(SITES))
        digest = sealing.unmasking_statement(context, r1[-1], honest.index, everyone, everyone, entry_list(entries))
        signature = sealing.sign_statement(node.site.identity(), digest)
        return replace(reply, body=replace(honest, shares=tuple(entries), signature=signature).to_bytes(context))

    lies(monkeypatch, "share_keys", remember)
    lies(monkeypatch, "unmasking", lie)
    world.run_rounds()
    kept = world.run.kept_noised(1)
    assert kept is not None
    assert kept[2] == tuple("abcde")  # its vector is in the sum; its shares were not needed
    np.testing.assert_array_equal(kept[1] - plain_sum(world, "abcde"), draws[-1])


def test_a_vector_that_is_not_clamped_costs_the_attempt_and_the_next_goes_on(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under masks nobody can say whose it was: a named error, and going on works."""
    world, handle, to_ring = five(make_world, "free", max_attempts=3), Node.handle, site_session.to_ring

    def lying(self: Node, request: Request) -> Reply:
        with pytest.MonkeyPatch.context() as inner:
            if self.site.config.site == LIAR and request.kind == "masked_input":
                inner.setattr(site_session, "to_ring", lambda values: to_ring(values) + np.uint32(1 << 31))
            return handle(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(Node, "handle", lying)
        for _ in range(2):
            with pytest.raises(MechanismViolation, match="did not clamp"):
                world.run_rounds(absent=["d"])  # of five, the clamps fill the modulus: a sum beyond them wraps
    assert world.charges() == []
    world.run_rounds()
    assert sites_in(world) == tuple("abcde")
    assert world.charges() == [(1, 3)]
