"""Deliberately bad input, each with the error that the tables of docs/secure-aggregation.md, 6, give for it."""

import json
from collections.abc import Iterator
from dataclasses import replace

from tests.secagg.reference import (
    P,
    canonical,
    commitment,
    digest,
    listed,
    message,
    seal,
    sealing_key,
    share_bytes,
    sign,
    sign_manifest,
    u16,
    x25519,
    x25519_public,
)
from tests.secagg.scenarios import SCENARIOS, material

# u-coordinates of order 1, 2, 4 and 8, and spellings of them at and above 2^255 - 19 (Bernstein, "Curve25519:
# new Diffie-Hellman speed records", PKC 2006, and the list on cr.yp.to/ecdh.html).
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    2**255 - 20,
    2**255 - 19,
    2**255 - 18,
]


def entry(base: str, party: str, step: str, bad: bytes, error: str, why: str) -> dict:
    """`party` has gone through `base` up to `step` and now receives `bad`: it must answer with `error`."""
    return {"session": base, "party": party, "step": step, "message": bad.hex(), "error": error, "why": why}


def misspelt(good: bytes) -> Iterator[tuple[bytes, str]]:
    """Ways to break a message that need no knowledge of what it says."""
    yield b"", "nothing at all"
    yield good[:33], "not even a header"
    yield b"\x02" + good[1:], "another version"
    yield good[:1] + bytes([good[1] ^ 1]) + good[2:], "another kind"
    yield good[:2] + bytes([good[2] ^ 1]) + good[3:], "another session"
    yield good[:-1], "a byte short"
    yield good + b"\x00", "a byte too long"


def bad_for_nodes() -> Iterator[dict]:
    """What a node is sent by a server that lies."""
    yield from _misspelt_for_nodes()
    yield from _bad_key_lists()
    yield from _bad_inboxes()
    yield from _bad_consistency_lists()
    yield from _bad_signature_lists()


def _misspelt_for_nodes() -> Iterator[dict]:
    made = SCENARIOS["three"]
    for step, good in made.server_messages(0).items():
        for bad, why in misspelt(good):
            yield entry("three", "site-a", step, bad, "ProtocolError", why)
        where = 36 if step == "masked_input" else 34
        for count in (0xFFFF, len(made.session.roster) + 1):
            bad = good[:where] + u16(count) + good[where + 2 :]
            yield entry("three", "site-a", step, bad, "ProtocolError", f"a count of {count}")


def _bad_key_lists() -> Iterator[dict]:
    made = SCENARIOS["three"]
    session = made.session
    bodies = [session.advertised_keys_body(i) for i in range(3)]

    def case(listed_bodies: list[bytes], error: str, why: str) -> dict:
        bad = message(2, session.context, u16(len(listed_bodies)) + b"".join(listed_bodies))
        return entry("three", "site-a", "share_keys", bad, error, why)

    yield case([bodies[1], bodies[0], bodies[2]], "ProtocolError", "indices out of order")
    yield case([bodies[0], bodies[1], bodies[1]], "ProtocolError", "one site twice")
    yield case([*bodies[:2], u16(3) + bodies[2][2:]], "ProtocolError", "an index that is not on the roster")
    yield case(bodies[:2], "TooFewSites", "the keys of fewer than t sites")
    own = session.of(0)
    other = session.signed_keys(0, x25519_public(own.ce), x25519_public(own.cm), material("another h"))
    yield case([other, *bodies[1:]], "UnfaithfulCoordinator", "own keys with another commitment, own signature")
    swapped = bodies[1][:2] + material("key of the server") + bodies[1][34:]
    yield case([bodies[0], swapped, bodies[2]], "UnfaithfulCoordinator", "another sealing key under the old signature")
    swapped = bodies[1][:34] + material("key of the server") + bodies[1][66:]
    yield case([bodies[0], swapped, bodies[2]], "UnfaithfulCoordinator", "another mask key under the old signature")
    swapped = bodies[1][:66] + material("commitment of the server") + bodies[1][98:]
    yield case([bodies[0], swapped, bodies[2]], "UnfaithfulCoordinator", "another commitment under the old signature")
    forger = replace(session, identities=session.identities | {"site-b": material("forger")})
    forged = [bodies[0], forger.advertised_keys_body(1), bodies[2]]
    yield case(forged, "UnfaithfulCoordinator", "keys signed by a key that is not in the manifest")
    as_other = bodies[2][:98] + session.signed_keys(1, bodies[2][2:34], bodies[2][34:66], bodies[2][66:98])[98:]
    yield case([*bodies[:2], as_other], "UnfaithfulCoordinator", "keys signed by another site of the roster")
    replayed = replace(session, parameters=session.parameters | {"session": 1}).advertised_keys_body(1)
    yield case([bodies[0], replayed, bodies[2]], "UnfaithfulCoordinator", "keys of an earlier session")
    for number, point in enumerate(LOW_ORDER):
        key, good = point.to_bytes(32, "little"), x25519_public(session.of(1).ce)
        h = bodies[1][66:98]
        pair = (key, good) if number % 2 else (good, key)
        signed = session.signed_keys(1, *pair, h)
        yield case([bodies[0], signed, bodies[2]], "UnfaithfulSite", f"a key of low order, number {number}")
    ten = SCENARIOS["ten-early"]
    without = [i for i in ten.u[0] if i != 0]
    yield entry(
        "ten-early",
        "site-a",
        "share_keys",
        ten.session.advertised_keys_list(without),
        "UnfaithfulCoordinator",
        "own not there",
    )


