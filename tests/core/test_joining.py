"""Requests and welcomes: strict reading, one spelling, signed, and no private key in either."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.federating import Hub, hub, welcome_of
from undertone import PROTOCOL
from undertone.core.canonical import canonical_json
from undertone.core.flower_keys import create_flower_key, public_flower_key, registered_form
from undertone.core.joining import LARGEST_REQUEST, ReadWelcome, SiteRequest, Welcome, site_request
from undertone.core.keys import public_hex
from undertone.core.unit import is_site_name, name_advice
from undertone.errors import FolderError, InputError, NotApproved, UndertoneError

KEY, FOREIGN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hub, bytes]:
    made = hub(tmp_path_factory.mktemp("hub"))
    return made, welcome_of(made.add("north", "east"))


@pytest.fixture
def flower(tmp_path: Path) -> str:
    return create_flower_key(tmp_path / "flower.key")


def changed(data: bytes, **changes: object) -> bytes:
    content = json.loads(data)
    for key, value in changes.items():
        (content if key in content else content["body"])[key] = value
    return canonical_json(content) + b"\n"


def test_a_request_is_written_and_read(flower: str) -> None:
    data = site_request("north", KEY, flower)
    request = SiteRequest.read(data)
    assert (request.site, request.identity, request.flower) == ("north", public_hex(KEY), flower)
    assert SiteRequest.read(data.rstrip()) == request  # a mail program takes the line's end away


def test_neither_file_holds_a_private_key(scene: tuple[Hub, bytes]) -> None:
    made, welcome = scene
    secrets = [path.read_bytes() for path in made.folder.rglob("*.key")]
    assert len(secrets) == 10
    for data in (welcome, made.request("north")):
        for secret in secrets:
            assert secret not in data
            assert secret.hex().encode() not in data
        assert b"PRIVATE" not in data


@pytest.mark.parametrize("change", ["site", "identity", "flower", "protocol", "signature"])
def test_attack_a_request_that_was_changed(tmp_path: Path, flower: str, change: str) -> None:
    other = {
        "site": "south",
        "identity": public_hex(FOREIGN),
        "flower": create_flower_key(tmp_path / "other.key"),
        "protocol": PROTOCOL + 1,
        "signature": "ab" * 64,
    }
    data = site_request("north", KEY, flower)
    with pytest.raises(NotApproved, match="signature"):
        SiteRequest.read(changed(data, **{change: other[change]}))


def test_a_request_is_read_in_its_one_spelling(flower: str) -> None:
    data = site_request("north", KEY, flower)
    content = json.loads(data)
    spellings = [
        b"",
        b"{}",
        b"[]",
        b"[" * 100_000,
        b" " * (1 << 20),
        json.dumps(content).encode(),
        canonical_json({**content, "more": 1}),
        canonical_json({**content, "kind": "undertone welcome 1"}),
        canonical_json({**content, "body": {**content["body"], "more": 1}}),
        canonical_json({**content, "handover": 1}),
        data.replace(b'"site":"north"', b'"site":"north","site":"north"'),
    ]
    spellings.append(data + b" " * LARGEST_REQUEST)
    for spelling in spellings:
        with pytest.raises(InputError, match="site request"):
            SiteRequest.read(spelling)


@pytest.mark.parametrize(
    ("name", "like"),
    [("Klinikum Köln", "klinikum-koeln"), ("North", "north"), ("a b", "a-b"), ("x" * 70, "x" * 63), ("Ærø", "aeroe")],
)
def test_names_that_are_none_get_one_like_them(flower: str, name: str, like: str) -> None:
    assert name_advice(name).endswith(f"for example {like}")
    assert is_site_name(like)
    with pytest.raises(InputError, match=f"for example {like}"):
        SiteRequest.read(site_request(name, KEY, flower))


@pytest.mark.parametrize("name", ["", "---", "日本", "é" * 0])
def test_a_name_that_nothing_is_like_gets_the_rule(name: str) -> None:
    assert name_advice(name).endswith("a letter or digit first")


def test_a_request_of_another_protocol_names_both(flower: str) -> None:
    body = SiteRequest(protocol=PROTOCOL + 1, site="north", identity=public_hex(KEY), flower=flower)
    with pytest.raises(NotApproved, match=f"protocol {PROTOCOL + 1}, this is protocol {PROTOCOL}"):
        SiteRequest.read(body.signed(KEY))


def test_flower_keys_are_p384_in_one_spelling(tmp_path: Path, flower: str) -> None:
    assert public_flower_key(tmp_path / "flower.key") == flower
    assert registered_form(flower).startswith(b"-----BEGIN PUBLIC KEY-----")
    small = ec.generate_private_key(ec.SECP256R1())
    weak = small.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    ed = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    for text in ("", weak, ed, f"{flower} me@here", f"{flower}\n", f" {flower}", flower[:-4], "x" * 10_000):
        with pytest.raises(NotApproved, match="P-384"):
            registered_form(text)
    with pytest.raises(NotApproved, match="P-384"):
        SiteRequest.read(site_request("north", KEY, weak))
    (tmp_path / "weak.key").write_bytes(small.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    for path in (tmp_path / "weak.key", tmp_path / "none.key"):
        with pytest.raises(FolderError, match="P-384"):
            public_flower_key(path)


# --- welcome ----------------------------------------------------------------------------------------------


def test_a_welcome_is_read(scene: tuple[Hub, bytes]) -> None:
    made, data = scene
    read = ReadWelcome(data)
    assert read.federation == made.home.federation()
    assert read.address.url == "https://hub.example.org:8443"
    assert read.welcome.ca.encode() == made.home.ca.read_bytes()
    assert not read.handed_over_by(public_hex(made.home.key()))


@pytest.mark.parametrize("change", ["fleet", "ca", "manifest", "coordinator", "manifest_signature", "signature"])
def test_attack_a_welcome_that_was_changed(scene: tuple[Hub, bytes], tmp_path: Path, change: str) -> None:
    _, data = scene
    other = json.loads(welcome_of(hub(tmp_path / "other").add("north", "east")))["body"] | {"signature": "ab" * 64}
    other["fleet"] = "https://evil.example.org:8443"
    with pytest.raises(NotApproved):
        ReadWelcome(changed(data, **{change: other[change]}))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ca": "none"}, "exactly one CA certificate"),
        ({"protocol": PROTOCOL + 1}, "protocol"),
        ({"fleet": "http://hub.example.org:80"}, "no address"),
        ({"manifest_signature": "ab" * 64}, "signature"),
        ({"manifest": "{}"}, "malformed"),
    ],
    ids=["ca", "protocol", "fleet", "signature", "manifest"],
)
def test_a_signed_welcome_that_contradicts_itself(scene: tuple[Hub, bytes], change: dict, error: str) -> None:
    made, data = scene
    body = Welcome.model_validate(json.loads(data)["body"] | change)
    with pytest.raises(UndertoneError, match=error):
        ReadWelcome(body.signed(made.home.key()))


def test_another_ca_than_the_manifests(scene: tuple[Hub, bytes], tmp_path: Path) -> None:
    made, data = scene
    ca = hub(tmp_path / "other").home.ca.read_text()
    body = Welcome.model_validate(json.loads(data)["body"] | {"ca": ca})
    with pytest.raises(NotApproved, match="another CA"):
        ReadWelcome(body.signed(made.home.key()))
    two = Welcome.model_validate(json.loads(data)["body"] | {"ca": ca + made.home.ca.read_text()})
    with pytest.raises(NotApproved, match="exactly one"):
        ReadWelcome(two.signed(made.home.key()))


def test_a_manifest_of_another_coordinator(scene: tuple[Hub, bytes]) -> None:
    _, data = scene
    body = Welcome.model_validate(json.loads(data)["body"] | {"coordinator": public_hex(FOREIGN)})
    with pytest.raises(NotApproved, match="another coordinator"):
        ReadWelcome(body.signed(FOREIGN))
