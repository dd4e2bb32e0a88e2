"""A coordinator that lies drives real nodes: shares on their way, and vectors (docs/secure-aggregation.md, 8)."""

import numpy as np
import pytest

from tests.support.attack import Attack, collect, colluders_inbox, restore_at, signed_keys
from undertone.errors import (
    MechanismViolation,
    TooFewSites,
    UnfaithfulCoordinator,
    UnfaithfulSite,
)
from undertone.secagg import sealing, shamir
from undertone.secagg.messages import AdvertisedKeysList, MaskedInputProof, ShareInbox

# Shares on their way


def test_attack_key_lists_differ_by_site():
    # Site 0 sees the keys of five, the others of four: R1 differs, so no seal opens.
    attack = Attack()
    honest = attack.advertise_keys()
    fewer = AdvertisedKeysList(honest.advertised[:4])
    _, message = attack.send("share_keys", honest)
    dealt = attack.run.share_keys(fewer.to_bytes(attack.context), attack.scene.roster[1:4])
    inbox = collect(attack, "site-001", {"site-000": message} | dealt)
    with pytest.raises(UnfaithfulCoordinator, match="site-000 were changed"):
        attack.send("masked_input", inbox, attack.words("site-001"), site="site-001")


def refused_inbox(attack, inbox, error, match):
    words = attack.words()
    with pytest.raises(error, match=match):
        attack.send("masked_input", inbox, words)
    np.testing.assert_array_equal(words, attack.words())


def test_attack_ciphertexts_are_swapped():
    attack = Attack()
    boxes = list(attack.inboxes()["site-000"].sealed)
    (a, first), (b, second) = boxes[:2]
    inbox = ShareInbox(0, ((a, second), (b, first), *boxes[2:]))
    refused_inbox(attack, inbox, UnfaithfulCoordinator, "site-001 were changed")


def test_attack_a_ciphertext_meant_for_another_site():
    attack = Attack()
    inboxes = attack.inboxes()
    stray = dict(inboxes["site-002"].sealed)[1]
    boxes = tuple((j, stray if j == 1 else box) for j, box in inboxes["site-000"].sealed)
    refused_inbox(attack, ShareInbox(0, boxes), UnfaithfulCoordinator, "site-001 were changed")


def test_attack_own_ciphertext_comes_back():
    # The same pair of keys in the other direction: the key and the associated data differ.
    attack = Attack()
    inboxes = attack.inboxes()
    mirror = dict(inboxes["site-001"].sealed)[0]
    boxes = tuple((j, mirror if j == 1 else box) for j, box in inboxes["site-000"].sealed)
    refused_inbox(attack, ShareInbox(0, boxes), UnfaithfulCoordinator, "site-001 were changed")


def test_attack_a_ciphertext_is_replayed_from_another_session():
    attack, earlier = Attack(), Attack(session=2)
    old = earlier.inboxes()["site-000"].sealed
    new = attack.inboxes()["site-000"].sealed
    refused_inbox(attack, ShareInbox(0, (old[0], *new[1:])), UnfaithfulCoordinator, "site-001 were changed")


def test_attack_the_associated_data_alone_ties_a_seal_to_its_direction():
    key, r1 = bytes(32), b"\1" * 32
    box = sealing.seal(key, bytes(66), r1, 1, 2)
    assert sealing.unseal(key, box, r1, 1, 2) == bytes(66)
    for about in ((r1, 2, 1), (r1, 1, 3), (r1, 3, 2), (b"\2" * 32, 1, 2)):
        assert sealing.unseal(key, box, *about) is None


def test_attack_another_sites_inbox():
    attack = Attack()
    refused_inbox(attack, attack.inboxes()["site-001"], UnfaithfulCoordinator, "site-001's inbox")


def test_attack_the_inbox_holds_a_site_without_keys():
    attack = Attack(6)
    listed = attack.server.advertise_keys(attack.run.advertise_keys({"site-005"}))
    inboxes = attack.server.share_keys(attack.run.share_keys(listed, attack.scene.roster[:5]))
    inbox = ShareInbox.from_bytes(inboxes["site-000"], attack.context, 6)
    refused_inbox(attack, ShareInbox(0, (*inbox.sealed, (5, bytes(82)))), UnfaithfulCoordinator, "sent no keys")


def test_attack_the_inbox_holds_the_site_itself():
    attack = Attack()
    inbox = attack.inboxes()["site-000"]
    refused_inbox(attack, ShareInbox(0, ((0, bytes(82)), *inbox.sealed)), UnfaithfulCoordinator, "this site itself")


def test_attack_too_small_a_crowd_to_mask_for():
    attack = Attack()
    inbox = attack.inboxes()["site-000"]
    refused_inbox(attack, ShareInbox(0, inbox.sealed[:2]), TooFewSites, "3 sites dealt shares, 4")


def test_attack_a_share_that_is_no_field_element():
    attack = Attack()
    key_list = attack.advertise_keys()
    mine = signed_keys(attack.scene, 1, attack.scene.identities["site-001"])
    key_list = attack.swap(key_list, 1, mine)
    dealt = {site: attack.send("share_keys", key_list, site=site) for site in attack.scene.roster if site != "site-001"}
    r1 = sealing.round_digest(attack.context, key_list)
    shared = sealing.exchange(b"\1" * 32, key_list.advertised[0].seal_key, "victim")
    good, bad = bytes(33), shamir.PRIME.to_bytes(33, "big")
    inbox = ShareInbox.from_bytes(colluders_inbox(attack, key_list, dealt), attack.context, attack.n)
    stored = dealt[attack.victim][0].to_bytes()
    for plaintext in (bad + good, good + bad):
        box = sealing.seal(sealing.seal_key(shared, r1, 1, 0), plaintext, r1, 1, 0)
        boxes = tuple((j, box if j == 1 else other) for j, other in inbox.sealed)
        state = restore_at(attack, attack.victim, stored, 2)
        with pytest.raises(UnfaithfulSite, match="site-001 dealt a share that is no field element"):
            state.masked_input(ShareInbox(0, boxes).to_bytes(attack.context), attack.words())


# A vector that cannot be masked


@pytest.mark.parametrize(
    "words",
    [
        np.zeros(6, dtype=np.uint32),
        np.zeros(8, dtype=np.uint32),
        np.zeros((1, 7), dtype=np.uint32),
        np.zeros(7, dtype=np.int32),
        np.zeros(7, dtype=np.uint64),
        np.zeros(14, dtype=np.uint32)[::2],
        np.frombuffer(bytes(28), dtype=np.uint32),
        [0] * 7,
    ],
    ids=["short", "long", "folded", "signed", "wide", "strided", "read-only", "list"],
)
def test_attack_a_vector_of_another_form(words):
    attack = Attack()
    attack.inboxes()
    with pytest.raises(MechanismViolation, match="7 uint32 words"):
        attack.run.states[attack.victim].masked_input(attack.boxes[attack.victim], words)


def test_attack_a_proof_is_for_this_vector_alone():
    attack = Attack()
    attack.inboxes()
    _, proof = attack.run.masked_input(attack.victim, attack.boxes[attack.victim])
    sent = MaskedInputProof.from_bytes(proof, attack.context, 5)
    assert sent.digest == sealing.words_digest(attack.run.masked[attack.victim])
