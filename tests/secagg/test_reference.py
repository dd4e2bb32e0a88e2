"""The reference against published values, and the committed vectors against the reference."""

import hashlib
import itertools
import json

import pytest

from tests.secagg.bad import LOW_ORDER
from tests.secagg.make_vectors import FOLDER, files, text_of
from tests.secagg.reference import (
    P,
    digest,
    ed25519_public,
    ed25519_sign,
    hkdf,
    listed,
    reconstruct,
    share_at,
    share_bytes,
    word,
    x25519,
    x25519_public,
)
from tests.secagg.scenarios import SCENARIOS, Scenario, material


def test_hkdf_is_rfc_5869_case_1() -> None:
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    okm = hkdf(b"\x0b" * 22, bytes(range(13)), info, 42).hex()
    assert okm == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_x25519_is_rfc_7748_section_6_1() -> None:
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert x25519_public(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert x25519_public(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert x25519(alice, x25519_public(bob)).hex() == x25519(bob, x25519_public(alice)).hex() == shared


def test_ed25519_is_rfc_8032_test_1() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert ed25519_public(seed).hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert ed25519_sign(seed, b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )


def test_the_first_word_is_the_published_aes_of_a_zero_block() -> None:
    # NIST CAVP, KAT_AES, ECBKeySbox256, count 0.
    key = bytes.fromhex("c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558")
    assert [word(key, k).to_bytes(4, "little").hex() for k in range(4)] == [
        "46f2fb34", "2d6f0ab4", "77476fc5", "01242c5f",
    ]  # fmt: skip


def test_p_is_a_prime_above_every_secret() -> None:
    assert P > 2**256 - 1
    assert P < 2**264
    # Pocklington and Rabin agree in practice; forty bases leave a composite a chance below 4^-40.
    power, odd = 0, P - 1
    while odd % 2 == 0:
        power, odd = power + 1, odd // 2
    for base in range(2, 42):
        x = pow(base, odd, P)
        assert x in (1, P - 1) or any((x := pow(x, 2, P)) == P - 1 for _ in range(power - 1)), base


@pytest.mark.parametrize(("threshold", "n"), [(1, 3), (2, 4), (4, 6)])
def test_any_t_shares_rebuild_a_secret_and_t_less_one_do_not(threshold: int, n: int) -> None:
    secret = material("s")
    shares = {j: share_at(secret, material("seed"), material("context"), 1, threshold, j) for j in range(n)}
    for chosen in itertools.combinations(shares, threshold):
        assert reconstruct({j: shares[j] for j in chosen}).to_bytes(32, "big") == secret
    for chosen in itertools.combinations(shares, threshold - 1):
        assert reconstruct({j: shares[j] for j in chosen}) != int.from_bytes(secret, "big")


def test_the_encodings_of_section_1_written_out() -> None:
    assert listed([0, 258]).hex() == "000200000102"
    assert share_bytes(P - 1).hex() == "01" + "00" * 30 + "0128"
    text = b"\0\0\0\x13undertone/secagg/1/x" + b"\0\0\0\x02ab" + b"\0\0\0\0"
    text = text.replace(b"\0\0\0\x13", len(b"undertone/secagg/1/x").to_bytes(4, "big"))
    assert digest("x", b"ab", b"") == hashlib.sha256(text).digest()


def test_lengths_are_those_of_section_5() -> None:
    made = SCENARIOS["three"]
    sent, received = made.site_messages(0), made.server_messages(0)
    assert len(sent["advertise_keys"]) == 34 + 162
    assert len(received["share_keys"]) == 34 + 2 + 3 * 162
    assert len(sent["share_keys"]) == 34 + 2 + 32 + 2 + 2 * (2 + 82) + 64
    assert len(received["masked_input"]) == 34 + 2 + 2 + 2 * (2 + 82)
    assert len(sent["masked_input"]) == 34 + 2 + 32 + 64
    assert len(received["consistency_check"]) == 34 + 2 * (2 + 3 * 2)
    assert len(sent["consistency_check"]) == 34 + 2 + 64
    assert len(received["unmasking"]) == 34 + 2 + 3 * (2 + 64)
    assert len(sent["unmasking"]) == 34 + 2 + 2 + 3 * (2 + 33) + 64


@pytest.mark.parametrize("made", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_what_the_reference_opens_is_the_plain_sum(made: Scenario) -> None:
    assert made.opened() == made.plain_sum()
    # The masks are there: no site's vector is sent as it is, nor is the sum of the vectors the sum.
    assert all(made.masked(i) != made.words(i) for i in made.u[1])


def test_points_of_low_order_are_points_of_low_order() -> None:
    # Multiplying by 8 must give the point at infinity; pycryptodome refuses all of them by itself.
    for point in LOW_ORDER:
        with pytest.raises(ValueError, match="Invalid"):
            x25519(material("any"), point.to_bytes(32, "little"))


def test_the_committed_vectors_are_what_the_reference_makes() -> None:
    """After a change of the specification: python -m tests.secagg.make_vectors."""
    made = {name: text_of(value) for name, value in files().items()}
    assert sorted(made) == sorted(path.name for path in FOLDER.iterdir())
    for name, text in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, name


def test_no_two_bad_messages_are_the_same_and_none_is_good() -> None:
    for name in ("bad-node.json", "bad-server.json"):
        entries = json.loads((FOLDER / name).read_text(encoding="utf-8"))
        assert len({(e["session"], e["party"], e["step"], e["message"]) for e in entries}) == len(entries)
        for bad in entries:
            sites = json.loads((FOLDER / f"session-{bad['session']}.json").read_text(encoding="utf-8"))["sites"]
            own = sites[bad["party"].removeprefix("server: ")]
            good = own["sent"] if bad["party"].startswith("server") else own["received"]
            assert bad["message"] != good[bad["step"]], bad["why"]
