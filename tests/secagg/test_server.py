"""The server drops the site whose message is missing or wrong, says why, and goes on while enough remain."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.support.entropy import InsecureTestEntropy
from tests.support.secagg import Run, session, world
from undertone.errors import MechanismViolation, ProtocolError, TooFewSites, UnfaithfulSite
from undertone.secagg import sealing
from undertone.secagg.encoding import entry_list
from undertone.secagg.messages import (
    AdvertisedKeys,
    ConsistencySignature,
    MaskedInputProof,
    SealedShares,
    UnmaskingShares,
)
from undertone.secagg.node import advertise_keys
from undertone.secagg.server import ServerSession

BAD = "site-002"


class Stage:
    """A session of five up to a stage; BAD will send something wrong there."""

    def __init__(self, sites=5, **changes):
        self.scene = world(sites, 6, **changes)
        self.run, self.server = Run(self.scene), ServerSession(self.scene.params, self.scene.federation)
        self.context, self.n = self.scene.params.context, sites
        self.key = self.scene.identities[BAD]
        self.index = 2

    def advertise_keys(self):
        return self.run.advertise_keys()

    def share_keys(self):
        self.broadcast = self.server.advertise_keys(self.advertise_keys())
        self.r1 = self.server._r1
        return self.run.share_keys(self.broadcast, self.scene.roster)

    def vectors(self):
        self.inboxes = self.server.share_keys(self.share_keys())
        return {site: self.run.masked_input(site, self.inboxes[site]) for site in self.scene.roster}

    def consistency_check(self):
        for site, (words, proof) in self.vectors().items():
            assert self.server.add_masked_input(site, words, proof)
        return self.run.consistency_check(self.server.end_masked_input(), self.scene.roster)

    def unmasking(self, signing=None):
        sent = self.consistency_check()
        sent = {site: sent[site] for site in signing or sent}
        return self.run.unmasking(self.server.consistency_check(sent), sent)

    def sign(self, digest):
        return sealing.sign_statement(self.key, digest)

    def finish(self, replies):
        opened = self.server.unmasking(replies)
        np.testing.assert_array_equal(opened.words.view(np.int32), self.run.plain_sum(opened.sites))
        return opened


def flip(data, at):
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


# AdvertiseKeys


@pytest.mark.parametrize("at", [0, 1, 2, 33, 34, 36, 68, 100, 132, 195])
def test_changed_keys_drop_their_site(at):
    stage = Stage()
    messages = stage.advertise_keys()
    stage.server.advertise_keys(messages | {BAD: flip(messages[BAD], at)})
    assert set(stage.server.dropped) == {BAD}


def test_keys_in_anothers_name_or_from_another_session():
    stage = Stage()
    messages = stage.advertise_keys()
    stage.server.advertise_keys(messages | {BAD: messages["site-001"]})
    assert "another site's name" in stage.server.dropped[BAD]
    stage, other = Stage(), Stage(session=2)
    stage.server.advertise_keys(stage.advertise_keys() | {BAD: other.advertise_keys()[BAD]})
    assert "another session" in stage.server.dropped[BAD]


def test_keys_signed_by_a_key_that_is_not_in_the_manifest():
    stage = Stage()
    messages = stage.advertise_keys()
    forged = replace(AdvertisedKeys.from_bytes(messages[BAD], stage.context, 5), signature=bytes(64))
    stage.server.advertise_keys(messages | {BAD: forged.to_bytes(stage.context)})
    assert "signature" in stage.server.dropped[BAD]


def test_a_stranger_changes_nothing():
    stage = Stage()
    messages = stage.advertise_keys()
    stage.server.advertise_keys(messages | {"mallory": messages[BAD]})
    assert stage.server.ignored == [("mallory", "keys of a site that is not expected")]
    assert stage.server.dropped == {}


# ShareKeys


def sealed_of(stage, messages, **changes):
    """BAD's sealed shares, changed and signed again: a site that lies, not a broken line."""
    sealed = replace(SealedShares.from_bytes(messages[BAD], stage.context, stage.n), **changes)
    digest = sealing.sealed_shares_statement(
        stage.context, sealed.round_digest, sealed.index, entry_list(sealed.sealed)
    )
    return replace(sealed, signature=stage.sign(digest)).to_bytes(stage.context)


