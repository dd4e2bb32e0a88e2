"""The opened value is the plain sum over the survivors, bit for bit, whoever leaves when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.secagg import STEPS, Run, session, world
from undertone.errors import TooFewSites
from undertone.secagg.parameters import Parameters
from undertone.secagg.server import ServerSession
from undertone.secagg.transcript import check_transcript


def assert_exact(outcome, survivors):
    opened = outcome.opened
    assert opened.sites == tuple(sorted(survivors))
    expected = outcome.run.plain_sum(survivors)
    assert opened.words.dtype == np.uint32
    np.testing.assert_array_equal(opened.words.view(np.int32), expected)


@pytest.mark.parametrize("wire_bits", [32, 24])
@pytest.mark.parametrize("dimension", [1, 2, 1000, 65_537])
@pytest.mark.parametrize("sites", [3, 5, 10])
def test_everybody_stays(sites, dimension, wire_bits):
    scene = world(sites, dimension, wire_bits=wire_bits)
    outcome = session(scene)
    assert_exact(outcome, scene.roster)
    assert outcome.server.dropped == {}
    assert outcome.server.ignored == []


def test_thirty_sites_of_which_some_leave():
    scene = world(30, 1000)
    outcome = session(
        scene,
        {"site-000": "share_keys", "site-007": "masked_input", "site-029": "masked_input", "site-013": "unmasking"},
    )
    assert_exact(outcome, set(scene.roster) - {"site-000", "site-007", "site-029"})


@pytest.mark.parametrize("wire_bits", [32, 24])
@pytest.mark.parametrize("sites", [3, 5])
def test_a_million_words(sites, wire_bits):
    scene = world(sites, 1_000_000, wire_bits=wire_bits)
    leave = {"site-001": "masked_input"} if sites == 5 else {}
    assert_exact(session(scene, leave), set(scene.roster) - set(leave))


def test_the_masks_hide_every_vector():
    scene = world(3, 10_000)
    outcome = session(scene)
    for site in scene.roster:
        shifts = outcome.run.masked[site] - outcome.run.words[site]
        # 10000 uniform words: 12 coincidences of two would have a probability below 1e-9.
        assert len(np.unique(shifts)) > 10_000 - 12
        counts = np.bincount(shifts >> np.uint32(28), minlength=16)
        # Chi-square with 15 degrees of freedom: beyond 60 with probability 2e-7.
        assert ((counts - 625) ** 2 / 625).sum() < 60


# The dropout table of research on this protocol: n = 10, t = 7. Site numbers by the stage at which they leave.
TABLE = {
    "nobody": ({}, 10),
    "one before keys": ({"advertise_keys": [3]}, 9),
    "one after keys, before shares": ({"share_keys": [3]}, 9),
    "two after shares, before the vector": ({"masked_input": [0, 9]}, 8),
    "one after its vector, before consistency": ({"consistency_check": [4]}, 10),
    "two before unmasking": ({"unmasking": [4, 5]}, 10),
    "one after its vector and two before unmasking": ({"consistency_check": [1], "unmasking": [4, 5]}, 10),
    "one at each of three stages": ({"share_keys": [0], "masked_input": [5], "unmasking": [9]}, 8),
    "three at the first": ({"advertise_keys": [0, 1, 2]}, 7),
    "three before the vector": ({"masked_input": [0, 1, 2]}, 7),
    "three before unmasking": ({"unmasking": [7, 8, 9]}, 10),
}


@pytest.mark.parametrize("wire_bits", [32, 24])
@pytest.mark.parametrize("row", TABLE)
def test_dropout_table(row, wire_bits):
    scene = world(10, 501, wire_bits=wire_bits)
    leaves, contributors = TABLE[row]
    leave = {scene.roster[number]: stage for stage, numbers in leaves.items() for number in numbers}
    outcome = session(scene, leave)
    survivors = {
        site for site in scene.roster if leave.get(site) not in {"advertise_keys", "share_keys", "masked_input"}
    }
    assert len(survivors) == contributors
    assert_exact(outcome, survivors)
    assert set(outcome.server.dropped) == set(leave)
    assert check_transcript(outcome.opened.transcript, scene.federation).sites == tuple(sorted(survivors))


@pytest.mark.parametrize("stage", STEPS)
def test_four_of_ten_leave_and_nothing_is_opened(stage):
    scene = world(10, 5)
    with pytest.raises(TooFewSites, match="6 sites"):
        session(scene, dict.fromkeys(scene.roster[:4], stage))


def test_min_sites_above_the_threshold_holds_at_the_server():
    scene = world(10, 5, min_sites=9)
    assert_exact(session(scene, {"site-000": "masked_input"}), scene.roster[1:])
    for stage in ("advertise_keys", "share_keys", "masked_input"):
        with pytest.raises(TooFewSites, match="8 sites"):
            session(scene, {"site-000": stage, "site-001": stage})
    # After U3 is fixed, t answers are enough: the sum is over all of U3.
    assert_exact(session(scene, dict.fromkeys(scene.roster[:3], "unmasking")), scene.roster)


def test_three_sites_tolerate_nobody_leaving():
    scene = world(3, 5)
    assert scene.params.threshold == 3
    for stage in STEPS:
        with pytest.raises(TooFewSites):
            session(scene, {"site-001": stage})


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_dropouts_give_the_plain_sum_or_a_clean_end(data):
    sites = data.draw(st.sampled_from([3, 5, 6, 10]))
    scene = world(sites, data.draw(st.sampled_from([1, 3, 40])), wire_bits=data.draw(st.sampled_from([24, 32])))
    stage = st.sampled_from((*STEPS, "stays", "stays", "stays", "stays", "stays"))
    drawn = {site: data.draw(stage) for site in scene.roster}
    leave = {site: at for site, at in drawn.items() if at != "stays"}
    survivors = {
        site for site in scene.roster if leave.get(site) not in {"advertise_keys", "share_keys", "masked_input"}
    }
    if len(scene.roster) - len(leave) < scene.params.threshold:
        with pytest.raises(TooFewSites):
            session(scene, leave, seed=data.draw(st.integers(0, 99)))
    else:
        assert_exact(session(scene, leave, seed=data.draw(st.integers(0, 99))), survivors)


def test_at_the_edges_of_the_modulus():
    scene = world(5, 3)
    clamp = scene.params.site_clamp
    for end in (clamp, -clamp):
        run, server = Run(scene), ServerSession(scene.params, scene.federation)
        inboxes = server.share_keys(run.share_keys(server.advertise_keys(run.advertise_keys()), scene.roster))
        for site in scene.roster:
            run.words[site] = np.full(3, end & 0xFFFFFFFF, dtype=np.uint32)
            assert server.add_masked_input(site, *run.masked_input(site, inboxes[site]))
        signature_list = server.consistency_check(run.consistency_check(server.end_masked_input(), scene.roster))
        opened = server.unmasking(run.unmasking(signature_list, scene.roster))
        assert opened.words.view(np.int32).tolist() == [5 * end] * 3
    assert 5 * clamp > 2**31 - 6


def test_a_session_is_a_function_of_its_entropy():
    scene = world(4, 9)
    first, second, other = session(scene), session(scene), session(scene, seed=1)
    assert first.opened.transcript == second.opened.transcript != other.opened.transcript
    assert {site: words.tolist() for site, words in first.run.masked.items()} == {
        site: words.tolist() for site, words in second.run.masked.items()
    }


def test_distributed_noise_parameters_run():
    scene = world(5, 9, noise="distributed", rosters="free", sigma_local=64, noise_margin=1000, site_clamp=10_000)
    assert isinstance(scene.params, Parameters)
    assert_exact(session(scene, {"site-002": "masked_input"}), set(scene.roster) - {"site-002"})
