"""The sessions of the golden vectors: who takes part, who leaves when, and every byte that is then sent."""

import hashlib
from dataclasses import dataclass

from tests.secagg.reference import Secrets, Session, canonical, manifest_of, sign_manifest

STEPS = ("advertise_keys", "share_keys", "masked_input", "consistency_check", "unmasking")


def material(label: str, length: int = 32) -> bytes:
    """Bytes that nobody chose: SHA-256 of the label and a count."""
    blocks = [hashlib.sha256(f"undertone vector/{label}/{k}".encode()).digest() for k in range(-(-length // 32))]
    return b"".join(blocks)[:length]


@dataclass(frozen=True)
class Scenario:
    """A session, each site's integers, and the first message that a leaving site does not send."""

    name: str
    session: Session
    coordinator: bytes
    values: dict[int, list[int]]
    leaves: dict[int, str]

    def staying(self, stage: str) -> list[int]:
        """Indices of the sites that send their message of this stage."""
        gone = {i for i, left in self.leaves.items() if STEPS.index(left) <= STEPS.index(stage)}
        return [i for i in range(len(self.session.roster)) if i not in gone]

    @property
    def u(self) -> tuple[list[int], ...]:
        """U1 to U5."""
        return tuple(self.staying(stage) for stage in STEPS)

    @property
    def manifest(self) -> bytes:
        return manifest_of("vectors", self.coordinator, self.session.identities)

    def words(self, i: int) -> list[int]:
        return [value % 2**32 for value in self.values[i]]

    def masked(self, i: int) -> list[int]:
        return self.session.masked(i, self.u[0], self.u[1], self.words(i))

    def site_messages(self, i: int) -> dict[str, bytes]:
        """Stage -> the message that site i sends, up to where it leaves."""
        u1, u2, u3, _, _ = self.u
        makers = {
            "advertise_keys": lambda: self.session.advertised_keys(i),
            "share_keys": lambda: self.session.sealed_shares(i, u1),
            "masked_input": lambda: self.session.masked_input_proof(i, u1, u2, self.masked(i)),
            "consistency_check": lambda: self.session.consistency_signature(i, u1, u2, u3),
            "unmasking": lambda: self.session.unmasking_shares(i, u1, u2, u3),
        }
        return {stage: make() for stage, make in makers.items() if i in self.staying(stage)}

    def server_messages(self, i: int) -> dict[str, bytes]:
        """Stage -> what the server sends site i before it answers that stage."""
        u1, u2, u3, u4, _ = self.u
        return {
            "share_keys": self.session.advertised_keys_list(u1),
            "masked_input": self.session.share_inbox(i, u1, u2),
            "consistency_check": self.session.consistency_lists(u2, u3),
            "unmasking": self.session.consistency_signatures(u1, u2, u3, u4),
        }

    def opened(self) -> list[int]:
        """The sum as the server opens it, from vectors and shares."""
        u1, u2, u3, _, u5 = self.u
        shares = {i: {j: self.session.share(j, i, 1 if j in u3 else 2) for j in u2} for i in u5}
        words = self.session.open(u1, u2, u3, {i: self.masked(i) for i in u3}, shares)
        modulus = 2 ** self.session.parameters["wire_bits"]
        return [value - modulus if value >= modulus // 2 else value for value in words]

    def plain_sum(self) -> list[int]:
        """The sum without any cryptography."""
        return [sum(column) for column in zip(*(self.values[i] for i in self.u[2]), strict=True)]

    def transcript(self) -> bytes:
        """What is left of the session for the audit log (section 6)."""
        session, roster = self.session, self.session.roster
        u1, u2, u3, u4, u5 = self.u
        proofs = {roster[i]: self.site_messages(i)["masked_input"] for i in u3}
        return canonical(
            {
                "parameters": session.parameters,
                "round_digest": session.r1(u1).hex(),
                "advertised_keys": {roster[i]: session.advertised_keys_body(i)[2:].hex() for i in u1},
                "masked_for": [roster[i] for i in u2],
                "vectors": {
                    site: {"sha256": proof[36:68].hex(), "signature": proof[68:].hex()}
                    for site, proof in proofs.items()
                },
                "consistency_signatures": {
                    roster[i]: session.consistency_signature_of(i, u1, u2, u3).hex() for i in u4
                },
                "opened_by": [roster[i] for i in u5],
            }
        )

    def sign_manifest(self) -> bytes:
        return sign_manifest(self.coordinator, self.manifest)


def scenario(name: str, sites: int, leaves: dict[int, str] | None = None, **changed: object) -> Scenario:
    """A scenario whose parameters are those below, with some changed."""
    roster = sorted(f"site-{chr(ord('a') + k)}" for k in range(sites))
    identities = {site: material(f"{name}/{site}/identity") for site in roster}
    coordinator = material(f"{name}/coordinator")
    manifest = manifest_of("vectors", coordinator, identities)
    threshold = 2 * sites // 3 + 1
    parameters = {
        "protocol": 1,
        "study": material(f"{name}/study").hex(),
        "round": 3,
        "attempt": 1,
        "session": 2,
        "federation": hashlib.sha256(manifest).hexdigest(),
        "roster": roster,
        "threshold": threshold,
        "colluders": max(1, min(sites // 3, threshold - 2)),
        "min_sites": 2,
        "dimension": 5,
        "wire_bits": 32,
        "scale": 65536,
        "site_clamp": 1 << 24,
        "noise": "central",
        "rosters": "free" if changed.get("noise") == "distributed" else "chain",
        "sigma_local": 0,
        "noise_margin": 0,
        "state_sha256": material(f"{name}/state").hex(),
        "method": "dpagg-ti",
    } | changed
    secrets = {
        site: Secrets(*(material(f"{name}/{site}/{part}") for part in ("b", "ce", "cm", "seed"))) for site in roster
    }
    session = Session(parameters, identities, secrets)
    return Scenario(name, session, coordinator, _values(name, parameters), leaves or {})


def _values(name: str, parameters: dict) -> dict[int, list[int]]:
    """Each site's integers in [-B, B], the ends included."""
    bound, d = parameters["site_clamp"], parameters["dimension"]
    drawn = {}
    for i, site in enumerate(parameters["roster"]):
        stream = material(f"{name}/{site}/values", 8 * d)
        values = [int.from_bytes(stream[8 * k : 8 * k + 8], "big") % (2 * bound + 1) - bound for k in range(d)]
        drawn[i] = [bound, -bound, *values][:d] if i % 2 == 0 else [bound, -bound, *values][:d][::-1]
    return drawn


SCENARIOS = {
    made.name: made
    for made in (
        scenario("three", 3),
        # One leaves at each stage but the last; t = 7 remain.
        scenario("ten-early", 10, {1: "advertise_keys", 4: "share_keys", 8: "masked_input"}, dimension=67, min_sites=5),
        scenario("ten-late", 10, {0: "masked_input", 9: "consistency_check", 5: "unmasking"}, dimension=2),
        scenario(
            "twenty-four-bits",
            5,
            {2: "masked_input"},
            dimension=9,
            wire_bits=24,
            site_clamp=1 << 20,
            noise="distributed",
            sigma_local=1000,
            noise_margin=50_000,
        ),
    )
}