def test_sealed_shares_for_other_sites():
    for change in (
        lambda boxes: {"sealed": boxes[:-1]},
        lambda boxes: {"sealed": (boxes[0], boxes[1], (2, bytes(82)), *boxes[2:])},
        lambda boxes: {"sealed": (*boxes[:3], (5, bytes(82)))},
        lambda boxes: {"round_digest": bytes(32)},
    ):
        stage = Stage(6, threshold=4, colluders=1)
        broadcast = stage.server.advertise_keys(stage.run.advertise_keys({"site-005"}))
        messages = stage.run.share_keys(broadcast, stage.scene.roster[:5])
        boxes = SealedShares.from_bytes(messages[BAD], stage.context, 6).sealed
        inboxes = stage.server.share_keys(messages | {BAD: sealed_of(stage, messages, **change(boxes))})
        assert "other sites" in stage.server.dropped[BAD]
        assert set(inboxes) == set(stage.scene.roster[:5]) - {BAD}


@pytest.mark.parametrize("at", [34, 36, 70, 100, -1])
def test_changed_sealed_shares_drop_their_site(at):
    stage = Stage()
    messages = stage.share_keys()
    stage.server.share_keys(messages | {BAD: flip(messages[BAD], at % len(messages[BAD]))})
    assert set(stage.server.dropped) == {BAD}


def test_anothers_sealed_shares():
    stage = Stage()
    messages = stage.share_keys()
    boxes = SealedShares.from_bytes(messages["site-001"], stage.context, 5)
    moved = tuple((1 if j == 2 else j, box) for j, box in boxes.sealed)
    stolen = SealedShares(1, boxes.round_digest, tuple(sorted(moved)), boxes.signature).to_bytes(stage.context)
    stage.server.share_keys(messages | {BAD: stolen})
    assert "another site's name" in stage.server.dropped[BAD]


# MaskedInput


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda words: np.bitwise_xor(words, np.uint32(1)), "not the one that its proof"),
        (lambda words: words[:-1], "6 uint32 words"),
        (lambda words: words.view(np.int32), "6 uint32 words"),
        (lambda words: words.reshape(2, 3), "6 uint32 words"),
        (lambda words: None, "6 uint32 words"),
        (lambda words: words.tolist(), "6 uint32 words"),
    ],
)
def test_a_vector_that_is_not_what_was_signed(spoil, why):
    stage = Stage()
    for site, (words, proof) in stage.vectors().items():
        assert stage.server.add_masked_input(site, spoil(words) if site == BAD else words, proof) == (site != BAD)
    assert why in stage.server.dropped[BAD]
    lists = stage.server.end_masked_input()
    others = [site for site in stage.scene.roster if site != BAD]
    signature_list = stage.server.consistency_check(stage.run.consistency_check(lists, others))
    assert stage.finish(stage.run.unmasking(signature_list, others)).sites == tuple(others)


@pytest.mark.parametrize("at", [0, 34, 40, 70, -1])
def test_a_changed_proof_drops_its_site(at):
    stage = Stage()
    words, proof = stage.vectors()[BAD]
    assert not stage.server.add_masked_input(BAD, words, flip(proof, at % len(proof)))
    assert BAD in stage.server.dropped


def test_a_proof_in_anothers_name_or_for_another_crowd():
    stage = Stage()
    words, proof = stage.vectors()[BAD]
    assert not stage.server.add_masked_input("site-001", words, proof)
    assert "another site's name" in stage.server.dropped["site-001"]
    digest = MaskedInputProof.from_bytes(proof, stage.context, 5).digest
    other = stage.sign(sealing.masked_input_statement(stage.context, stage.r1, 2, (0, 1, 2, 3), digest))
    assert not stage.server.add_masked_input(BAD, words, MaskedInputProof(2, digest, other).to_bytes(stage.context))
    assert "signature" in stage.server.dropped[BAD]


def test_a_word_beyond_24_bits():
    stage = Stage(wire_bits=24)
    words, _ = stage.vectors()[BAD]
    wide = words | np.uint32(1 << 24)
    digest = sealing.words_digest(wide)
    signature = stage.sign(sealing.masked_input_statement(stage.context, stage.r1, 2, (0, 1, 2, 3, 4), digest))
    assert not stage.server.add_masked_input(BAD, wide, MaskedInputProof(2, digest, signature).to_bytes(stage.context))
    assert "above 24 bits" in stage.server.dropped[BAD]


