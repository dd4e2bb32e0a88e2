"""Secure aggregation with real nodes: Flower's records, SITE_DIRs on disk and the coordinator's round loop."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.approvals import HUB, approved
from tests.support.dummy import DIMENSION
from tests.support.failpoints import Killed, kill_after, kill_before
from tests.support.hand_session import HandSession, changed, fails_at, plain_sum, said
from tests.support.world import START, World, secure
from undertone.core.federation import Federation, sign_federation
from undertone.core.federation_files import write_federation
from undertone.core.keys import public_hex
from undertone.errors import BudgetExceeded, FolderError, TooFewSites
from undertone.privacy.ledger import Ledger
from undertone.secagg.transcript import check_transcript
from undertone.wire.messages import Reply
from undertone_client.node import Node
from undertone_client.site.folder import SiteDir
from undertone_server.run_folder import RunFolder

Make = Callable[..., World]
FIVE = {"centre": 4, "east": 4, "north": 6, "south": 4, "west": 6}
FREE = secure(5, rosters="free")
TEN = {f"site-{letter}": 4 for letter in "abcdefghij"}


def five(make_world: Make, **options: Any) -> World:
    return make_world(FIVE, **({"aggregation": secure(5)} | options))


def noised(world: World, round_: int = 1) -> tuple[np.ndarray, tuple[str, ...]]:
    kept = world.run.kept_noised(round_)
    assert kept is not None
    return kept[1], kept[2]


# --- the sum, and nothing but the sum ---------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 24])
def test_the_opened_sum_is_the_plain_sum_bit_for_bit(make_world: Make, draws: list[np.ndarray], bits: int) -> None:
    world = five(make_world, wire_bits=bits)
    world.run_rounds()
    values, sites = noised(world)
    assert sites == tuple(FIVE)
    np.testing.assert_array_equal(values - plain_sum(world, FIVE), draws[-1])
    assert world.charges() == [(1, 1)]
    assert [world.charges(site) for site in FIVE] == [[(1, 1)]] * 5


@pytest.mark.parametrize(("bits", "bytes_each"), [(32, 4), (24, 3)])
def test_what_a_site_sends_is_masked_and_as_short_as_the_plan_says(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, bits: int, bytes_each: int
) -> None:
    world = five(make_world, wire_bits=bits)
    handle, seen = Node.handle, {}

    def watched(self: Node, request: Any) -> Reply:
        reply = handle(self, request)
        if reply.words is not None:
            seen[self.site.config.site] = reply.words.copy()
        return reply

    monkeypatch.setattr(Node, "handle", watched)
    world.run_rounds()
    assert set(seen) == set(FIVE)
    for site, words in seen.items():
        assert words.nbytes == bytes_each * DIMENSION
        if bits == 32:
            difference = words.view(np.int32) - plain_sum(world, [site])
            # A uniform word is within 2^26 of any value with probability 1/32.
            assert (np.abs(difference.astype(np.int64)) > 1 << 26).sum() > DIMENSION / 2


def test_ten_sites_of_which_three_drop_give_the_sum_of_seven(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, draws: list[np.ndarray]
) -> None:
    world = make_world(TEN, aggregation=secure(10))
    fails_at(monkeypatch, {"site-a": "prepare", "site-d": "share_keys", "site-h": "masked_input"})
    world.run_rounds()
    values, sites = noised(world)
    assert sites == tuple(sorted(set(TEN) - {"site-a", "site-d", "site-h"}))
    np.testing.assert_array_equal(values - plain_sum(world, sites), draws[-1])


def test_a_site_that_leaves_after_its_vector_is_in_the_sum(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, draws: list[np.ndarray]
) -> None:
    world = make_world(TEN, aggregation=secure(10))
    fails_at(monkeypatch, {"site-a": "consistency_check", "site-d": "unmasking", "site-h": "masked_input"})
    world.run_rounds()
    values, sites = noised(world)
    assert sites == tuple(sorted(set(TEN) - {"site-h"}))
    np.testing.assert_array_equal(values - plain_sum(world, sites), draws[-1])


@pytest.mark.parametrize("stage", ["prepare", "share_keys", "masked_input", "consistency_check", "unmasking"])
def test_more_dropouts_than_the_threshold_bears_open_nothing(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    world = five(make_world)  # t = 4
    fails_at(monkeypatch, {"east": stage, "south": stage})
    with pytest.raises(TooFewSites, match="3 sites answered, the plan needs 4") as caught:
        world.run_rounds()
    assert "east: did not answer" in str(caught.value) or "east: " in str(caught.value)
    assert world.charges() == []
    assert world.run.kept_noised(1) is None
    sent = stage in ("masked_input", "consistency_check", "unmasking")
    assert world.charges("north") == ([(1, 1)] if sent else [])  # charged where the vector left, true to the fact
    assert world.run.attempts_asked(1) == ([1] if sent else [])


def test_with_free_lists_a_site_that_was_away_is_back_in_the_next_round(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, aggregation=FREE, rounds=2, max_attempts=3, sampling_rate=0.9)
    handle = Node.handle

    def away_once(self: Node, request: Any) -> Reply:
        if self.site.config.site == "east" and request.round == 1 and request.kind != "hello":
            raise ConnectionError
        return handle(self, request)

    monkeypatch.setattr(Node, "handle", away_once)
    world.run_rounds()
    assert noised(world, 1)[1] == ("centre", "north", "south", "west")
    assert noised(world, 2)[1] == tuple(FIVE)


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: replace(reply, body=b""),
        lambda reply: replace(reply, body=reply.body[:-1] + bytes([reply.body[-1] ^ 1])),
        lambda reply: replace(reply, words=None),
        lambda reply: replace(reply, words=reply.words[:-1]),
        lambda reply: replace(reply, words=reply.words + np.uint32(1)),
        lambda reply: replace(reply, words=np.zeros(5, dtype=np.uint8)),
    ],
    ids=["no proof", "forged proof", "no words", "short", "other words", "broken bytes"],
)
def test_a_bad_vector_is_a_dropout(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, change: Callable[[Reply], Reply]
) -> None:
    world = five(make_world)
    handle = Node.handle

    def spoiled(self: Node, request: Any) -> Reply:
        reply = handle(self, request)
        return change(reply) if self.site.config.site == "east" and request.kind == "masked_input" else reply

    monkeypatch.setattr(Node, "handle", spoiled)
    world.run_rounds()
    assert noised(world)[1] == ("centre", "north", "south", "west")


def test_the_audit_log_names_who_is_in_the_sum_and_its_signatures_hold(make_world: Make) -> None:
    world = five(make_world)
    world.run_rounds()
    data = (world.round_folder() / "transcript-001.json").read_bytes()
    assert check_transcript(data, world.run.federation()).sites == tuple(FIVE)
    values = noised(world)[0]
    assert values.tobytes().hex() not in data.hex()


# --- interruptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prepare", "share_keys"])
def test_a_death_before_any_vector_costs_no_attempt(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, draws: list[np.ndarray], kind: str
) -> None:
    world = five(make_world)
    handle = Node.handle

    def dying(self: Node, request: Any) -> Reply:
        reply = handle(self, request)
        if (self.site.config.site, request.kind) == ("south", kind):
            raise Killed
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(Node, "handle", dying)
        with pytest.raises(Killed):
            world.run_rounds()
    world.run_rounds()
    assert world.run.attempts_asked(1) == [1]
    assert world.charges() == [(1, 1)]
    np.testing.assert_array_equal(noised(world)[0] - plain_sum(world, FIVE), draws[-1])


def test_a_death_between_vectors_and_sum_voids_the_attempt_and_at_full_rate_with_free_lists_the_study(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, aggregation=FREE, max_attempts=2)
    with monkeypatch.context() as patch:
        kill_before(patch, RunFolder, "keep_sum")
        with pytest.raises(Killed):
            world.run_rounds()
    with pytest.raises(TooFewSites, match="ReplayedAttempt: round 1 was answered in attempt 1"):
        world.run_rounds()
    assert world.charges() == []
    assert world.charges("north") == [(1, 1)]


@pytest.mark.parametrize(("rosters", "rate"), [("free", 0.9), ("chain", 0.9), ("chain", 1.0)])
def test_elsewhere_a_void_attempt_is_followed_by_another(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, rosters: str, rate: float
) -> None:
    world = five(make_world, aggregation=secure(5, rosters=rosters), max_attempts=2, sampling_rate=rate)
    with monkeypatch.context() as patch:
        kill_before(patch, RunFolder, "keep_sum")
        with pytest.raises(Killed):
            world.run_rounds()
    world.run_rounds()
    assert world.charges() == [(1, 2)]
    assert world.charges("north") == [(1, 1), (1, 2)]


def test_secrets_of_a_session_are_gone_when_it_ends(make_world: Make) -> None:
    world = five(make_world)
    world.run_rounds()
    for folder in world.sites.values():
        assert list((folder / "sessions").iterdir()) == []


# --- one step, one answer ---------------------------------------------------------------------------


def test_each_step_answers_once(make_world: Make) -> None:
    world = five(make_world)
    session = HandSession(world)
    key_list = session.prepare()
    inboxes = session.share_keys(key_list)
    assert session.ask("share_keys", "north", key_list).error == "ReplayedAttempt"
    lists = session.masked_input(inboxes)
    assert session.ask("masked_input", "north", inboxes["north"]).error == "ReplayedAttempt"
    signatures = session.consistency_check(lists)
    assert session.ask("consistency_check", "north", lists).error == "ReplayedAttempt"
    session.unmasking(signatures)
    assert session.ask("unmasking", "north", signatures).error == "ReplayedAttempt"


def test_of_two_requests_at_one_step_one_is_answered(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two signatures on two lists of survivors would open what must stay closed; both requests wait at the ledger."""
    session = HandSession(five(make_world))
    lists = session.masked_input(session.share_keys(session.prepare()))
    both, append = Barrier(2, timeout=60), Ledger.append

    def together(ledger: Ledger, kind: str, *arguments: Any) -> str:
        if kind == "secagg":
            both.wait()
        return append(ledger, kind, *arguments)

    monkeypatch.setattr(Ledger, "append", together)
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda _: session.ask("consistency_check", "north", lists), range(2)))
    assert sorted(reply.error for reply in replies) == ["", "ReplayedAttempt"]


