"""Write tests/secagg/vectors/*.json anew from the reference implementation.

python -m tests.secagg.make_vectors
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tests.secagg.bad import bad_for_nodes, bad_for_the_server, bad_manifests, bad_parameters
from tests.secagg.reference import (
    P,
    coefficient,
    commitment,
    digest,
    hkdf,
    listed,
    may_follow,
    pair_key,
    reconstruct,
    seal,
    sealing_key,
    self_key,
    share_at,
    share_bytes,
    sign,
    word,
    x25519,
    x25519_public,
)
from tests.secagg.scenarios import SCENARIOS, Scenario, material

FOLDER = Path(__file__).parent / "vectors"
OFFSETS = (0, 1, 3, 4, 5, 65535, 65536, 2**31 - 1, 2**34 - 1, 2**34)


def primitives() -> dict:
    """Keys, mask words, shares, seals, digests and signatures of section 4, one by one."""
    r1, context = material("r1"), material("context")
    a, b = material("private a"), material("private b")
    shared = x25519(a, x25519_public(b))
    key = material("mask key")
    plaintext = material("plaintext", 66)
    return {
        "digests": [
            {"label": label, "fields": [f.hex() for f in fields], "digest": digest(label, *fields).hex()}
            for label, fields in (
                ("advert", ()), ("x", (b"",)), ("x", (b"", b"")), ("x", (b"ab", b"c")), ("x", (b"a", b"bc")),
            )
        ],
        "lists": [{"indices": s, "bytes": listed(s).hex()} for s in ([], [0], [0, 1, 999], [65535])],
        "hkdf": {"ikm": a.hex(), "salt": r1.hex(), "info": b"info".hex(), "okm_48": hkdf(a, r1, b"info", 48).hex()},
        "keys": {
            "private": [a.hex(), b.hex()],
            "public": [x25519_public(a).hex(), x25519_public(b).hex()],
            "shared": shared.hex(),
            "r1": r1.hex(),
            "sealing_2_to_5": sealing_key(shared, r1, 2, 5).hex(),
            "sealing_5_to_2": sealing_key(shared, r1, 5, 2).hex(),
            "pair_2_5": pair_key(shared, r1, 5, 2).hex(),
            "self_2": self_key(a, r1, 2).hex(),
        },
        "commitment": {"context": context.hex(), "i": 7, "b": b.hex(), "h": commitment(context, 7, b).hex()},
        "words": {"key": key.hex(), "offsets": list(OFFSETS), "words": [word(key, k) for k in OFFSETS]},
        "shamir": list(_sharings(context)),
        "seal": {
            "key": key.hex(), "r1": r1.hex(), "i": 300, "j": 4, "plaintext": plaintext.hex(),
            "sealed": seal(key, r1, 300, 4, plaintext).hex(),
        },
        "signature": {"seed": a.hex(), "statement": r1.hex(), "signature": sign(a, r1).hex()},
    }  # fmt: skip


def _sharings(context: bytes) -> Iterator[dict]:
    """Secrets at both ends and in the middle, and shares that are not a secret's."""
    seed = material("polynomials")
    for secret in (bytes(32), b"\xff" * 32, material("secret")):
        for w, threshold, n in ((1, 1, 2), (2, 3, 5), (1, 7, 10)):
            shares = {j: share_at(secret, seed, context, w, threshold, j) for j in range(n)}
            yield {
                "secret": secret.hex(), "seed": seed.hex(), "context": context.hex(), "w": w, "threshold": threshold,
                "coefficients": [hex(coefficient(seed, context, w, k)) for k in range(1, threshold)],
                "shares": [share_bytes(value).hex() for value in shares.values()],
            }  # fmt: skip
    # Two points on a line through 2^256 at x = 0: no secret, for a secret is 32 bytes.
    beyond = {0: (2**256 + 5) % P, 1: (2**256 + 10) % P}
    yield {"shares": [share_bytes(v).hex() for v in beyond.values()], "threshold": 2, "error": hex(reconstruct(beyond))}


def whole(made: Scenario) -> dict:
    """A session from the first draw to the sum."""
    u = made.u
    sites = {}
    for i, name in enumerate(made.session.roster):
        own = made.session.of(i)
        sent = made.site_messages(i)
        received = {stage: text.hex() for stage, text in made.server_messages(i).items() if stage in sent}
        sites[name] = {
            "identity": made.session.identity(i).hex(),
            "secrets": (own.b + own.ce + own.cm + own.seed).hex(),
            "values": made.values[i],
            "masked": made.masked(i) if "masked_input" in sent else None,
            "received": received,
            "sent": {stage: text.hex() for stage, text in sent.items()},
        }
    return {
        "parameters": made.session.parameters,
        "context": made.session.context.hex(),
        "coordinator": made.coordinator.hex(),
        "manifest": made.manifest.hex(),
        "manifest_signature": made.sign_manifest().hex(),
        "r1": made.session.r1(u[0]).hex(),
        "u": [[made.session.roster[i] for i in members] for members in u],
        "sites": sites,
        "sum": made.opened(),
        "transcript_sha256": hashlib.sha256(made.transcript()).hexdigest(),
        "transcript": made.transcript().decode(),
    }