def test_a_second_late_or_strange_vector_changes_nothing():
    stage = Stage()
    vectors = stage.vectors()
    for site, (words, proof) in vectors.items():
        if site != BAD:
            assert stage.server.add_masked_input(site, words, proof)
    assert not stage.server.add_masked_input("site-001", *vectors["site-001"])
    assert not stage.server.add_masked_input("mallory", *vectors["site-001"])
    lists = stage.server.end_masked_input()
    assert not stage.server.add_masked_input(BAD, *vectors[BAD])
    assert [site for site, _ in stage.server.ignored] == ["site-001", "mallory", BAD]
    assert stage.server.dropped == {BAD: "it sent no vector"}
    others = [site for site in stage.scene.roster if site != BAD]
    signature_list = stage.server.consistency_check(stage.run.consistency_check(lists, others))
    assert stage.finish(stage.run.unmasking(signature_list, others)).sites == tuple(others)


def test_a_site_whose_vector_was_refused_gets_no_second_try():
    stage = Stage()
    words, proof = stage.vectors()[BAD]
    assert not stage.server.add_masked_input(BAD, words[:-1], proof)
    assert not stage.server.add_masked_input(BAD, words, proof)
    assert stage.server.ignored[0][0] == BAD


# ConsistencyCheck


def test_a_consistency_signature_on_another_list_or_in_anothers_name():
    stage = Stage()
    messages = stage.consistency_check()
    other = stage.sign(sealing.consistency_statement(stage.context, stage.r1, (0, 1, 2, 3, 4), (0, 1, 2, 3)))
    wrong = ConsistencySignature(2, other).to_bytes(stage.context)
    broadcast = stage.server.consistency_check(messages | {BAD: wrong})
    assert "signature" in stage.server.dropped[BAD]
    others = [site for site in stage.scene.roster if site != BAD]
    stage.finish(stage.run.unmasking(broadcast, others))
    stage = Stage()
    messages = stage.consistency_check()
    stage.server.consistency_check(messages | {BAD: messages["site-001"]})
    assert "another site's name" in stage.server.dropped[BAD]


# Unmasking


def shares_of(stage, message, index, change):
    shares = UnmaskingShares.from_bytes(message, stage.context, stage.n)
    shares = replace(shares, shares=change(shares.shares))
    u = tuple(range(stage.n))
    digest = sealing.unmasking_statement(stage.context, stage.r1, index, u, u, entry_list(shares.shares))
    signature = sealing.sign_statement(stage.scene.identities[stage.scene.roster[index]], digest)
    return replace(shares, signature=signature).to_bytes(stage.context)


def test_a_wrong_share_is_found_and_its_site_named():
    stage = Stage()
    replies = stage.unmasking()
    bad = shares_of(stage, replies[BAD], 2, lambda e: (*e[:1], (1, bytes(33)), *e[2:]))
    stage.finish(replies | {BAD: bad})
    assert stage.server.dropped[BAD].startswith("its share of site-001's secret is wrong")


def test_shares_that_are_missing_surplus_or_no_field_elements():
    for change in (
        lambda e: e[:-1],
        lambda e: (*e[:4], (4, b"\xff" * 33)),
        lambda e: e[1:],
    ):
        stage = Stage()
        replies = stage.unmasking()
        stage.finish(replies | {BAD: shares_of(stage, replies[BAD], 2, change)})
        assert "other shares" in stage.server.dropped[BAD]


def test_changed_shares_and_anothers_shares():
    for spoil in (lambda r: flip(r[BAD], 80), lambda r: flip(r[BAD], len(r[BAD]) - 1), lambda r: r["site-001"]):
        stage = Stage()
        replies = stage.unmasking()
        stage.finish(replies | {BAD: spoil(replies)})
        assert BAD in stage.server.dropped


def test_a_site_that_did_not_sign_the_lists_is_not_heard_at_the_end():
    stage = Stage()
    replies = stage.unmasking(signing=[site for site in stage.scene.roster if site != BAD])
    stage.finish(replies | {BAD: replies["site-001"]})
    assert stage.server.ignored == [(BAD, "unmasking shares of a site that is not expected")]


def test_too_many_wrong_shares_open_nothing():
    stage = Stage()
    replies = stage.unmasking()
    for number in (2, 3):
        site = stage.scene.roster[number]
        replies[site] = shares_of(stage, replies[site], number, lambda e: ((0, bytes(33)), *e[1:]))
    with pytest.raises(UnfaithfulSite, match="site-000"):
        stage.server.unmasking(replies)
    with pytest.raises(ProtocolError):
        stage.server.unmasking(replies)


