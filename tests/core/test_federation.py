"""The federation manifest: strict reading, one key per name, pinned by its digest."""

import json

import pytest

from tests.support.secagg import identity, world
from undertone.core.canonical import canonical_json
from undertone.core.federation import Federation, read_federation, sign_federation
from undertone.core.keys import PLAN_DOMAIN, SECAGG_DOMAIN, public_hex, sign
from undertone.errors import NotApproved

SCENE = world(3)
FEDERATION = SCENE.federation
COORDINATOR = identity("coordinator")


def test_signed_written_and_read():
    signature = sign_federation(FEDERATION, COORDINATOR)
    assert read_federation(FEDERATION.to_bytes(), signature, FEDERATION.digest) == FEDERATION


def test_the_sites_cannot_be_changed_afterwards():
    given = dict(FEDERATION.sites)
    federation = Federation("test", FEDERATION.coordinator, given)
    given["site-003"] = public_hex(identity("late"))
    assert federation.digest == FEDERATION.digest
    with pytest.raises(TypeError):
        federation.sites["site-003"] = "x"


def test_attack_a_manifest_that_was_not_approved():
    other = Federation("other", FEDERATION.coordinator, FEDERATION.sites)
    with pytest.raises(NotApproved, match="approved"):
        read_federation(other.to_bytes(), sign_federation(other, COORDINATOR), FEDERATION.digest)


@pytest.mark.parametrize(
    "signature",
    [
        sign(COORDINATOR, PLAN_DOMAIN, FEDERATION.digest),
        sign(COORDINATOR, SECAGG_DOMAIN, FEDERATION.digest),
        sign(identity("somebody"), b"undertone/1/federation\x00", FEDERATION.digest),
        sign_federation(FEDERATION, COORDINATOR).upper(),
        "",
        "zz",
    ],
    ids=["plan", "secagg", "somebody", "capitals", "empty", "no hex"],
)
def test_attack_a_manifest_with_another_signature(signature):
    with pytest.raises(NotApproved):
        read_federation(FEDERATION.to_bytes(), signature, FEDERATION.digest)


def test_the_coordinator_signs_its_own_manifest_alone():
    with pytest.raises(NotApproved, match="another coordinator"):
        sign_federation(FEDERATION, identity("somebody"))


KEYS = [public_hex(identity(name)) for name in "abc"]


@pytest.mark.parametrize(
    ("name", "coordinator", "sites"),
    [
        ("f", KEYS[0], {"a": KEYS[1]}),
        ("f", KEYS[0], {}),
        ("f", KEYS[0], {"a": KEYS[1], "b": KEYS[1]}),
        ("f", KEYS[0], {"a": KEYS[0], "b": KEYS[1]}),
        ("f", KEYS[0], {"a": KEYS[1], "B": KEYS[2]}),
        ("f", KEYS[0], {"a": KEYS[1], "b\n": KEYS[2]}),
        ("f", KEYS[0], {"a": KEYS[1], "b": KEYS[2].upper()}),
        ("f", KEYS[0], {"a": KEYS[1], "b": KEYS[2][:-2]}),
        ("f", KEYS[0], {"a": KEYS[1], "b": None}),
        ("f", None, {"a": KEYS[1], "b": KEYS[2]}),
        ("", KEYS[0], {"a": KEYS[1], "b": KEYS[2]}),
        (1, KEYS[0], {"a": KEYS[1], "b": KEYS[2]}),
    ],
)
def test_what_is_no_federation(name, coordinator, sites):
    with pytest.raises(NotApproved):
        Federation(name, coordinator, sites)
    with pytest.raises(NotApproved):
        Federation.from_bytes(
            canonical_json({"coordinator": coordinator, "federation": 1, "name": name, "sites": sites})
        )


def test_a_manifest_that_is_far_too_long_is_not_even_parsed():
    names = [f"site-{number:058d}" for number in range(2000)]
    sites = {name: f"{number:064x}" for number, name in enumerate(names)}
    fits = Federation("test", FEDERATION.coordinator, {name: sites[name] for name in names[:1000]})
    assert Federation.from_bytes(fits.to_bytes()) == fits
    with pytest.raises(NotApproved, match="malformed"):
        Federation.from_bytes(Federation("test", FEDERATION.coordinator, sites).to_bytes())


def test_one_spelling():
    data = FEDERATION.to_bytes()
    assert Federation.from_bytes(data) == FEDERATION
    content = json.loads(data)
    spellings = [
        data + b" ",
        json.dumps(content).encode(),
        canonical_json({**content, "federation": 2}),
        canonical_json({**content, "more": 1}),
        canonical_json({key: value for key, value in content.items() if key != "name"}),
        data.replace(b'"name":"test"', b'"name":"test","name":"test"'),
        b"[" * 100_000,
        b"[]",
        b"",
        b'"x"',
        b'{"coordinator":1,"federation":1,"name":"a","sites":[1]}',
        b" " * (1 << 19),
    ]
    for spelling in spellings:
        with pytest.raises(NotApproved):
            Federation.from_bytes(spelling)


def test_a_signature_counts_for_one_site_and_one_statement():
    digest = bytes(range(32))
    signature = bytes.fromhex(sign(SCENE.identities["site-000"], SECAGG_DOMAIN, digest.hex()))
    assert FEDERATION.signed_by("site-000", digest, signature)
    assert not FEDERATION.signed_by("site-001", digest, signature)
    assert not FEDERATION.signed_by("site-000", bytes(32), signature)
    assert not FEDERATION.signed_by("mallory", digest, signature)
    assert not FEDERATION.signed_by("site-000", digest, signature[:-1])
    foreign = bytes.fromhex(sign(SCENE.identities["site-000"], PLAN_DOMAIN, digest.hex()))
    assert not FEDERATION.signed_by("site-000", digest, foreign)