def _bad_inboxes() -> Iterator[dict]:
    made, u1 = SCENARIOS["three"], [0, 1, 2]
    session, r1 = made.session, made.session.r1([0, 1, 2])
    good = {j: session.sealed_for(j, 0, u1) for j in (1, 2)}

    def case(sealed: dict[int, bytes], error: str, why: str) -> dict:
        return entry("three", "site-a", "masked_input", session.share_inbox_of(0, sealed), error, why)

    def lie(plaintext: bytes) -> dict[int, bytes]:
        return good | {1: session.seal_anything(1, 0, u1, plaintext)}

    def flipped(text: bytes, at: int) -> bytes:
        return text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]

    yield entry(
        "three",
        "site-a",
        "masked_input",
        session.share_inbox(1, u1, u1),
        "UnfaithfulCoordinator",
        "the inbox of another",
    )
    yield case({2: good[2], 1: good[1]}, "ProtocolError", "indices out of order")
    yield case({1: good[1], 3: good[2]}, "ProtocolError", "an index that is not on the roster")
    yield case({0: good[1], **good}, "UnfaithfulCoordinator", "what this site is said to have sealed for itself")
    yield case({1: good[1]}, "TooFewSites", "fewer than t sites")
    for at in (0, 40, 66, 81):
        yield case(good | {1: flipped(good[1], at)}, "UnfaithfulCoordinator", f"bit flipped in byte {at}")
    yield case({1: good[2], 2: good[1]}, "UnfaithfulCoordinator", "two ciphertexts swapped")
    yield case(good | {1: session.sealed_for(0, 1, u1)}, "UnfaithfulCoordinator", "its own ciphertext sent back")
    earlier = replace(session, parameters=session.parameters | {"session": 1}).sealed_for(1, 0, u1)
    yield case(good | {1: earlier}, "UnfaithfulCoordinator", "a ciphertext of an earlier session")
    key = sealing_key(x25519(session.of(1).ce, x25519_public(session.of(0).ce)), r1, 1, 0)
    yield case(good | {1: seal(key, r1, 2, 0, session.plaintext(1, 0))}, "UnfaithfulCoordinator", "another sender")
    valid = share_bytes(7)
    for value in (P, P + 1, 2**264 - 1):
        yield case(lie(share_bytes(value) + valid), "UnfaithfulSite", f"a share of b at or above p: {value:#x}")
        yield case(lie(valid + share_bytes(value)), "UnfaithfulSite", f"a share of cm at or above p: {value:#x}")
    ten = SCENARIOS["ten-early"]
    wider = ten.session.share_inbox_of(
        0, {j: ten.session.sealed_for(j, 0, sorted({*ten.u[0], 1})) for j in (1, *ten.u[1][1:])}
    )
    yield entry("ten-early", "site-a", "masked_input", wider, "UnfaithfulCoordinator", "a site of U2 that is not in U1")


