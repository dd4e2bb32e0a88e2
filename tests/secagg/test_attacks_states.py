"""A coordinator that lies drives real nodes: steps, states, masks, the log (docs/secure-aggregation.md, 8)."""

import inspect
import json

import numpy as np
import pytest

from tests.support.attack import Attack, restore_at
from tests.support.secagg import STATE, KeptLists, session, vector, world
from undertone.core.canonical import canonical_json
from undertone.core.federation import Federation
from undertone.errors import (
    LedgerCorrupt,
    NotApproved,
    NotVerified,
    ProtocolError,
    ReplayedAttempt,
    UnfaithfulCoordinator,
)
from undertone.secagg import sealing, shamir
from undertone.secagg.encoding import tagged
from undertone.secagg.messages import AdvertisedKeys, AdvertisedKeysList, ConsistencyLists, UnmaskingShares
from undertone.secagg.node import KeysAdvertised, KeysShared, Unmasked, advertise_keys, restore
from undertone.secagg.parameters import Parameters
from undertone.secagg.prg import add_masks
from undertone.secagg.transcript import check_transcript

# Steps again


def test_attack_a_second_survivor_list():
    attack = Attack()
    attack.lists()
    state = attack.run.states[attack.victim]
    state.consistency_check(attack.listed, KeptLists())
    for lists in (attack.listed, ConsistencyLists((0, 1, 2, 3, 4), (0, 1, 2, 3)).to_bytes(attack.context)):
        with pytest.raises(ReplayedAttempt):
            state.consistency_check(lists, KeptLists())


def test_attack_every_step_again():
    attack = Attack()
    attack.advertise_keys()
    state = attack.run.states[attack.victim]
    state.share_keys(attack.broadcast)
    with pytest.raises(ReplayedAttempt):
        state.share_keys(attack.broadcast)
    attack = Attack()
    attack.inboxes()
    state = attack.run.states[attack.victim]
    state.masked_input(attack.boxes[attack.victim], attack.words())
    words = attack.words()
    with pytest.raises(ReplayedAttempt):
        state.masked_input(attack.boxes[attack.victim], words)
    np.testing.assert_array_equal(words, attack.words())
    attack = Attack()
    attack.consistency_check()
    state = attack.run.states[attack.victim]
    state.unmasking(attack.signature_list)
    with pytest.raises(ReplayedAttempt):
        state.unmasking(attack.signature_list)
    with pytest.raises(ReplayedAttempt):
        state.to_bytes()


def test_attack_a_refused_message_ends_the_session():
    attack = Attack()
    attack.lists()
    with pytest.raises(UnfaithfulCoordinator):
        attack.send("consistency_check", ConsistencyLists((0, 1, 2, 3, 4), (1, 2, 3, 4)))
    with pytest.raises(ReplayedAttempt):
        attack.run.states[attack.victim].consistency_check(attack.listed, KeptLists())


def test_attack_a_node_is_put_back_to_an_older_state():
    attack = Attack()
    stored = {1: None}
    attack.advertise_keys()
    stored[1] = attack.run.states[attack.victim].to_bytes()
    attack.boxes = attack.server.share_keys(attack.run.share_keys(attack.broadcast, attack.scene.roster))
    stored[2] = attack.run.states[attack.victim].to_bytes()
    attack.run.masked_input(attack.victim, attack.boxes[attack.victim])
    stored[3] = attack.run.states[attack.victim].to_bytes()
    for step, data in stored.items():
        assert step == restore_at(attack, attack.victim, data, step).STEP
        for newest in range(step + 1, 6):
            with pytest.raises(ReplayedAttempt, match="older"):
                restore_at(attack, attack.victim, data, newest)
    # Nor does an old state pass for a newer one when its label is changed.
    with pytest.raises(LedgerCorrupt):
        restore_at(attack, attack.victim, bytes((1, 0x13)) + stored[2][2:], 3)


def test_attack_a_node_that_shares_again_repeats_its_bytes():
    # Put back by a crash between storing and sending: no sealing key ever meets two plaintexts.
    attack = Attack()
    attack.advertise_keys()
    stored = attack.run.states[attack.victim].to_bytes()
    first = restore_at(attack, attack.victim, stored, 1).share_keys(attack.broadcast)
    second = restore_at(attack, attack.victim, stored, 1).share_keys(attack.broadcast)
    assert first[1] == second[1]
    assert first[0].to_bytes() == second[0].to_bytes()


