"""A hundred sites: the largest federation that this protocol is meant for."""

import numpy as np
import pytest

from tests.support.secagg import session, world


@pytest.mark.slow
@pytest.mark.parametrize("wire_bits", [32, 24])
def test_a_hundred_sites_of_which_a_third_leaves(wire_bits):
    scene = world(100, 100_000, wire_bits=wire_bits)
    stages = ("advertise_keys", "share_keys", "masked_input", "consistency_check", "unmasking")
    leave = {site: stages[number % 5] for number, site in enumerate(scene.roster[:33])}
    outcome = session(scene, leave)
    survivors = [
        site for site in scene.roster if leave.get(site) not in ("advertise_keys", "share_keys", "masked_input")
    ]
    assert outcome.opened.sites == tuple(survivors)
    np.testing.assert_array_equal(outcome.opened.words.view(np.int32), outcome.run.plain_sum(survivors))
    assert len(outcome.run.states) == 93