def _bad_consistency_lists() -> Iterator[dict]:
    made = SCENARIOS["ten-early"]
    session = made.session
    _, u2, u3, _, _ = made.u

    def case(two: list[int], three: list[int], error: str, why: str) -> dict:
        return entry("ten-early", "site-a", "consistency_check", session.consistency_lists(two, three), error, why)

    yield case([j for j in u2 if j != 8], u3, "UnfaithfulCoordinator", "U2 without a site that this one masked for")
    yield case(sorted({*u2, 4}), u3, "UnfaithfulCoordinator", "U2 with a site that this one did not mask for")
    yield case(u2, [j for j in u2 if j != 0], "UnfaithfulCoordinator", "the site itself is said to have dropped")
    yield case(u2, sorted({*u3, 4}), "UnfaithfulCoordinator", "a survivor that is not in U2")
    yield case(u2, u3[:-1], "TooFewSites", "fewer than t survivors")
    unsorted = listed(u2) + u16(len(u3)) + b"".join(u16(j) for j in reversed(u3))
    bad = message(6, session.context, unsorted)
    yield entry("ten-early", "site-a", "consistency_check", bad, "ProtocolError", "indices out of order")
    twice = listed(u2) + u16(7) + b"".join(u16(j) for j in [*u3[:-1], u3[-2]])
    bad = message(6, session.context, twice)
    yield entry("ten-early", "site-a", "consistency_check", bad, "ProtocolError", "one survivor twice")
    bad = message(6, session.context, listed(u2) + u16(7) + b"".join(u16(j) for j in [*u3[:-1], 10]))
    yield entry("ten-early", "site-a", "consistency_check", bad, "ProtocolError", "an index that is not on the roster")


def _bad_signature_lists() -> Iterator[dict]:
    made = SCENARIOS["ten-early"]
    session = made.session
    u1, u2, u3, u4, _ = made.u
    good = [(j, session.consistency_signature_of(j, u1, u2, u3)) for j in u4]

    def case(signatures: list[tuple[int, bytes]], error: str, why: str) -> dict:
        return entry("ten-early", "site-a", "unmasking", session.consistency_signatures_of(signatures), error, why)

    def last(signature: bytes) -> list[tuple[int, bytes]]:
        return [*good[:-1], (good[-1][0], signature)]

    who = u4[-1]
    yield case(good[:-1], "TooFewSites", "t - 1 signatures")
    yield case([*good[:-1], good[-2]], "ProtocolError", "one signer twice")
    yield case([good[1], good[0], *good[2:]], "ProtocolError", "indices out of order")
    yield case([*good[:-1], (10, good[-1][1])], "ProtocolError", "an index that is not on the roster")
    yield case(last(good[0][1]), "UnfaithfulCoordinator", "the signature of another site")
    split = session.consistency_signature_of(who, u1, u2, sorted({*u3, 8}))
    yield case(last(split), "UnfaithfulCoordinator", "a signature on other survivors")
    split = session.consistency_signature_of(who, u1, sorted({*u2, 4}), u3)
    yield case(last(split), "UnfaithfulCoordinator", "a signature on another U2")
    split = session.consistency_signature_of(who, u1[:-1], u2, u3)
    yield case(last(split), "UnfaithfulCoordinator", "a signature on another R1")
    replayed = replace(session, parameters=session.parameters | {"session": 1})
    split = replayed.consistency_signature_of(who, u1, u2, u3)
    yield case(last(split), "UnfaithfulCoordinator", "a signature of an earlier session")
    forger = replace(session, identities=session.identities | {session.roster[who]: material("forger")})
    yield case(
        last(forger.consistency_signature_of(who, u1, u2, u3)), "UnfaithfulCoordinator", "a key not in the manifest"
    )
    fields = (session.context, session.r1(u1), u16(who), listed(u2), listed(u3))
    other_kind = sign(session.identity(who), digest("masked", *fields))
    yield case(last(other_kind), "UnfaithfulCoordinator", "a signature over another kind of statement")
    outside = sorted([*good[1:], (8, session.consistency_signature_of(8, u1, u2, u3))])
    yield case(outside, "UnfaithfulCoordinator", "a signer that is not among the survivors")


def bad_for_the_server() -> Iterator[dict]:
    """What one site, `party` says which, sends to the server; the error is always that the site is dropped."""
    made = SCENARIOS["three"]
    for step, good in made.site_messages(2).items():
        for bad, why in misspelt(good):
            yield entry("three", "server: site-c", step, bad, "dropped", why)
        bad = good[:34] + u16(1) + good[36:]
        yield entry("three", "server: site-c", step, bad, "dropped", "the index of another site")
        bad = good[:-64] + sign(made.session.identity(2), digest("advert", b"")) + b""
        yield entry("three", "server: site-c", step, bad, "dropped", "a signature over something else")
        bad = made.site_messages(1)[step]
        yield entry("three", "server: site-c", step, bad, "dropped", "the message of another site")
    yield from _bad_from_a_site()