def test_attack_the_stored_state_of_another_session_or_site():
    attack = Attack()
    attack.advertise_keys()
    stored = attack.run.states[attack.victim].to_bytes()
    scene = attack.scene
    with pytest.raises(LedgerCorrupt, match="another session"):
        restore(
            stored, 1, scene.but(session=2).params, attack.victim, scene.identities[attack.victim], scene.federation
        )
    with pytest.raises(LedgerCorrupt, match="another site"):
        restore_at(attack, "site-001", stored, 1)
    for damaged in (stored[:-1], stored + b"\0", bytes([*stored[:60], stored[60] ^ 1, *stored[61:]]), b"", b"\1"):
        with pytest.raises(LedgerCorrupt):
            restore_at(attack, attack.victim, damaged, 1)
    longer = stored[:-32] + b"\0"
    with pytest.raises(LedgerCorrupt, match="goes on"):
        restore_at(attack, attack.victim, longer + tagged("state", longer), 1)
    with pytest.raises(LedgerCorrupt):
        KeysShared.from_bytes(stored, scene.params, attack.victim, scene.identities[attack.victim], scene.federation)
    with pytest.raises(NotApproved):
        KeysAdvertised.from_bytes(stored, scene.params, attack.victim, scene.identities["site-001"], scene.federation)


# Masks


def test_attack_the_server_cannot_choose_a_mask():
    # All of a session's secrets are 128 bytes of the node's own entropy, drawn before anything is received.
    class Counting:
        def __init__(self):
            self.sizes = []

        def bytes(self, n):
            self.sizes.append(n)
            return bytes([len(self.sizes)]) * n

        def bits(self, k):
            raise AssertionError("no bits are drawn")

    scene, entropy = world(5), Counting()
    state, advertised = advertise_keys(
        scene.params, "site-000", scene.identities["site-000"], scene.federation, entropy
    )
    assert entropy.sizes == [32, 32, 32, 32]
    sent = AdvertisedKeys.from_bytes(advertised, scene.params.context, 5)
    assert sent.seal_key == sealing.public_of(b"\2" * 32)
    assert sent.mask_key == sealing.public_of(b"\3" * 32)
    assert sent.commitment == sealing.commitment(scene.params.context, 0, b"\1" * 32)
    # No later step takes entropy, a seed or a key from anybody.
    assert list(inspect.signature(type(state).share_keys).parameters) == ["self", "message"]
    assert list(inspect.signature(KeysShared.masked_input).parameters) == ["self", "message", "words"]


def test_attack_the_late_vector_of_a_dropped_site():
    # The coordinator holds site 4's vector back, has it declared dropped, gets cm_4, and then still has the vector.
    attack = Attack(5, 1000)
    attack.inboxes()
    late, proof = attack.run.masked_input("site-004", attack.boxes["site-004"])
    private = attack.run.states["site-004"]
    survivors = attack.scene.roster[:4]
    for site in survivors:
        assert attack.server.add_masked_input(site, *attack.run.masked_input(site, attack.boxes[site]))
    attack.listed = attack.server.end_masked_input()
    assert not attack.server.add_masked_input("site-004", late, proof)
    assert attack.server.ignored[0][0] == "site-004"
    signature_list = attack.server.consistency_check(attack.run.consistency_check(attack.listed, survivors))
    replies = attack.run.unmasking(signature_list, survivors)
    opened = attack.server.unmasking(replies)
    np.testing.assert_array_equal(opened.words.view(np.int32), attack.run.plain_sum(survivors))
    # Rebuild cm_4 as the server did and take every pair mask off the late vector: b_4 still hides it.
    shares = {
        index + 1: dict(UnmaskingShares.from_bytes(replies[site], attack.context, 5).shares)[4]
        for index, site in enumerate(survivors)
    }
    cm = shamir.reconstruct(shares)
    key_list = AdvertisedKeysList.from_bytes(attack.broadcast, attack.context, 5)
    assert sealing.public_of(cm) == key_list.advertised[4].mask_key
    r1 = sealing.round_digest(attack.context, key_list)
    pairs = [
        sealing.pair_mask_key(sealing.exchange(cm, key_list.advertised[i].mask_key, "x"), r1, i, 4) for i in range(4)
    ]
    stripped = late.copy()
    add_masks(stripped, pairs, [])
    left = stripped - attack.run.words["site-004"]
    assert len(np.unique(left)) > 990
    # Nobody gives b_4 up any more, and site 4 itself refuses a list without it.
    with pytest.raises(UnfaithfulCoordinator, match="without it"):
        private.consistency_check(attack.listed, KeptLists())
    for site in survivors:
        assert isinstance(attack.run.states[site], Unmasked)


