"""A coordinator that lies drives real nodes: keys, rosters and parameters (docs/secure-aggregation.md, 8)."""

from dataclasses import replace

import pytest

from tests.support.attack import Attack, key_list_of, signed_keys
from tests.support.entropy import InsecureTestEntropy
from tests.support.secagg import identity, world
from undertone.core.federation import Federation
from undertone.core.keys import public_hex
from undertone.errors import (
    MechanismViolation,
    NotApproved,
    ProtocolError,
    TooFewSites,
    UnfaithfulCoordinator,
    UnfaithfulSite,
)
from undertone.secagg import sealing
from undertone.secagg.messages import AdvertisedKeys, AdvertisedKeysList
from undertone.secagg.node import advertise_keys
from undertone.secagg.parameters import agree
from undertone.secagg.server import ServerSession

# Keys and rosters


@pytest.mark.parametrize("part", ["seal_key", "mask_key", "commitment", "signature"])
def test_attack_a_key_is_substituted(part):
    attack = Attack()
    honest = attack.advertise_keys()
    mine = signed_keys(attack.scene, 1, identity("the attacker"))
    forged = replace(honest.advertised[1], **{part: getattr(mine, part)})
    with pytest.raises(UnfaithfulCoordinator, match="site-001 are not signed by it"):
        attack.send("share_keys", attack.swap(honest, 1, forged))


def test_attack_a_sites_whole_keys_are_substituted():
    attack = Attack()
    mine = signed_keys(attack.scene, 1, identity("the attacker"))
    with pytest.raises(UnfaithfulCoordinator, match="not signed by it"):
        attack.send("share_keys", attack.swap(attack.advertise_keys(), 1, mine))


def test_attack_another_sites_keys_are_passed_off():
    attack = Attack()
    honest = attack.advertise_keys()
    with pytest.raises(UnfaithfulCoordinator, match="site-001 are not signed by it"):
        attack.send("share_keys", attack.swap(honest, 1, replace(honest.advertised[2], index=1)))


def test_attack_own_keys_are_left_out():
    attack = Attack()
    honest = attack.advertise_keys()
    with pytest.raises(UnfaithfulCoordinator, match="left out or changed"):
        attack.send("share_keys", AdvertisedKeysList(honest.advertised[1:]))


def test_attack_own_keys_are_older_ones_with_a_good_signature():
    attack = Attack()
    honest = attack.advertise_keys()
    older, _ = advertise_keys(
        attack.scene.params,
        attack.victim,
        attack.scene.identities[attack.victim],
        attack.scene.federation,
        InsecureTestEntropy(77),
    )
    stale = older._content.advertised
    assert stale.index == 0
    with pytest.raises(UnfaithfulCoordinator, match="left out or changed"):
        attack.send("share_keys", attack.swap(honest, 0, stale))


def test_attack_sybil_sites_are_on_the_roster():
    scene = world(5)
    sybils = scene.but(roster=(*scene.roster, "sybil-1", "sybil-2"), threshold=5, colluders=1, site_clamp=1000)
    with pytest.raises(NotApproved, match="sybil-1 is on the roster"):
        advertise_keys(
            sybils.params, "site-000", scene.identities["site-000"], scene.federation, InsecureTestEntropy(0)
        )
    with pytest.raises(NotApproved, match="not in it"):
        ServerSession(sybils.params, scene.federation)


def test_attack_sybil_sites_are_in_another_manifest():
    scene = world(5)
    more = dict(scene.federation.sites) | {f"sybil-{k}": public_hex(identity(f"sybil {k}")) for k in range(2)}
    federation = Federation("test", scene.federation.coordinator, more)
    sybils = scene.but(roster=tuple(sorted(more)), threshold=5, colluders=1, site_clamp=1000)
    mine = scene.identities["site-000"], scene.federation
    with pytest.raises(NotApproved, match="another federation"):
        advertise_keys(replace(sybils.params, federation=federation.digest), "site-000", *mine, InsecureTestEntropy(0))
    replaced = Federation(
        "test", scene.federation.coordinator, {**scene.federation.sites, "site-001": public_hex(identity("sybil"))}
    )
    with pytest.raises(NotApproved, match="another federation"):
        advertise_keys(scene.params, "site-000", mine[0], replaced, InsecureTestEntropy(0))
    with pytest.raises(NotApproved, match="another federation"):
        ServerSession(scene.params, replaced)


def test_attack_a_site_is_played_by_another():
    scene = world(5)
    with pytest.raises(NotApproved, match="this key"):
        advertise_keys(scene.params, "site-000", scene.identities["site-001"], scene.federation, InsecureTestEntropy(0))
    with pytest.raises(NotApproved, match="not on the roster"):
        advertise_keys(
            scene.but(roster=scene.roster[1:], threshold=4, colluders=1).params,
            "site-000",
            scene.identities["site-000"],
            scene.federation,
            InsecureTestEntropy(0),
        )


def test_attack_too_few_keys_are_shown():
    attack = Attack()
    honest = attack.advertise_keys()
    with pytest.raises(TooFewSites, match="3 sites sent keys, 4"):
        attack.send("share_keys", AdvertisedKeysList(honest.advertised[:3]))


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (325606250916557431795983626356110631294008115727848805560023387167927233504).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
]