def _bad_from_a_site() -> Iterator[dict]:
    made, everyone = SCENARIOS["three"], [0, 1, 2]
    session = made.session
    own, h = session.of(2), commitment(session.context, 2, session.of(2).b)
    e, m = x25519_public(own.ce), x25519_public(own.cm)
    for number, point in enumerate(LOW_ORDER):
        low = point.to_bytes(32, "little")
        pair = (low, m) if number % 2 else (e, low)
        bad = message(1, session.context, session.signed_keys(2, *pair, h))
        yield entry("three", "server: site-c", "advertise_keys", bad, "dropped", f"a key of low order, number {number}")
    r1 = session.r1(everyone)
    sealed = {j: session.sealed_for(2, j, everyone) for j in (0, 1)}

    def shared(entries: list[tuple[int, bytes]], digest_sent: bytes, why: str) -> dict:
        text = u16(len(entries)) + b"".join(u16(j) + part for j, part in entries)
        bad = session.sealed_shares_of(2, digest_sent, text)
        return entry("three", "server: site-c", "share_keys", bad, "dropped", why)

    yield shared([(0, sealed[0]), (1, sealed[1])], material("another r1"), "another R1")
    yield shared([(0, sealed[0])], r1, "nothing sealed for one site")
    yield shared([(1, sealed[1]), (0, sealed[0])], r1, "indices out of order")
    yield shared([(0, sealed[0]), (0, sealed[0])], r1, "two entries for one site")
    yield shared([(0, sealed[0]), (1, sealed[1]), (2, sealed[1])], r1, "an entry for itself")
    other = session.masked(2, everyone, everyone, made.words(0))
    bad = session.masked_input_proof(2, everyone, everyone, other)
    yield entry("three", "server: site-c", "masked_input", bad, "dropped", "a proof for another vector")
    bad = session.masked_input_proof(2, everyone, [0, 2], made.masked(2))
    yield entry("three", "server: site-c", "masked_input", bad, "dropped", "a proof for another U2")
    for two, three, why in (([0, 1, 2], [0, 2], "other survivors"), ([0, 2], [0, 1, 2], "another U2")):
        bad = session.consistency_signature(2, everyone, two, three)
        yield entry("three", "server: site-c", "consistency_check", bad, "dropped", f"a signature on {why}")
    values = {j: session.share(j, 2, 1) for j in everyone}
    for changed, why in (
        ({j: values[j] for j in (0, 1)}, "no share of its own secret"),
        ({2: values[2], 0: values[0], 1: values[1]}, "indices out of order"),
        (values | {1: P}, "a share of p"),
        (values | {1: 2**264 - 1}, "a share of 33 bytes of ones"),
    ):
        bad = session.unmasking_shares_of(2, everyone, everyone, everyone, changed)
        yield entry("three", "server: site-c", "unmasking", bad, "dropped", why)