def test_a_session_that_was_broken_off_keeps_no_secrets_once_another_opens(make_world: Make) -> None:
    world = five(make_world, max_attempts=2)
    first = HandSession(world)
    first.share_keys(first.prepare())
    (broken_off,) = (world.sites["north"] / "sessions").iterdir()
    HandSession(world, attempt=2).prepare()
    (stored,) = (world.sites["north"] / "sessions").iterdir()
    assert stored.name != broken_off.name


def test_a_refused_message_ends_the_session_at_that_site(make_world: Make) -> None:
    session = HandSession(five(make_world))
    inboxes = session.share_keys(session.prepare())
    assert session.ask("masked_input", "north", inboxes["south"]).error == "UnfaithfulCoordinator"
    assert session.ask("masked_input", "north", inboxes["north"]).error == "ReplayedAttempt"


@pytest.mark.parametrize("number", [1, 2])
def test_session_numbers_only_rise(make_world: Make, number: int) -> None:
    world = five(make_world)
    HandSession(world, session=2).prepare()
    again = HandSession(world, session=number)
    reply = again.ask("prepare", "north", again.params.to_bytes(), state=START)
    assert reply.error == "ReplayedAttempt"


def test_attack_an_older_state_put_back_is_found_out_by_the_ledger(make_world: Make) -> None:
    world = five(make_world)
    session = HandSession(world)
    inboxes = session.share_keys(session.prepare())
    lists = session.masked_input(inboxes)
    (stored,) = (world.sites["north"] / "sessions").iterdir()
    masked = stored.read_bytes()
    said(session.ask("consistency_check", "north", lists))
    stored.write_bytes(masked)  # the operator restores a backup between two messages
    assert session.ask("consistency_check", "north", lists).error == "ReplayedAttempt"
    assert session.ask("unmasking", "north", lists).error == "ReplayedAttempt"


