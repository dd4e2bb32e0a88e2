"""A coordinator that lies drives real nodes: survivor lists and signatures (docs/secure-aggregation.md, 8)."""

import pytest

from tests.support.attack import Attack, gathered, restore_at
from tests.support.secagg import KeptLists
from undertone.errors import (
    ProtocolError,
    TooFewSites,
    UnfaithfulCoordinator,
)
from undertone.secagg import sealing
from undertone.secagg.messages import (
    AdvertisedKeysList,
    ConsistencyLists,
    ConsistencySignatures,
    ShareInbox,
    UnmaskingShares,
)

# Survivor lists


def test_attack_u2_differs_by_site():
    # Site 0 is shown four of five; the lists then say five, or whatever it was shown.
    attack = Attack()
    inboxes = attack.inboxes()
    state, _, _ = attack.send("masked_input", ShareInbox(0, inboxes["site-000"].sealed[:3]), attack.words())
    attack.run.states[attack.victim] = state
    with pytest.raises(UnfaithfulCoordinator, match="U2 differs"):
        attack.send("consistency_check", ConsistencyLists((0, 1, 2, 3, 4), (0, 1, 2, 3, 4)))


def test_attack_u2_differs_by_site_and_each_is_shown_its_own():
    attack = Attack()
    inboxes = attack.inboxes()
    state, _, _ = attack.send("masked_input", ShareInbox(0, inboxes["site-000"].sealed[:3]), attack.words())
    attack.run.states[attack.victim] = state
    attack.run.states[attack.victim], first = attack.send(
        "consistency_check", ConsistencyLists((0, 1, 2, 3), (0, 1, 2, 3))
    )
    others = attack.scene.roster[1:]
    for site in others:
        attack.run.masked_input(site, attack.boxes[site])
    rest = attack.run.consistency_check(
        ConsistencyLists((0, 1, 2, 3, 4), (0, 1, 2, 3, 4)).to_bytes(attack.context), others
    )
    signatures = gathered(attack, {"site-000": first} | rest).signatures
    for site in attack.scene.roster:
        with pytest.raises(UnfaithfulCoordinator, match="did not sign"):
            attack.send("unmasking", ConsistencySignatures(signatures[:4]), site=site)


def test_attack_split_lists_half_hear_that_a_site_is_dropped():
    # n = 10, t = 7, c = 3: the coordinator wants b of site 9 from some and cm of site 9 from others.
    attack = Attack(10)
    attack.inboxes()
    for site in attack.scene.roster:
        attack.run.masked_input(site, attack.boxes[site])
    everybody = tuple(range(10))
    here = ConsistencyLists(everybody, everybody).to_bytes(attack.context)
    gone = ConsistencyLists(everybody, everybody[:9]).to_bytes(attack.context)
    first, second = attack.scene.roster[:5], attack.scene.roster[5:9]
    signed_here, signed_gone = attack.run.consistency_check(here, first), attack.run.consistency_check(gone, second)
    # Three colluders sign whatever is wanted: 5 + 3 >= 7, but then no other seven can sign the other list.
    for signatures, sites in ((signed_here, first), (signed_gone, second)):
        for site in sites:
            with pytest.raises(TooFewSites, match=f"{len(sites)} sites signed the lists, 7 must"):
                attack.send("unmasking", gathered(attack, signatures), site=site)


def test_attack_mixed_signatures():
    attack = Attack()
    attack.inboxes()
    for site in attack.scene.roster:
        attack.run.masked_input(site, attack.boxes[site])
    everybody = tuple(range(5))
    here = ConsistencyLists(everybody, everybody).to_bytes(attack.context)
    gone = ConsistencyLists(everybody, everybody[:4]).to_bytes(attack.context)
    mixed = attack.run.consistency_check(here, attack.scene.roster[:2]) | attack.run.consistency_check(
        gone, attack.scene.roster[2:4]
    )
    for site in attack.scene.roster[:4]:
        with pytest.raises(UnfaithfulCoordinator, match="did not sign the lists"):
            attack.send("unmasking", gathered(attack, mixed), site=site)


def test_attack_a_site_is_both_active_and_dropped():
    # Who is dropped follows from U2 and U3; there is no second list to name the site in. What comes nearest:
    attack = Attack()
    attack.lists(without={"site-004"})
    both = [
        (ConsistencyLists((0, 1, 2, 3, 4, 4), (0, 1, 2, 3)), ProtocolError),
        (ConsistencyLists((0, 1, 2, 3, 4), (0, 1, 2, 3, 3)), ProtocolError),
        (ConsistencyLists((0, 1, 2, 3), (0, 1, 2, 3, 4)), UnfaithfulCoordinator),
    ]
    stored = attack.run.states[attack.victim].to_bytes()
    for lists, error in both:
        with pytest.raises(error):
            restore_at(attack, attack.victim, stored, 3).consistency_check(lists.to_bytes(attack.context), KeptLists())


