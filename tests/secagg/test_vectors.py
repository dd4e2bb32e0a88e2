"""The package against vectors that another implementation made from the specification (`make_vectors.py`)."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.secagg import KeptLists
from undertone import errors
from undertone.core.canonical import canonical_json
from undertone.core.federation import Federation, read_federation, sign_federation
from undertone.secagg import encoding, sealing, shamir
from undertone.secagg.node import advertise_keys
from undertone.secagg.parameters import Parameters
from undertone.secagg.prg import words_at
from undertone.secagg.server import ServerSession
from undertone.secagg.survivors import check_follows
from undertone.secagg.transcript import check_transcript

FOLDER = Path(__file__).parent / "vectors"
SESSIONS = ("three", "ten-early", "ten-late", "twenty-four-bits")
STEPS = ("advertise_keys", "share_keys", "masked_input", "consistency_check", "unmasking")


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def hexed(text: str) -> bytes:
    return bytes.fromhex(text)


class Scripted:
    """Entropy that gives out given bytes, in order, and no more."""

    def __init__(self, script: bytes) -> None:
        self.left = script

    def bytes(self, n: int) -> bytes:
        assert n <= len(self.left), "more is drawn than the specification says"
        given, self.left = self.left[:n], self.left[n:]
        return given

    def bits(self, k: int) -> int:
        raise AssertionError(f"{k} bits asked for")


class Replay:
    """A recorded session: its parties as the package builds them, and what they have to say."""

    def __init__(self, name: str) -> None:
        self.file = load(f"session-{name}")
        self.params = Parameters.from_bytes(canonical_json(self.file["parameters"]))
        manifest = hexed(self.file["manifest"])
        self.federation = read_federation(
            manifest, self.file["manifest_signature"], hashlib.sha256(manifest).hexdigest()
        )
        self.sites = self.file["sites"]

    def sent(self, site: str, stage: str) -> bytes:
        return hexed(self.sites[site]["sent"][stage])

    def received(self, site: str, stage: str) -> bytes:
        return hexed(self.sites[site]["received"][stage])

    def senders(self, stage: str) -> list[str]:
        return [site for site in self.params.roster if stage in self.sites[site]["sent"]]

    def words(self, site: str) -> np.ndarray:
        return (np.array(self.sites[site]["values"], dtype=np.int64) & 0xFFFFFFFF).astype(np.uint32)

    def masked(self, site: str) -> np.ndarray:
        return np.array(self.sites[site]["masked"], dtype=np.uint32)

    def node(self, site: str, until: str) -> Callable[[bytes], tuple]:
        """The step `until` of a node that went through the session up to there."""
        identity = Ed25519PrivateKey.from_private_bytes(hexed(self.sites[site]["identity"]))
        entropy = Scripted(hexed(self.sites[site]["secrets"]))
        state, advertised = advertise_keys(self.params, site, identity, self.federation, entropy)
        assert advertised == self.sent(site, "advertise_keys")
        assert entropy.left == b"", "less is drawn than the specification says"
        for stage in STEPS[1:]:
            step = self.step(state, site, stage)
            if stage == until:
                return step
            state, *_, message = step(self.received(site, stage))
            assert message == self.sent(site, stage), stage
        raise AssertionError(until)

    def step(self, state: Any, site: str, stage: str) -> Callable[[bytes], tuple]:
        if stage == "masked_input":
            return lambda message: state.masked_input(message, self.words(site))
        if stage == "consistency_check":
            return lambda message: state.consistency_check(message, KeptLists())
        return getattr(state, stage)

    def serve(self, changed: dict[str, dict[str, bytes]] | None = None) -> Iterator[tuple[str, Any, ServerSession]]:
        """A server through all stages: (stage, what it answered, itself). `changed`: stage -> site -> bytes."""
        server = ServerSession(self.params, self.federation)

        def gathered(stage: str) -> dict[str, bytes]:
            return {site: self.sent(site, stage) for site in self.senders(stage)} | (changed or {}).get(stage, {})

        yield "advertise_keys", server.advertise_keys(gathered("advertise_keys")), server
        yield "share_keys", server.share_keys(gathered("share_keys")), server
        for site, proof in gathered("masked_input").items():
            server.add_masked_input(site, self.masked(site), proof)
        yield "masked_input", server.end_masked_input(), server
        yield "consistency_check", server.consistency_check(gathered("consistency_check")), server
        yield "unmasking", server.unmasking(gathered("unmasking")), server


@pytest.fixture(scope="module")
def primitives() -> Any:
    return load("primitives")


def test_digests_and_lists(primitives: Any) -> None:
    for case in primitives["digests"]:
        assert encoding.tagged(case["label"], *map(hexed, case["fields"])).hex() == case["digest"]
    for case in primitives["lists"]:
        assert encoding.index_list(case["indices"]).hex() == case["bytes"]


def test_key_schedule(primitives: Any) -> None:
    keys = primitives["keys"]
    a, b = map(hexed, keys["private"])
    assert [sealing.public_of(private).hex() for private in (a, b)] == keys["public"]
    shared, r1 = hexed(keys["shared"]), hexed(keys["r1"])
    assert sealing.exchange(a, sealing.public_of(b), "x") == sealing.exchange(b, sealing.public_of(a), "x") == shared
    assert sealing.seal_key(shared, r1, 2, 5).hex() == keys["sealing_2_to_5"]
    assert sealing.seal_key(shared, r1, 5, 2).hex() == keys["sealing_5_to_2"]
    assert sealing.pair_mask_key(shared, r1, 2, 5).hex() == keys["pair_2_5"]
    assert sealing.pair_mask_key(shared, r1, 5, 2).hex() == keys["pair_2_5"]
    assert sealing.self_mask_key(a, r1, 2).hex() == keys["self_2"]


def test_commitment_and_signature(primitives: Any) -> None:
    case = primitives["commitment"]
    assert sealing.commitment(hexed(case["context"]), case["i"], hexed(case["b"])).hex() == case["h"]
    case = primitives["signature"]
    identity = Ed25519PrivateKey.from_private_bytes(hexed(case["seed"]))
    assert sealing.sign_statement(identity, hexed(case["statement"])).hex() == case["signature"]


def test_mask_words_at_offsets(primitives: Any) -> None:
    case = primitives["words"]
    assert [int(words_at(hexed(case["key"]), k, 1)[0]) for k in case["offsets"]] == case["words"]


def test_sharing(primitives: Any) -> None:
    for case in primitives["shamir"]:
        shares = {x: hexed(share) for x, share in enumerate(case["shares"], start=1)}
        chosen = {x: shares[x] for x in list(shares)[-case["threshold"] :]}
        if "error" in case:
            assert shamir.reconstruct(chosen) is None
            continue
        drawn = sealing.coefficients(hexed(case["seed"]), hexed(case["context"]), case["w"], case["threshold"])
        assert [hex(value) for value in drawn] == case["coefficients"]
        assert shamir.deal(hexed(case["secret"]), drawn, list(shares)) == list(shares.values())
        assert shamir.reconstruct(chosen) == hexed(case["secret"])


def test_seal(primitives: Any) -> None:
    case = primitives["seal"]
    key, plaintext, r1 = hexed(case["key"]), hexed(case["plaintext"]), hexed(case["r1"])
    assert sealing.seal(key, plaintext, r1, case["i"], case["j"]).hex() == case["sealed"]
    assert sealing.unseal(key, hexed(case["sealed"]), r1, case["i"], case["j"]) == plaintext
    assert sealing.unseal(key, hexed(case["sealed"]), r1, case["j"], case["i"]) is None


@pytest.mark.parametrize("name", SESSIONS)
def test_context_manifest_and_round_digest(name: str) -> None:
    replay = Replay(name)
    assert replay.params.context.hex() == replay.file["context"]
    assert replay.federation.to_bytes().hex() == replay.file["manifest"]
    coordinator = Ed25519PrivateKey.from_private_bytes(hexed(replay.file["coordinator"]))
    assert sign_federation(replay.federation, coordinator) == replay.file["manifest_signature"]
    assert json.loads(replay.file["transcript"])["round_digest"] == replay.file["r1"]


@pytest.mark.parametrize("name", SESSIONS)
def test_every_node_says_what_the_reference_says(name: str) -> None:
    replay = Replay(name)
    for site in replay.senders("share_keys"):
        for stage in STEPS[1:]:
            if stage not in replay.sites[site]["sent"]:
                break
            _, *vector, message = replay.node(site, stage)(replay.received(site, stage))
            assert message == replay.sent(site, stage), (site, stage)
            if stage == "masked_input":
                assert vector[0].tolist() == replay.sites[site]["masked"]


@pytest.mark.parametrize("name", SESSIONS)
def test_the_server_says_what_the_reference_says(name: str) -> None:
    replay = Replay(name)
    told = {"advertise_keys": "share_keys", "masked_input": "consistency_check", "consistency_check": "unmasking"}
    u1, u2, u3, u4, u5 = replay.file["u"]
    for stage, answer, server in replay.serve():
        if stage in told:
            received = [replay.received(site, told[stage]) for site in replay.senders(told[stage])]
            assert {answer} == set(received), stage
        elif stage == "share_keys":
            assert sorted(answer) == u2
            for site in replay.senders("masked_input"):
                assert answer[site] == replay.received(site, "masked_input"), site
        else:
            assert answer.words.view(np.int32).tolist() == replay.file["sum"]
            assert list(answer.sites) == u3
            assert answer.transcript.decode() == replay.file["transcript"]
            assert hashlib.sha256(answer.transcript).hexdigest() == replay.file["transcript_sha256"]
            assert list(check_transcript(answer.transcript, replay.federation).sites) == u3
            assert set(server.dropped) == set(replay.params.roster) - (set(u1) & set(u2) & set(u3) & set(u4) & set(u5))


NODE_CASES = load("bad-node")
SERVER_CASES = load("bad-server")


def named(case: dict) -> str:
    return f"{case['step']}-{case['why']}".replace(" ", "_")


@pytest.mark.parametrize("case", NODE_CASES, ids=named)
def test_a_node_refuses(case: dict) -> None:
    replay = Replay(case["session"])
    step = replay.node(case["party"], case["step"])
    with pytest.raises(errors.UndertoneError) as caught:
        step(hexed(case["message"]))
    assert type(caught.value).__name__ == case["error"], caught.value
    # The step is spent: the right message comes too late.
    with pytest.raises(errors.ReplayedAttempt):
        step(replay.received(case["party"], case["step"]))


@pytest.mark.parametrize("case", SERVER_CASES, ids=named)
def test_the_server_drops_the_site(case: dict) -> None:
    replay = Replay(case["session"])
    site = case["party"].removeprefix("server: ")
    stages = replay.serve({case["step"]: {site: hexed(case["message"])}})
    for _ in STEPS[: STEPS.index(case["step"])]:
        _, _, server = next(stages)
        assert server.dropped == {}
    # t = n = 3 here: without this site the session ends.
    with pytest.raises(errors.TooFewSites, match=site):
        next(stages)


@pytest.mark.parametrize("case", load("bad-openings"), ids=lambda case: case["why"].replace(" ", "_"))
def test_wrong_shares(case: dict) -> None:
    replay = Replay(case["session"])
    changed = {"unmasking": {site: hexed(text) for site, text in case["shares"].items()}}
    if case["error"]:
        with pytest.raises(errors.UnfaithfulSite) as caught:
            list(replay.serve(changed))
        assert type(caught.value).__name__ == case["error"]
        assert case["names"][0] in str(caught.value)
        return
    *_, (_, opened, server) = replay.serve(changed)
    assert opened.words.view(np.int32).tolist() == case["sum"]
    blamed = {site for site, why in server.dropped.items() if "wrong" in why}
    assert blamed == set(case["names"])


@pytest.mark.parametrize("case", load("parameters"), ids=lambda case: case["why"].replace(" ", "_"))
def test_parameters(case: dict) -> None:
    parameters = Parameters(**case["parameters"] | {"roster": tuple(case["parameters"]["roster"])})
    if case["error"] is None:
        parameters.check()
        assert parameters.to_bytes() == canonical_json(case["parameters"])
        return
    with pytest.raises(errors.UndertoneError) as caught:
        parameters.check()
    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize("case", load("manifests"), ids=lambda case: case["why"].replace(" ", "_"))
def test_manifests(case: dict) -> None:
    manifest = hexed(case["manifest"])
    digest = hashlib.sha256(manifest).hexdigest()
    if case["error"] is None:
        assert isinstance(read_federation(manifest, case["signature"], digest), Federation)
        return
    with pytest.raises(errors.UndertoneError) as caught:
        read_federation(manifest, case["signature"], digest)
    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize("case", load("chains"), ids=lambda case: case["why"])
def test_a_chain_of_lists(case: dict[str, Any]) -> None:
    """Each list before is followed as the reference says, and so is the next."""
    kept = KeptLists()

    def sign(survivors: list[int]) -> None:
        kept.append(tuple(survivors), lambda last: check_follows(last, tuple(survivors), case["colluders"]))

    for survivors in case["signed"]:
        sign(survivors)
    if case["allowed"]:
        sign(case["u3"])
        assert kept.lists == [*map(tuple, case["signed"]), tuple(case["u3"])]
        return
    with pytest.raises(errors.SurvivorsChanged, match="Nothing was signed"):
        sign(case["u3"])
    assert kept.lists == [*map(tuple, case["signed"])]