def test_attack_a_second_session_after_the_vector_left_is_refused(make_world: Make) -> None:
    world = five(make_world)
    first = HandSession(world)
    first.masked_input(first.share_keys(first.prepare()))
    second = HandSession(world, session=2)
    reply = second.ask("prepare", "north", second.params.to_bytes(), state=START)
    assert reply.error == "ReplayedAttempt"


def test_attack_a_second_attempt_at_full_rate_with_free_lists_is_refused(make_world: Make) -> None:
    """Two opened sums over different sites would subtract to one site's sum (PRIVACY 12)."""
    world = five(make_world, aggregation=FREE, max_attempts=2)
    HandSession(world).run()
    smaller = HandSession(world, attempt=2, sites=sorted(FIVE)[1:])
    reply = smaller.ask("prepare", "north", smaller.params.to_bytes(), state=START)
    assert reply.error == "ReplayedAttempt"
    assert "answered in attempt 1" in reply.message


def test_attack_another_model_state_for_one_site_is_refused(make_world: Make) -> None:
    session = HandSession(five(make_world))
    body = session.params.to_bytes()
    assert session.ask("prepare", "north", body, state=START + 1).error == "UnfaithfulCoordinator"
    # With parameters to match, the lie is in the context, and the others' messages do not fit.
    other = changed(session.params, state_sha256="0" * 64)
    assert session.ask("prepare", "east", other, state=START).error == "UnfaithfulCoordinator"


