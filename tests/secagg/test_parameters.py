"""Which parameters a session may have, and their one spelling."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.secagg import session, world
from undertone.core.canonical import canonical_json
from undertone.errors import MechanismViolation, ProtocolError
from undertone.secagg.parameters import Parameters, agree
from undertone.secagg.thresholds import default_colluders, default_threshold

REFUSED = {
    "t within n + c": ({"threshold": 3, "colluders": 1}, "2t > n \\+ c"),
    "t = half": ({"roster": tuple("abcdef"), "threshold": 3, "colluders": 0, "site_clamp": 9}, "2t > n \\+ c"),
    "t equal, as 2t = n + c": ({"threshold": 4, "colluders": 3, "min_sites": 2}, "2t > n \\+ c"),
    "nobody to hide with": ({"threshold": 5, "colluders": 4}, "t - c = 1"),
    "negative c": ({"colluders": -1}, "-1 colluders"),
    "t above n": ({"threshold": 6}, "threshold 6 of 5"),
    "t = 0": ({"threshold": 0}, "threshold 0"),
    "min_sites 1": ({"min_sites": 1}, "min_sites 1"),
    "min_sites above n": ({"min_sites": 6}, "min_sites 6"),
    "modulus 16": ({"wire_bits": 16, "site_clamp": 5}, "16 bits"),
    "modulus 2": ({"wire_bits": 1, "site_clamp": 1}, "1 bits"),
    "the sum wraps": ({"site_clamp": (2**31 - 1) // 5 + 1}, "do not fit 32 bits"),
    "the sum wraps at 24": ({"wire_bits": 24}, "do not fit 24 bits"),
    "the sum and the noise wrap": (
        {"noise": "distributed", "rosters": "free", "sigma_local": 4, "site_clamp": 1000, "noise_margin": 2**31 - 5000},
        "do not fit",
    ),
    "no clamp": ({"site_clamp": 0}, "site clamp 0"),
    "noise of nobody": ({"noise": "none"}, "noise 'none'"),
    "distributed with c = 0": ({"noise": "distributed", "rosters": "free", "sigma_local": 9, "colluders": 0}, "c = 0"),
    "too little noise": ({"noise": "distributed", "rosters": "free", "sigma_local": 3}, "sigma_local 3"),
    "central with a share": ({"sigma_local": 9}, "central noise"),
    "central with a margin": ({"noise_margin": 9}, "central noise"),
    "a chain with distributed noise": ({"noise": "distributed", "sigma_local": 9}, "a chain of lists"),
    "rosters of another kind": ({"rosters": "k of n"}, "rosters 'k of n'"),
    "negative margin": ({"noise": "distributed", "rosters": "free", "sigma_local": 9, "noise_margin": -1}, "margin -1"),
    "unsorted": ({"roster": ("b", "a", "c", "d", "e")}, "not sorted"),
    "a site twice": ({"roster": ("a", "b", "c", "d", "d")}, "twice"),
    "one site": ({"roster": ("a",), "threshold": 1, "colluders": 0}, "1 sites"),
    "a crowd": ({"roster": tuple(f"s{n:04d}" for n in range(1001))}, "1001 sites"),
    "a name": ({"roster": ("a", "b", "c", "d", "e f")}, "name"),
    "a name's end": ({"roster": ("a", "b", "c", "d", "e\n")}, "name"),
    "a method": ({"method": "DP"}, "name"),
    "a digest": ({"study": "A" * 64}, "digest"),
    "a short digest": ({"state_sha256": "a" * 63}, "digest"),
    "a federation": ({"federation": ""}, "digest"),
    "round": ({"round": -1}, "round -1"),
    "attempt": ({"attempt": 1 << 31}, "attempt"),
    "session": ({"session": 0}, "session 0"),
    "dimension": ({"dimension": 0}, "dimension 0"),
    "large dimension": ({"dimension": 1 << 31}, "dimension"),
    "scale": ({"scale": 3}, "power of two"),
    "scale 0": ({"scale": 0}, "power of two"),
    "protocol": ({"protocol": 2}, "protocol 2"),
    "a float": ({"threshold": 4.0}, "type"),
    "a bool": ({"session": True}, "type"),
    "a number for a name": ({"method": 3}, "type"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    changes, match = REFUSED[case]
    with pytest.raises(MechanismViolation, match=match):
        replace(world(5).params, **changes).check()


def test_the_largest_clamp_that_fits():
    params = world(5).params
    for bits in (24, 32):
        fits = ((1 << (bits - 1)) - 1) // 5
        replace(params, wire_bits=bits, site_clamp=fits).check()
        with pytest.raises(MechanismViolation):
            replace(params, wire_bits=bits, site_clamp=fits + 1).check()


@pytest.mark.parametrize("sites", range(3, 120))
def test_the_defaults_are_sound(sites):
    t = default_threshold(sites)
    c = default_colluders(sites, t)
    assert c >= 1
    assert 3 * t > 2 * sites
    world(sites).params.check()
    assert (t, c) == {3: (3, 1), 5: (4, 1), 10: (7, 3), 100: (67, 33)}.get(sites, (t, c))


def test_round_trip_and_context():
    params = world(5).params
    again = Parameters.from_bytes(params.to_bytes())
    assert again == params
    assert again.context == params.context
    assert len(params.context) == 32
    contexts = {replace(params, **changes).context for changes in ({"round": 9}, {"scale": 2}, {"roster": ("a",)}, {})}
    assert len(contexts) == 4


SPOILED = [
    b"",
    b"{}",
    b"[]",
    b"3",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"roster":' + b"[" * 50_000,
    b"9" * 5000,
    b" " * (1 << 18),
]


@pytest.mark.parametrize("data", SPOILED)
def test_what_is_no_json_of_parameters(data):
    with pytest.raises(ProtocolError):
        Parameters.from_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 4.0},
        {"threshold": "4"},
        {"threshold": True},
        {"threshold": None},
        {"threshold": [4]},
        {"roster": "abc"},
        {"roster": None},
        {"roster": {"a": 1}},
        {"roster": [["a"]]},
        {"method": 1},
        {"method": "\ud800"},
        {"more": 1},
        {"noise": 0},
    ],
)
def test_a_type_or_a_key_of_another_kind(change):
    content = json.loads(world(5).params.to_bytes())
    spoiled = json.dumps({**content, **change}, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ProtocolError):
        Parameters.from_bytes(spoiled)


def test_a_roster_that_is_far_too_long_is_not_even_parsed():
    params = replace(world(5).params, roster=tuple(f"site-{number:058d}" for number in range(2100)))
    with pytest.raises(ProtocolError, match="are enough"):
        Parameters.from_bytes(params.to_bytes())
    longest = replace(params, roster=params.roster[:1000])
    assert Parameters.from_bytes(longest.to_bytes()) == longest


def test_one_spelling():
    params = world(5).params
    data = params.to_bytes()
    content = json.loads(data)
    spellings = [
        data + b"\n",
        data.replace(b":1,", b": 1,", 1),
        json.dumps(content).encode(),
        canonical_json({key: value for key, value in content.items() if key != "sigma_local"}),
        data.replace(b'"threshold":4', b'"threshold":4,"threshold":4'),
        data.replace(b"site-000", b"site-00\\u0030", 1),
        data.replace(b'"threshold":4', b'"threshold":4e0'),
    ]
    for spelling in spellings:
        assert spelling != data
        with pytest.raises(ProtocolError):
            Parameters.from_bytes(spelling)
        with pytest.raises(ProtocolError):
            agree(spelling, params)


@given(round_=st.integers(0, 2**31 - 1), attempt=st.integers(0, 2**31 - 1), session_=st.integers(1, 2**31 - 1))
def test_contexts_tell_sessions_apart(round_, attempt, session_):
    params = replace(world(3).params, round=round_, attempt=attempt, session=session_)
    params.check()
    assert Parameters.from_bytes(params.to_bytes()) == params
    assert (params.context == world(3).params.context) == ((round_, attempt, session_) == (2, 1, 1))


def test_two_sites_without_colluders():
    scene = world(2, 3, threshold=2, colluders=0)
    assert session(scene).opened.sites == scene.roster