def test_attack_both_secrets_of_a_site():
    # Whatever list a node signs, it reveals one share per site, and no longer has the other.
    for without in ((), ("site-004",)):
        attack = Attack()
        attack.lists(without)
        before = attack.run.states[attack.victim]._content
        own_shares, mask_shares = dict(before.self_shares), dict(before.mask_shares)
        attack.signature_list = attack.server.consistency_check(
            attack.run.consistency_check(attack.listed, attack.survivors)
        )
        stored = attack.run.states[attack.victim].to_bytes()
        _, message = attack.run.states[attack.victim].unmasking(attack.signature_list)
        revealed = dict(UnmaskingShares.from_bytes(message, attack.context, 5).shares)
        for j in range(5):
            dropped = attack.scene.roster[j] in without
            assert revealed[j] == (mask_shares if dropped else own_shares)[j]
            other = own_shares[j] if dropped else mask_shares.get(j)
            assert other is None or (other not in message and other not in stored)


def test_attack_the_site_itself_is_declared_dropped():
    attack = Attack()
    attack.lists()
    with pytest.raises(UnfaithfulCoordinator, match="without it"):
        attack.send("consistency_check", ConsistencyLists((0, 1, 2, 3, 4), (1, 2, 3, 4)))


def test_attack_survivors_that_nobody_masked_for():
    attack = Attack(6)
    listed = attack.server.advertise_keys(attack.run.advertise_keys({"site-005"}))
    attack.boxes = attack.server.share_keys(attack.run.share_keys(listed, attack.scene.roster[:5]))
    attack.run.masked_input(attack.victim, attack.boxes[attack.victim])
    with pytest.raises(UnfaithfulCoordinator, match="no vector was masked for"):
        attack.send("consistency_check", ConsistencyLists((0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5)))


def test_attack_too_few_survivors():
    attack = Attack()
    attack.lists()
    with pytest.raises(TooFewSites, match="3 sites sent a vector, 4"):
        attack.send("consistency_check", ConsistencyLists((0, 1, 2, 3, 4), (0, 1, 2)))
    larger = Attack(10, min_sites=9)
    larger.lists()
    with pytest.raises(TooFewSites, match="8 sites sent a vector, 9"):
        larger.send("consistency_check", ConsistencyLists(tuple(range(10)), tuple(range(8))))


def test_attack_too_few_sites_for_the_plan_are_shown_earlier():
    attack = Attack(10, min_sites=9)
    honest = attack.advertise_keys()
    with pytest.raises(TooFewSites, match="8 sites sent keys, 9"):
        attack.send("share_keys", AdvertisedKeysList(honest.advertised[:8]))
    other = Attack(10, min_sites=9)
    inbox = other.inboxes()["site-000"]
    with pytest.raises(TooFewSites, match="8 sites dealt shares, 9"):
        other.send("masked_input", ShareInbox(0, inbox.sealed[:7]), other.words())


# Signatures on the list


def test_attack_duplicated_signers():
    attack = Attack()
    signatures = attack.consistency_check().signatures
    for forged in ((signatures[0],) * 4, (*signatures[:3], signatures[2]), (*signatures[1:4], signatures[0])):
        stored = attack.run.states[attack.victim].to_bytes()
        with pytest.raises(ProtocolError, match="twice, or out of order"):
            restore_at(attack, attack.victim, stored, 4).unmasking(
                ConsistencySignatures(forged).to_bytes(attack.context)
            )


def test_attack_one_signature_under_several_names():
    attack = Attack()
    signature = attack.consistency_check().signatures[0][1]
    with pytest.raises(UnfaithfulCoordinator, match="site-001 did not sign"):
        attack.send("unmasking", ConsistencySignatures(tuple((j, signature) for j in range(4))))


def test_attack_too_few_signatures():
    attack = Attack()
    signatures = attack.consistency_check().signatures
    with pytest.raises(TooFewSites, match="3 sites signed the lists, 4 must"):
        attack.send("unmasking", ConsistencySignatures(signatures[:3]))


def test_attack_enough_signatures_and_a_false_one():
    attack = Attack()
    signatures = list(attack.consistency_check().signatures)
    signatures[4] = (4, bytes(64))
    with pytest.raises(UnfaithfulCoordinator, match="site-004 did not sign"):
        attack.send("unmasking", ConsistencySignatures(tuple(signatures)))


def test_attack_a_dropped_site_signs():
    # Site 4 colludes: it sent no vector and signs all the same, so that four signatures come together.
    attack = Attack()
    honest = attack.consistency_check(without={"site-004"})
    r1 = sealing.round_digest(attack.context, AdvertisedKeysList.from_bytes(attack.broadcast, attack.context, 5))
    statement = sealing.consistency_statement(attack.context, r1, (0, 1, 2, 3, 4), (0, 1, 2, 3))
    mine = sealing.sign_statement(attack.scene.identities["site-004"], statement)
    with pytest.raises(UnfaithfulCoordinator, match="not among the survivors"):
        attack.send("unmasking", ConsistencySignatures((*honest.signatures[:3], (4, mine))))


def test_attack_signatures_of_another_session():
    attack, earlier = Attack(), Attack(session=2)
    attack.consistency_check()
    old = earlier.consistency_check()
    with pytest.raises(UnfaithfulCoordinator, match="did not sign"):
        attack.send("unmasking", old)
    with pytest.raises(ProtocolError, match="another session"):
        attack.run.states["site-001"].unmasking(earlier.signature_list)