@pytest.mark.parametrize(
    "values",
    [
        {"threshold": 3},
        {"colluders": 0},
        {"min_sites": 3},
        {"wire_bits": 24},
        {"scale": 1 << 30},
        {"site_clamp": 1},
        {"round": 2},
        {"attempt": 2},
        {"session": 7},
        {"federation": "1" * 64},
        {"roster": tuple(sorted(FIVE))[:4]},
        {"noise": "distributed", "sigma_local": 4},
        {"study": "2" * 64},
        {"rosters": "free"},
    ],
    ids=lambda values: "+".join(values),
)
def test_attack_parameters_that_are_not_the_plans_are_refused(make_world: Make, values: dict[str, Any]) -> None:
    world = five(make_world)
    session = HandSession(world)
    reply = session.ask("prepare", "north", changed(session.params, **values), state=START)
    assert reply.error == "UnfaithfulCoordinator"
    assert next(iter(values)) in reply.message or "roster" in reply.message
    assert world.charges("north") == []


# --- what a site has not agreed to ------------------------------------------------------------------


def test_plain_aggregation_needs_the_sites_word(make_world: Make) -> None:
    world = make_world()
    world.allow("north", allow_plain=False)
    reply = world.ask("prepare")
    assert reply.error == "NotApproved"
    assert "allow_plain: the plan says" in reply.message


def test_a_federation_that_the_site_did_not_pin_is_refused(make_world: Make) -> None:
    world = five(make_world)
    session = HandSession(world)
    honest = world.run.federation()
    sites = dict(honest.sites) | {"east": "ab" * 32}  # a key of the coordinator's own making
    forged = Federation(honest.name, honest.coordinator, sites)
    signature = world.run.keep_federation(forged)
    folder = SiteDir(world.sites["north"]).federation_folder(HUB)
    (folder / "federation.json").write_bytes(forged.to_bytes())
    (folder / "federation.sig").write_text(signature)
    reply = session.ask("prepare", "north", session.params.to_bytes(), state=START)
    assert reply.error == "NotApproved"


@pytest.mark.parametrize("damage", ["missing", "not ASCII"])
def test_a_federation_that_cannot_be_read_is_said_without_a_path(make_world: Make, damage: str) -> None:
    world = five(make_world)
    session = HandSession(world)
    for folder in (SiteDir(world.sites["north"]).federation_folder(HUB), world.run.folder):
        (folder / "federation.sig").unlink()
        if damage == "not ASCII":
            (folder / "federation.sig").write_bytes(b"\xff" * 128)
    reply = session.ask("prepare", "north", session.params.to_bytes(), state=START)
    assert reply.error == "NotApproved"
    assert reply.message == "north has no readable federation.json and federation.sig"
    with pytest.raises(FolderError, match="no readable federation"):
        world.run.federation()


def test_a_site_without_a_federation_takes_no_part(make_world: Make) -> None:
    world = five(make_world)
    world.allow("north", federations={})
    session = HandSession(world)
    reply = session.ask("prepare", "north", session.params.to_bytes(), state=START)
    assert (reply.error, "no federation" in reply.message) == ("NotApproved", True)