def bad_parameters() -> Iterator[dict]:
    """Parameters that section 2 refuses, and good ones at the edge."""
    good = SCENARIOS["ten-early"].session.parameters
    edge = (2**31 - 1) // 10

    def case(error: str | None, why: str, **changed: object) -> dict:
        return {"parameters": good | changed, "error": error, "why": why}

    yield case(None, "n = 10, t = 7, c = 3")
    yield case(None, "the largest clamp", site_clamp=edge)
    yield case(None, "t = n", threshold=10, colluders=8)
    yield case(None, "24 bits, the largest clamp", wire_bits=24, site_clamp=(2**23 - 1) // 10)
    yield case(None, "distributed, the smallest share", noise="distributed", rosters="free", sigma_local=4)
    yield case(None, "free lists", rosters="free")
    yield case("MechanismViolation", "a chain with distributed noise", noise="distributed", sigma_local=4)
    yield case("MechanismViolation", "rosters that do not exist", rosters="k of n")
    yield case("MechanismViolation", "t = 0", threshold=0, colluders=0)
    yield case("MechanismViolation", "t above n", threshold=11)
    yield case("MechanismViolation", "2t = n + c", threshold=6, colluders=2)
    yield case("MechanismViolation", "2t below n + c", threshold=5, colluders=3)
    yield case("MechanismViolation", "t - c = 1", threshold=10, colluders=9)
    yield case("MechanismViolation", "c below 0", colluders=-1)
    yield case("MechanismViolation", "one site may be opened", min_sites=1)
    yield case("MechanismViolation", "more sites wanted than there are", min_sites=11)
    yield case("MechanismViolation", "no clamp", site_clamp=0)
    yield case("MechanismViolation", "a clamp of which ten wrap", site_clamp=edge + 1)
    yield case("MechanismViolation", "no room for the noise", site_clamp=edge, noise_margin=2**31)
    yield case("MechanismViolation", "24 bits, a clamp of which ten wrap", wire_bits=24, site_clamp=(2**23) // 10 + 1)
    yield case("MechanismViolation", "a wire of 16 bits", wire_bits=16)
    yield case("MechanismViolation", "a scale that is not a power of two", scale=65537)
    yield case("MechanismViolation", "a scale of 2^63", scale=2**63)
    yield case("MechanismViolation", "no word", dimension=0)
    yield case("MechanismViolation", "2^31 words", dimension=2**31)
    yield case("MechanismViolation", "session 0", session=0)
    yield case("MechanismViolation", "round below 0", round=-1)
    yield case("MechanismViolation", "round 2^31", round=2**31)
    yield case("MechanismViolation", "another protocol", protocol=2)
    yield case("MechanismViolation", "noise that does not exist", noise="none")
    yield case("MechanismViolation", "central with a share of noise", sigma_local=4)
    yield case("MechanismViolation", "central with a margin", noise_margin=1)
    yield case(
        "MechanismViolation", "distributed with too little noise", noise="distributed", rosters="free", sigma_local=3
    )
    yield case(
        "MechanismViolation", "distributed with c = 0", noise="distributed", rosters="free", sigma_local=4, colluders=0
    )
    yield case("MechanismViolation", "a roster out of order", roster=list(reversed(good["roster"])))
    yield case("MechanismViolation", "a site twice", roster=[*good["roster"][:-1], good["roster"][-2]])
    yield case("MechanismViolation", "a name with a capital", roster=["Site-a", *good["roster"][1:]])
    yield case("MechanismViolation", "a name of 64 letters", roster=["a" * 64, *good["roster"][1:]])
    yield case("MechanismViolation", "a digest in capitals", study=good["study"].upper())
    yield case("MechanismViolation", "a digest that is short", state_sha256=good["state_sha256"][:-1])


def bad_manifests() -> Iterator[dict]:
    """Manifests and signatures that section 3 refuses, and a good one."""
    made = SCENARIOS["three"]
    good, value = made.manifest, json.loads(made.manifest)

    def case(manifest: bytes, error: str | None, why: str, signature: bytes | None = None) -> dict:
        signed = sign_manifest(made.coordinator, manifest) if signature is None else signature
        return {"manifest": manifest.hex(), "signature": signed.hex(), "error": error, "why": why}

    yield case(good, None, "good")
    yield case(good + b"\n", "NotApproved", "a line feed at the end")
    yield case(json.dumps(value, sort_keys=True).encode(), "NotApproved", "white space")
    unsorted = json.dumps({key: value[key] for key in reversed(value)}, separators=(",", ":")).encode()
    yield case(unsorted, "NotApproved", "keys out of order")
    key = value["sites"]["site-a"]
    yield case(good.replace(key.encode(), key.upper().encode()), "NotApproved", "a key in capitals")
    yield case(canonical(value | {"federation": 1}), "NotApproved", "another version")
    yield case(canonical(value | {"serial": True}), "NotApproved", "true in place of 1")
    later = {"serial": 7, "predecessor": material("p").hex(), "ca_sha256": material("ca").hex()}
    yield case(canonical(value | later), None, "a later one")
    yield case(canonical(value | {"serial": 2}), "NotApproved", "the second, and names none before it")
    yield case(
        canonical(value | {"predecessor": material("p").hex()}), "NotApproved", "the first, and names one before"
    )
    yield case(canonical(value | {"expires": "2027-02-30T00:00:00Z"}), "NotApproved", "a day that there is not")
    yield case(canonical(value | {"note": "x"}), "NotApproved", "a key too many")
    yield case(canonical({k: v for k, v in value.items() if k != "name"}), "NotApproved", "no name")
    yield case(canonical(value | {"sites": {"site-a": key}}), "NotApproved", "one site")
    same = value["sites"] | {"site-b": key}
    yield case(canonical(value | {"sites": same}), "NotApproved", "two sites with one key")
    taken = value["sites"] | {"site-b": value["coordinator"]}
    yield case(canonical(value | {"sites": taken}), "NotApproved", "a site with the coordinator's key")
    yield case(canonical(value | {"sites": value["sites"] | {"site-a": key[:-2]}}), "NotApproved", "a key of 31 bytes")
    yield case(canonical(value | {"sites": value["sites"] | {"Site": material("k").hex()}}), "NotApproved", "a capital")
    twice = good.replace(b'"site-b":', b'"site-a":')
    yield case(twice, "NotApproved", "one name twice")
    yield case(b"[]", "NotApproved", "not an object")
    yield case(good, "NotApproved", "signed by a site", sign_manifest(made.session.identity(0), good))
    yield case(good, "NotApproved", "a signature over another manifest", sign_manifest(made.coordinator, good + b" "))
    yield case(good, "NotApproved", "no signature", b"")