@pytest.mark.parametrize("point", LOW_ORDER, ids=["zero", "one", "order 8", "p"])
def test_attack_a_key_of_low_order_makes_a_mask_that_everybody_knows(point):
    attack = Attack()
    honest = attack.advertise_keys()
    colluder = attack.scene.identities["site-001"]
    weak_seal = replace(signed_keys(attack.scene, 1, colluder), seal_key=point)
    digest = sealing.advertised_keys_statement(attack.context, 1, point, weak_seal.mask_key, weak_seal.commitment)
    weak_seal = replace(weak_seal, signature=sealing.sign_statement(colluder, digest))
    weak_mask = signed_keys(attack.scene, 1, colluder, mask_public=point)
    for weak in (weak_seal, weak_mask):
        other = Attack()
        other.advertise_keys()
        with pytest.raises(UnfaithfulSite, match="site-001 sent a key that makes no secret"):
            other.send("share_keys", other.swap(honest, 1, weak))


def test_attack_the_server_drops_sites_with_weak_keys_itself():
    for point in LOW_ORDER:
        attack = Attack()
        messages = attack.run.advertise_keys()
        weak = signed_keys(attack.scene, 1, attack.scene.identities["site-001"], mask_public=point)
        attack.server.advertise_keys(messages | {"site-001": weak.to_bytes(attack.context)})
        assert "makes no secret" in attack.server.dropped["site-001"]


# Parameters


WRONG = {
    "low t": ({"threshold": 3}, "threshold"),
    "more colluders": ({"colluders": 0}, "colluders"),
    "tiny modulus": ({"wire_bits": 24}, "wire_bits"),
    "wrong scale": ({"scale": 1 << 13}, "scale"),
    "wrong clamp": ({"site_clamp": 1 << 20}, "site_clamp"),
    "other dimension": ({"dimension": 8}, "dimension"),
    "fewer sites": ({"min_sites": 3}, "min_sites"),
    "other roster": ({"roster": ("site-000", "site-001", "site-002", "site-003", "site-005")}, "roster"),
    "other federation": ({"federation": "0" * 64}, "federation"),
    "other study": ({"study": "0" * 64}, "study"),
    "other round": ({"round": 3}, "round"),
    "other attempt": ({"attempt": 2}, "attempt"),
    "other session": ({"session": 2}, "session"),
    "other state": ({"state_sha256": "0" * 64}, "state_sha256"),
    "other method": ({"method": "dp-lora"}, "method"),
    "nodes add the noise": ({"noise": "distributed", "sigma_local": 64, "site_clamp": 1 << 20}, "site_clamp|noise"),
    "less noise": ({"sigma_local": 4}, "sigma_local"),
    "other margin": ({"noise_margin": 1}, "noise_margin"),
    "other protocol": ({"protocol": 2}, "protocol"),
}


@pytest.mark.parametrize("case", WRONG)
def test_attack_parameters_are_not_those_of_the_plan(case):
    changes, named = WRONG[case]
    own = world(5).params
    agree(own.to_bytes(), own)
    with pytest.raises(UnfaithfulCoordinator, match=named):
        agree(replace(own, **changes).to_bytes(), own)


@pytest.mark.parametrize("changes", [{"threshold": 3}, {"colluders": 3}, {"site_clamp": 1 << 30}, {"wire_bits": 8}])
def test_attack_unsound_parameters_that_even_the_plan_agrees_with(changes):
    scene = world(5)
    with pytest.raises(MechanismViolation):
        advertise_keys(
            replace(scene.params, **changes),
            "site-000",
            scene.identities["site-000"],
            scene.federation,
            InsecureTestEntropy(0),
        )


@pytest.mark.parametrize(
    "changes",
    [{"state_sha256": "0" * 64}, {"scale": 1 << 13}, {"session": 2}, {"attempt": 2}, {"threshold": 5}],
    ids=lambda changes: next(iter(changes)),
)
def test_attack_one_site_gets_other_parameters(changes):
    # Site 4's node believes other numbers (another model state, say): nothing of it fits the others.
    attack = Attack()
    odd = replace(attack.scene.params, **changes)
    _, advertised = advertise_keys(
        odd, "site-004", attack.scene.identities["site-004"], attack.scene.federation, InsecureTestEntropy(5)
    )
    honest = attack.run.advertise_keys()
    with pytest.raises(ProtocolError, match="another session, or to other parameters"):
        attack.run.states[attack.victim].share_keys(key_list_of(attack, honest | {"site-004": advertised}, odd.context))
    stray = AdvertisedKeys.from_bytes(advertised, odd.context, 5)
    listed = attack.server.advertise_keys({site: honest[site] for site in attack.scene.roster[:4]})
    key_list = AdvertisedKeysList.from_bytes(listed, attack.context, 5)
    with pytest.raises(UnfaithfulCoordinator, match="site-004 are not signed"):
        attack.send("share_keys", AdvertisedKeysList((*key_list.advertised, stray)), site="site-001")