def test_a_site_that_deals_no_secret_it_committed_to_is_named():
    # Its commitment is to another b than the one it shares; or its mask key to another cm, and then it leaves.
    for leaves in (False, True):
        stage = Stage()
        messages = stage.advertise_keys()
        fresh = stage.run.states[BAD]._content
        other, _ = advertise_keys(stage.scene.params, BAD, stage.key, stage.scene.federation, InsecureTestEntropy(99))
        mixed = replace(other._content, self_secret=fresh.self_secret, mask_private=fresh.mask_private)
        stage.run.states[BAD]._content = replace(mixed, advertised=other._content.advertised)
        messages[BAD] = other._content.advertised.to_bytes(stage.context)
        inboxes = stage.server.share_keys(
            stage.run.share_keys(stage.server.advertise_keys(messages), stage.scene.roster)
        )
        survivors = [site for site in stage.scene.roster if not (leaves and site == BAD)]
        for site in survivors:
            assert stage.server.add_masked_input(site, *stage.run.masked_input(site, inboxes[site]))
        signature_list = stage.server.consistency_check(
            stage.run.consistency_check(stage.server.end_masked_input(), survivors)
        )
        with pytest.raises(UnfaithfulSite, match="the shares of site-002 give no secret"):
            stage.server.unmasking(stage.run.unmasking(signature_list, survivors))


# Order


def test_each_stage_once_and_in_order():
    stage = Stage()
    server = stage.server

    def out_of_order(*names):
        for name in names:
            with pytest.raises(ProtocolError, match="at step"):
                getattr(server, name)(*([] if name == "end_masked_input" else [{}]))

    with pytest.raises(ProtocolError):
        server.add_masked_input("site-000", np.zeros(6, np.uint32), b"")
    out_of_order("share_keys", "end_masked_input", "consistency_check", "unmasking")
    listed = server.advertise_keys(stage.run.advertise_keys())
    out_of_order("advertise_keys", "end_masked_input", "consistency_check", "unmasking")
    inboxes = server.share_keys(stage.run.share_keys(listed, stage.scene.roster))
    out_of_order("advertise_keys", "share_keys", "consistency_check", "unmasking")
    for site in stage.scene.roster:
        assert server.add_masked_input(site, *stage.run.masked_input(site, inboxes[site]))
    lists = server.end_masked_input()
    out_of_order("advertise_keys", "share_keys", "end_masked_input", "unmasking")
    signature_list = server.consistency_check(stage.run.consistency_check(lists, stage.scene.roster))
    out_of_order("advertise_keys", "share_keys", "end_masked_input", "consistency_check")
    server.unmasking(stage.run.unmasking(signature_list, stage.scene.roster))
    out_of_order("advertise_keys", "share_keys", "end_masked_input", "consistency_check", "unmasking")


def test_after_too_few_sites_a_session_is_over():
    stage = Stage()
    messages = stage.advertise_keys()
    with pytest.raises(TooFewSites, match=r"2 sites sent keys, 4 are needed.*site-002 \(no keys came from it\)"):
        stage.server.advertise_keys({site: messages[site] for site in stage.scene.roster[:2]})
    with pytest.raises(ProtocolError):
        stage.server.advertise_keys(messages)


def test_a_vector_after_a_session_that_ended_early_changes_nothing():
    stage = Stage()
    messages = stage.share_keys()
    with pytest.raises(TooFewSites):
        stage.server.share_keys({site: messages[site] for site in stage.scene.roster[:2]})
    assert not stage.server.add_masked_input("site-000", np.zeros(6, np.uint32), b"")
    assert stage.server.ignored[-1][0] == "site-000"
    assert "site-000" not in stage.server.dropped


def test_unsound_parameters_start_no_server():
    scene = world(5)
    with pytest.raises(MechanismViolation):
        ServerSession(replace(scene.params, threshold=3), scene.federation)


def test_the_transcript_holds_all_and_no_secret():
    scene = world(10, 6)
    outcome = session(
        scene, {"site-000": "advertise_keys", "site-001": "masked_input", "site-002": "consistency_check"}
    )
    content = json.loads(outcome.opened.transcript)
    assert set(content) == {
        "advertised_keys",
        "consistency_signatures",
        "masked_for",
        "opened_by",
        "parameters",
        "round_digest",
        "vectors",
    }
    assert list(content["advertised_keys"]) == list(scene.roster[1:])
    assert content["masked_for"] == list(scene.roster[1:])
    assert list(content["vectors"]) == list(scene.roster[2:])
    assert list(content["consistency_signatures"]) == content["opened_by"] == list(scene.roster[3:])
    assert content["parameters"]["session"] == 1
    assert "words" not in repr(outcome.opened)