def test_a_federation_that_does_not_hold_is_refused_whoever_pinned_it(make_world: Make) -> None:
    """Expired; of a coordinator of another name at this site; with another key for this site, or none."""
    world = five(make_world)
    session, honest = HandSession(world), world.run.federation()
    site, others = SiteDir(world.sites["north"]), {name: key for name, key in honest.sites.items() if name != "north"}
    for changes, told in (
        ({"expires": "2026-01-01T00:00:00Z"}, "expired at 2026-01-01T00:00:00Z"),
        ({"sites": {**others, "north": "ab" * 32}}, "names another key for north"),
        ({"sites": others}, "does not name north"),
    ):
        federation = replace(honest, **changes)
        site.join(HUB, federation, world.run.keep_federation(federation))
        approved(site, world.plan)
        reply = session.ask("prepare", "north", session.params.to_bytes(), state=START)
        assert (reply.error, told in reply.message) == ("NotApproved", True), reply.message
    other = Ed25519PrivateKey.generate()
    foreign = replace(honest, coordinator=public_hex(other))
    world.allow("north", federations={HUB: foreign.digest})
    write_federation(site.federation_folder(HUB), foreign, sign_federation(foreign, other))
    approved(SiteDir(site.folder), world.plan)
    reply = session.ask("prepare", "north", session.params.to_bytes(), state=START)
    assert (reply.error, "another coordinator's" in reply.message) == ("NotApproved", True)


def test_messages_of_the_other_aggregation_are_refused(make_world: Make) -> None:
    world = make_world()
    for kind in ("share_keys", "consistency_check", "unmasking"):
        assert world.ask(kind).error == "ProtocolError"


def test_a_session_that_was_never_opened_answers_nothing(make_world: Make) -> None:
    world = five(make_world)
    for kind in ("share_keys", "masked_input", "consistency_check", "unmasking"):
        assert world.ask(kind, session=1).error == "ReplayedAttempt"


# --- distributed noise ------------------------------------------------------------------------------

SHARES = {"noise": "distributed", "max_attempts": 2}


@pytest.fixture
def noise_shares(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every noise share that a node draws."""
    from undertone_client.round import noise_share

    original, drawn = noise_share.discrete_gaussian, []

    def recorded(*arguments: Any) -> np.ndarray:
        drawn.append(original(*arguments))
        return drawn[-1]

    monkeypatch.setattr(noise_share, "discrete_gaussian", recorded)
    return drawn


@pytest.mark.parametrize("bits", [32, 24])
def test_with_distributed_noise_no_one_sees_a_sum_without_it(
    make_world: Make, draws: list[np.ndarray], noise_shares: list[np.ndarray], bits: int
) -> None:
    world = five(make_world, wire_bits=bits, **SHARES)
    world.run_rounds()
    values, sites = noised(world)
    assert sites == tuple(FIVE)
    assert (len(noise_shares), draws) == (5, [])  # each site one, the coordinator none
    np.testing.assert_array_equal(values - plain_sum(world, FIVE), sum(noise_shares))
    assert not list(world.round_folder().glob("sum-*"))
    assert world.charges() == [(1, 1)]


def test_distributed_noise_is_charged_before_the_sum_is_opened(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = five(make_world, **SHARES)
    handle, charged = Node.handle, []

    def watched(self: Node, request: Any) -> Reply:
        if request.kind == "unmasking":
            charged.append(world.charges())
        return handle(self, request)

    monkeypatch.setattr(Node, "handle", watched)
    world.run_rounds()
    assert charged == [[(1, 1)]] * 5


def test_a_death_after_that_charge_costs_the_attempt(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = five(make_world, **SHARES)
    for _ in range(2):
        with monkeypatch.context() as patch:
            kill_before(patch, RunFolder, "keep_with_noise_shares")
            with pytest.raises(Killed):
                world.run_rounds()
    with pytest.raises(BudgetExceeded):
        world.run_rounds()
    assert world.charges() == [(1, 1), (1, 2)]


def test_v_of_distributed_noise_survives_a_death(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, noise_shares: list[np.ndarray]
) -> None:
    world = five(make_world, **SHARES)
    with monkeypatch.context() as patch:
        kill_after(patch, RunFolder, "keep_with_noise_shares")
        with pytest.raises(Killed):
            world.run_rounds()
    before = noised(world)[0]
    world.run_rounds()
    np.testing.assert_array_equal(noised(world)[0], before)
    assert len(noise_shares) == 5
    assert world.charges() == [(1, 1)]
