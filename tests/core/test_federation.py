"""The federation manifest: strict reading, one key per name, a number, an end, pinned by its digest."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tests.support.secagg import identity, world
from undertone.core.canonical import canonical_json
from undertone.core.clock import time_text
from undertone.core.federation import NEVER, Federation, read_federation, sign_federation
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
            canonical_json(
                {
                    **json.loads(FEDERATION.to_bytes()),
                    "coordinator": coordinator,
                    "name": name,
                    "sites": sites,
                }
            )
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
        canonical_json({**content, "federation": 1}),
        canonical_json({**content, "serial": True}),
        canonical_json({**content, "serial": 1.0}),
        canonical_json({**content, "more": 1}),
        canonical_json({key: value for key, value in content.items() if key != "name"}),
        data.replace(b'"name":"test"', b'"name":"test","name":"test"'),
        b"[" * 100_000,
        b"[]",
        b"",
        b'"x"',
        b'{"ca_sha256":"","coordinator":1,"expires":"","federation":2,"name":"a","predecessor":"","serial":1,"sites":[1]}',
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


DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 0},
        {"serial": -1},
        {"serial": True},
        {"serial": 2},
        {"serial": 2, "predecessor": "ab"},
        {"serial": 2, "predecessor": DIGEST.upper()},
        {"serial": 10**7, "predecessor": DIGEST},
        {"predecessor": DIGEST},
        {"predecessor": None},
        {"expires": ""},
        {"expires": "2027-01-31"},
        {"expires": "2027-1-31T12:00:00Z"},
        {"expires": "2027-01-31T12:00:00+00:00"},
        {"expires": "2027-02-31T12:00:00Z"},
        {"expires": None},
        {"ca_sha256": "ab"},
        {"ca_sha256": DIGEST.upper()},
        {"ca_sha256": None},
    ],
    ids=str,
)
def test_numbers_times_and_fingerprints_that_are_none(changes):
    with pytest.raises(NotApproved):
        replace(FEDERATION, **changes)
    with pytest.raises(NotApproved):
        Federation.from_bytes(canonical_json({**json.loads(FEDERATION.to_bytes()), **changes}))


def test_a_later_manifest_names_the_one_before_it_and_has_a_digest_of_its_own():
    later = replace(FEDERATION, serial=2, predecessor=FEDERATION.digest, ca_sha256=DIGEST)
    assert Federation.from_bytes(later.to_bytes()) == later
    digests = {
        replace(later, **change).digest
        for change in (
            {},
            {"serial": 3},
            {"predecessor": DIGEST},
            {"ca_sha256": ""},
            {"expires": "2027-01-31T12:00:00Z"},
        )
    }
    assert len(digests) == 5


def test_a_manifest_holds_until_the_second_it_expires():
    federation = replace(FEDERATION, expires="2027-01-31T12:00:00Z")
    end = datetime(2027, 1, 31, 12, tzinfo=UTC)
    federation.check_current(end - timedelta(seconds=1))
    for late in (end, end.astimezone(timezone(timedelta(hours=5))), end + timedelta(days=400)):
        with pytest.raises(NotApproved, match="expired"):
            federation.check_current(late)
    assert time_text(end.astimezone(timezone(timedelta(hours=5)))) == federation.expires
    assert replace(FEDERATION, expires=NEVER) == FEDERATION


def test_a_site_is_named_with_its_own_key():
    FEDERATION.check_names("site-000", FEDERATION.sites["site-000"])
    with pytest.raises(NotApproved, match="another key"):
        FEDERATION.check_names("site-000", FEDERATION.sites["site-001"])
    with pytest.raises(NotApproved, match="does not name"):
        FEDERATION.check_names("mallory", FEDERATION.sites["site-001"])