def test_attack_a_second_session_with_another_roster():
    # The same vectors under two rosters: without fresh masks the difference would be one site's vector.
    one = session(world(5, 2000))
    two = session(world(5, 2000, session=2), {"site-004": "advertise_keys"}, seed=1)
    fixed = one.run.words["site-000"]
    two_words = vector(two.run.world, "site-000", 1)
    masks = one.run.masked["site-000"] - fixed, two.run.masked["site-000"] - two_words
    assert np.count_nonzero(masks[0] == masks[1]) <= 2
    # Even one and the same entropy (which never happens) gives other masks: the context is in every key.
    same = session(world(5, 2000, session=2), seed=0)
    masks = one.run.masked["site-000"] - fixed, same.run.masked["site-000"] - same.run.words["site-000"]
    assert np.count_nonzero(masks[0] == masks[1]) <= 2


def test_attack_messages_of_one_session_in_another():
    one, two = Attack(), Attack(session=2)
    one.advertise_keys()
    two.advertise_keys()
    with pytest.raises(ProtocolError, match="another session"):
        one.run.states[one.victim].share_keys(two.broadcast)
    old = one.server.share_keys(one.run.share_keys(one.broadcast, one.scene.roster[1:]))
    two.server.share_keys(two.run.share_keys(two.broadcast, two.scene.roster))
    with pytest.raises(ProtocolError, match="another session"):
        two.run.states["site-001"].masked_input(old["site-001"], two.words("site-001"))


# The audit log


def test_attack_the_transcript_is_touched_up():
    scene = world(5)
    outcome = session(scene, {"site-004": "masked_input"})
    good = outcome.opened.transcript
    checked = check_transcript(good, scene.federation)
    assert checked.sites == scene.roster[:4]
    for site in checked.sites:
        assert checked.vectors[site] == sealing.words_digest(outcome.run.masked[site]).hex()

    def touched(change):
        content = json.loads(good)
        change(content)
        return canonical_json(content)

    changes = {
        "a vector": lambda c: c["vectors"]["site-001"].update(sha256="0" * 64),
        "a vector's signature": lambda c: c["vectors"]["site-001"].update(signature="0" * 128),
        "advertised keys": lambda c: c["advertised_keys"].update({"site-001": c["advertised_keys"]["site-002"]}),
        "advertised keys left out": lambda c: c["advertised_keys"].pop("site-004"),
        "a consistency signature": lambda c: c["consistency_signatures"].update(
            {"site-001": c["consistency_signatures"]["site-002"]}
        ),
        "a survivor": lambda c: c["vectors"].pop("site-001"),
        "who opened": lambda c: c["opened_by"].append("site-004"),
        "too few opened": lambda c: c["opened_by"].pop(),
        "opened twice": lambda c: c["opened_by"].__setitem__(0, "site-001"),
        "masked for": lambda c: c["masked_for"].pop(),
        "round digest": lambda c: c.update(round_digest="0" * 64),
        "parameters": lambda c: c["parameters"].update(min_sites=3),
        "unsound parameters": lambda c: c["parameters"].update(threshold=2),
        "federation": lambda c: c["parameters"].update(federation="0" * 64),
        "a stranger": lambda c: c["opened_by"].__setitem__(0, "mallory"),
        "a type": lambda c: c.update(opened_by=3),
        "capitals": lambda c: c.update(round_digest=c["round_digest"].upper()),
    }
    for change in changes.values():
        with pytest.raises(NotVerified):
            check_transcript(touched(change), scene.federation)
    renamed = Federation("renamed", scene.federation.coordinator, scene.federation.sites)
    with pytest.raises(NotVerified, match="another federation"):
        check_transcript(good, renamed)
    for spoiled in (good + b" ", b"{}", b"", b"[" * 100_000, b'{"parameters":1}'):
        with pytest.raises(NotVerified):
            check_transcript(spoiled, scene.federation)


def test_attack_the_transcript_says_nothing_about_the_sum():
    scene = world(5, 64)
    outcome = session(scene)
    again = session(scene)
    assert STATE in outcome.opened.transcript.decode()
    assert sealing.words_digest(outcome.opened.words).hex() not in outcome.opened.transcript.decode()
    for site, words in outcome.run.words.items():
        assert sealing.words_digest(words).hex() not in outcome.opened.transcript.decode(), site
    assert again.opened.transcript == outcome.opened.transcript


def test_attack_everybody_signs_under_unsound_parameters():
    # Programs without the rules ran this session; whoever reads its transcript still refuses it.
    scene = world(5, threshold=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parameters, "check", lambda self: None)
        transcript = session(scene).opened.transcript
        assert check_transcript(transcript, scene.federation).sites == scene.roster
    with pytest.raises(NotVerified, match="2t > n"):
        check_transcript(transcript, scene.federation)