def openings() -> Iterator[dict]:
    """Shares that are well formed, signed and wrong: who is named, and whether the sum still opens."""
    three, late = SCENARIOS["three"], SCENARIOS["ten-late"]
    everyone = [0, 1, 2]
    for owner in everyone:
        values = {j: (three.session.share(j, 2, 1) + (j == owner)) % P for j in everyone}
        lie = three.session.unmasking_shares_of(2, everyone, everyone, everyone, values)
        yield {
            "session": "three", "shares": {"site-c": lie.hex()}, "error": "UnfaithfulSite", "sum": None,
            "names": [three.session.roster[owner]], "why": "t shares, one wrong: it cannot be told which",
        }  # fmt: skip
    u1, u2, u3, u4, _ = late.u
    # The first t = 7 of 8 shares are tried first; a lie of the eighth is not looked at, so nobody is named.
    for liar, owner, named in ((1, 0, True), (4, 2, True), (3, 3, True), (8, 2, False)):
        truth = {j: late.session.share(j, liar, 1 if j in u3 else 2) for j in u2}
        lie = late.session.unmasking_shares_of(liar, u1, u2, u3, truth | {owner: (truth[owner] * 2 + 1) % P})
        all_of_u4 = {late.session.roster[i]: late.session.unmasking_shares(i, u1, u2, u3).hex() for i in u4}
        yield {
            "session": "ten-late", "shares": all_of_u4 | {late.session.roster[liar]: lie.hex()}, "error": None,
            "sum": late.opened(), "names": [late.session.roster[liar]] * named, "why": "t + 1 shares, one wrong",
        }  # fmt: skip


def chains() -> Iterator[dict]:
    """Lists signed so far, the next one, and whether a site signs it."""
    nine = list(range(9))
    for c, lists, u3, why in (
        (1, [], [0, 1, 2, 3], "the first"),
        (1, [nine], nine, "the same again"),
        (1, [nine], nine[:8], "one fewer"),
        (1, [nine], nine[:7], "c + 1 fewer"),
        (1, [nine], nine[:6], "c + 2 fewer"),
        (1, [nine], nine[3:], "c + 2 fewer, others"),
        (0, [nine], nine[:8], "one fewer, no colluders"),
        (0, [nine], nine[:7], "two fewer, no colluders"),
        (3, [nine], nine[:5], "c + 1 fewer of three"),
        (3, [nine], nine[:4], "c + 2 fewer of three"),
        (1, [nine[:6]], nine, "all that were left come back"),
        (1, [nine[:6]], [*nine[:5], 6], "one for another"),
        (1, [nine[:6]], [*nine[:3], 6], "three fewer and a stranger"),
        (1, [nine, nine[:6]], nine, "the first again"),
        (1, [nine, nine[:6]], nine[3:], "within the first and not the last"),
        (1, [nine, nine[:6]], nine[:6], "the last again"),
        (1, [nine, nine[:6]], nine[:3], "three fewer than the last"),
        (1, [nine, nine[:6]], nine[:5], "four fewer than the first, one than the last"),
        (1, [nine, nine, nine[:6], nine[:6]], nine[:3], "each twice"),
    ):
        yield {"colluders": c, "signed": lists, "u3": u3, "why": why, "allowed": may_follow(lists, u3, c)}


def files() -> dict[str, object]:
    """File name -> what it holds."""
    return {
        "primitives.json": primitives(),
        **{f"session-{name}.json": whole(made) for name, made in SCENARIOS.items()},
        "bad-node.json": list(bad_for_nodes()),
        "bad-server.json": list(bad_for_the_server()),
        "bad-openings.json": list(openings()),
        "parameters.json": list(bad_parameters()),
        "manifests.json": list(bad_manifests()),
        "chains.json": list(chains()),
    }


def text_of(value: object) -> str:
    """One entry a line where it is a list of entries: a change shows as the lines that changed."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(item, sort_keys=True) for item in value) + "\n]\n"
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    for name, value in files().items():
        (FOLDER / name).write_text(text_of(value))


if __name__ == "__main__":
    main()
