"""Releases that somebody made up, whole and signed with a key of their own: each is refused by name, and at once."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.support.forgery import TOKEN, WIDTH, WORD, Forgery, forge
from tests.support.runs import call
from undertone.core.canonical import canonical_json
from undertone.core.keys import create_key
from undertone.errors import NotVerified, UnfitWeights
from undertone.methods.ldm.release import DELTA
from undertone.methods.lora.release import LORA
from undertone.methods.textual_inversion.release import EMBEDS
from undertone.release.manifest import MANIFEST, SIGNATURE, write_manifest
from undertone.release.verify import verify

SECONDS = 2.0


def weights(**tensors: Any) -> dict[str, Any]:
    return {"weights": {EMBEDS: tensors}}


def word(tensor: Any) -> dict[str, Any]:
    return {"weights": {EMBEDS: {TOKEN: np.asarray(tensor)}}}


def raw(name: str, data: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(data)


def bfloat16(folder: Path) -> None:
    """NumPy has no bfloat16, so the header is spelled here."""
    header = canonical_json({TOKEN: {"dtype": "BF16", "shape": [WIDTH], "data_offsets": [0, 2 * WIDTH]}})
    (folder / EMBEDS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * WIDTH))


def long_entry(folder: Path) -> None:
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        database.execute("INSERT INTO entries VALUES (3, ?, '', '', NULL, NULL, NULL)", ("x" * (1 << 20),))


def many_entries(folder: Path) -> None:
    rows = [(seq, "{}", "", "", None, None, None) for seq in range(3, 20_000)]
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        database.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def many_files(folder: Path) -> None:
    for number in range(150):
        (folder / f"more-{number}.txt").write_text("x", encoding="utf-8")


def resigned(**changes: Any) -> Any:
    """A manifest with these changes, signed with a key of the forger's."""

    def write(folder: Path) -> None:
        from undertone.core.canonical import sha256_hex
        from undertone.core.keys import RELEASE_DOMAIN, public_hex, sign

        key = create_key(folder.with_suffix(".other"))
        listed = json.loads((folder / MANIFEST).read_bytes()) | {"coordinator": public_hex(key)}
        listed["files"] |= changes.get("files", {})
        data = canonical_json(listed | {name: value for name, value in changes.items() if name != "files"})
        (folder / MANIFEST).write_bytes(data)
        (folder / SIGNATURE).write_text(sign(key, RELEASE_DOMAIN, sha256_hex(data)), encoding="ascii")

    return write


LARGE = {f"site-{number}": 10 for number in range(1001)}
LONG_HEADER = (32 << 20).to_bytes(8, "little") + b"{}" + b" " * ((32 << 20) - 2)

FORGERIES: dict[str, tuple[dict[str, Any], str]] = {
    # figures of the plan
    "a hundred billion rounds": (
        {"plan": {"privacy.rounds": 10**11, "privacy.max_attempts": 10**11}},
        r"plan\.json.*privacy\.rounds",
    ),
    "ten million attempts": ({"plan": {"privacy.max_attempts": 10**7}}, r"plan\.json.*privacy\.max_attempts"),
    "delta 0.9": ({"plan": {"privacy.delta": 0.9}}, r"plan\.json.*privacy\.delta"),
    "delta 0": ({"plan": {"privacy.delta": 0.0}}, r"plan\.json.*privacy\.delta"),
    "epsilon above 100": ({"plan": {"privacy.epsilon": 101.0}}, r"plan\.json.*privacy\.epsilon"),
    "epsilon is RDP's 1e40": ({"plan": {"privacy.epsilon_rdp": 1e40}}, r"plan\.json.*privacy\.epsilon_rdp"),
    "a claim too low": ({"plan": {"privacy.epsilon": 0.01}}, r"plan\.json claims too little.*0\.01"),
    "an RDP too low": ({"plan": {"privacy.epsilon_rdp": 0.01}}, r"plan\.json claims too little.*0\.01"),
    "a claim too high": ({"plan": {"privacy.epsilon": 99.0}}, r"plan\.json claims epsilon 99"),
    "next to no noise": (
        {
            "plan": {
                "privacy.sigma": 64,
                "privacy.sensitivity": 1 << 22,
                "grid.clip_units": 1 << 22,
                "grid.scale": 1 << 20,
            }
        },
        r"plan\.json claims too little.*gives inf \(RDP 4\.29",
    ),
    "a row of 2^40": ({"plan": {"method.dimension": 1 << 40}}, r"plan\.json.*method\.dimension"),
    "1,001 sites": ({"plan": {"cohort.units": LARGE}}, r"plan\.json.*cohort\.units"),
    "a site of 1e10 units": (
        {"plan": {"cohort.units": {"east": 10**10, "north": 10, "south": 10}}},
        r"plan\.json.*units\.east",
    ),
    "a scale that is no power of two": ({"plan": {"grid.scale": 257}}, r"plan\.json.*power of two"),
    "an option of 2^60": ({"plan": {"method.options.steps": 1 << 60}}, r"plan\.json"),
    "an option beyond the method's bound": ({"plan": {"method.options.steps": 10**8}}, r"no method of this version"),
    "a list of 2,000": ({"plan": {"method.options.targets": ["x"] * 2000}}, r"plan\.json.*options\.targets"),
    "an unknown method": ({"plan": {"method.name": "dp-magic"}}, r"no method of this version.*dp-magic"),
    "another method": ({"plan": {"method.name": "dp-lora", "method.options": {}}}, r"not what dp-lora releases"),
    "a caption of 1 MB": ({"plan": {"data.caption": "x" * (1 << 20)}}, r"plan\.json has more than"),
    "a caption of 10 kB": ({"plan": {"data.caption": "x" * 10_000}}, r"plan\.json.*data\.caption"),
    # weights
    "another width": (word(np.zeros(WIDTH + 1, np.float32)), r"not what dpagg-ti releases.*\[5\]"),
    "three dimensions": (word(np.zeros((1, 1, WIDTH), np.float32)), r"not what dpagg-ti releases"),
    "no value": (word(np.zeros(0, np.float32)), r"not what dpagg-ti releases"),
    "another name": (weights(picture=np.zeros(WIDTH, np.float32)), r"not what dpagg-ti releases.*picture"),
    "two tensors": (weights(more=WORD[TOKEN], **WORD), r"not what dpagg-ti releases.*2 tensors"),
    "no tensor": (weights(), r"holds 0 tensors"),
    "float16": (word(np.zeros(WIDTH, np.float16)), r"is of type F16"),
    "float64": (word(np.zeros(WIDTH)), r"is of type F64"),
    "integers": (word(np.zeros(WIDTH, np.int64)), r"is of type I64"),
    "bfloat16": ({"files": bfloat16}, r"is of type BF16"),
    "not a number": (word(np.array([1, 2, np.nan, 4], np.float32)), r"not finite"),
    "infinity": (word(np.array([1, 2, -np.inf, 4], np.float32)), r"not finite"),
    "another kind of file": ({"weights": {LORA: WORD}}, r"not what dpagg-ti releases"),
    "two kinds": ({"weights": {EMBEDS: WORD, DELTA: WORD}}, r"one of them"),
    "no weights": ({"weights": {}}, r"holds no weights"),
    "garbage for weights": (
        {"files": raw(EMBEDS, b"\xff" * 100)},
        r"learned_embeds\.safetensors begins with \d+ bytes",
    ),
    "cut-off weights": ({"files": raw(EMBEDS, save(WORD)[:-1])}, r"learned_embeds\.safetensors cannot be read"),
    "weights of 32 MB": (word(np.zeros(8 << 20, np.float32)), r"not what dpagg-ti releases.*\[8388608\]"),
    "zeros for weights": ({"files": raw(EMBEDS, bytes(32 << 20))}, r"learned_embeds\.safetensors cannot be read"),
    "names of 32 MB": ({"files": raw(EMBEDS, LONG_HEADER)}, r"begins with 33554432 bytes of names"),
    # ledger, statement, manifest
    "20,000 entries": ({"files": many_entries}, r"ledger\.sqlite has \d+ entries; at most 104"),
    "an entry of 1 MB": ({"files": long_entry}, r"ledger\.sqlite has an entry of"),
    "two charges of one attempt": ({"charges": [(1, 1), (1, 2)]}, r"more attempts than the plan allows"),
    "no ledger": ({"files": raw("ledger.sqlite", b"no")}, r"ledger\.sqlite"),
    "a statement of 5 MB": ({"files": raw("privacy.json", b" " * (5 << 20))}, r"privacy\.json has more than"),
    "a plan of 2 MB": ({"files": raw("plan.json", b" " * (2 << 20))}, r"plan\.json has more than"),
    "a signature of 1 MB": ({"files": raw("plan.sig", b"0" * (1 << 20))}, r"plan\.sig has more than"),
    "a manifest of 1 MB": ({"after": raw(MANIFEST, b" " * (1 << 20))}, r"MANIFEST\.json has more than"),
    "150 files": ({"files": many_files}, r"does not list at most 100 files"),
    "150 files added later": ({"after": many_files}, r"holds more than 100 files"),
    "a path upwards": ({"after": resigned(files={"../x": "0" * 64})}, r"no plain name"),
    "a path inwards": ({"after": resigned(files={"a/b": "0" * 64})}, r"no plain name"),
    "a hidden file": ({"after": resigned(files={".x": "0" * 64})}, r"no plain name"),
    "the manifest lists itself": ({"after": resigned(files={MANIFEST: "0" * 64})}, r"no plain name"),
    "no digest": ({"after": resigned(files={"README.md": 7})}, r"no SHA-256 for README"),
    "one key more": ({"after": resigned(more=1)}, r"damaged"),
    "files that are a list": ({"after": raw(MANIFEST, b'{"coordinator":"0","files":[]}')}, r"signature does not hold"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_by_name_and_at_once(name: str, tmp_path: Path, dummy_base: Path) -> None:
    changes, reason = FORGERIES[name]
    forge(tmp_path / "release", dummy_base, Forgery(**changes))
    start = time.perf_counter()
    with pytest.raises(NotVerified, match=reason) as refusal:
        verify(tmp_path / "release")
    assert time.perf_counter() - start < SECONDS
    assert len(str(refusal.value)) < 1000


def test_what_is_consistent_verifies_and_the_signer_is_not_checked(tmp_path: Path, dummy_base: Path) -> None:
    """Anybody can make such a release: only the coordinator's key tells."""
    release = tmp_path / "release"
    key = forge(release, dummy_base)
    assert not verify(release).signer_checked
    assert verify(release, key).signer_checked
    without = call("verify", release)
    assert without.exit_code == 4
    assert "self-consistent, signer not checked" in without.stdout.splitlines()[0]
    assert "verified" not in without.stdout
    given = call("verify", release, "--coordinator", key)
    assert given.exit_code == 0
    assert "verified" in given.stdout.splitlines()[0]
    assert "not checked" not in given.stdout


@pytest.mark.parametrize("key", ["", "abc", "A" * 64, "0" * 63, "0" * 65, "g" * 64])
@pytest.mark.parametrize("command", ["verify", "generate", "export"])
def test_a_key_that_is_none_is_bad_input(tmp_path: Path, key: str, command: str) -> None:
    more = [] if command == "verify" else ["--out", tmp_path / "out"]
    result = call(command, tmp_path, "--coordinator", key, *more)
    assert result.exit_code == 2
    assert "64 hexadecimal digits" in result.stderr


@pytest.mark.parametrize("command", ["generate", "export"])
@pytest.mark.parametrize(
    "name", ["README.md", "learned_embeds.safetensors", "ledger.sqlite", "plan.json", "privacy.json", MANIFEST]
)
def test_no_image_is_made_from_a_release_of_which_a_byte_has_changed(
    tmp_path: Path, dummy_base: Path, command: str, name: str
) -> None:
    release = tmp_path / "release"
    forge(release, dummy_base)
    data = bytearray((release / name).read_bytes())
    data[len(data) // 2] ^= 1
    (release / name).write_bytes(data)
    refused(command, release, tmp_path / "out", name)


@pytest.mark.parametrize("command", ["generate", "export"])
@pytest.mark.parametrize("forgery", ["not a number", "another width", "bfloat16", "another name", "delta 0.9"])
def test_no_image_is_made_with_unfit_weights(tmp_path: Path, dummy_base: Path, command: str, forgery: str) -> None:
    forge(tmp_path / "release", dummy_base, Forgery(**FORGERIES[forgery][0]))
    refused(command, tmp_path / "release", tmp_path / "out", "plan.json" if "delta" in forgery else EMBEDS)


@pytest.mark.parametrize("command", ["generate", "export"])
def test_no_image_is_made_from_what_another_key_signed(tmp_path: Path, dummy_base: Path, command: str) -> None:
    forge(tmp_path / "release", dummy_base)
    refused(command, tmp_path / "release", tmp_path / "out", "signed by", "--coordinator", "0" * 64)


def refused(command: str, release: Path, out: Path, named: str, *more: str) -> None:
    prompt = ["--prompt", "a <private>", "-n", 1, "--steps", 1] if command == "generate" else []
    result = call(command, release, *prompt, "--out", out, *more)
    assert result.exit_code == 3, result.output
    assert named in result.stderr
    assert not out.exists()


def test_a_manifest_signed_anew_cannot_pass_for_the_plan_of_another(tmp_path: Path, dummy_base: Path) -> None:
    release = tmp_path / "release"
    forge(release, dummy_base)
    for name in (MANIFEST, SIGNATURE):
        (release / name).unlink()
    write_manifest(release, create_key(tmp_path / "thief.key"))
    with pytest.raises(NotVerified, match=r"plan\.json or plan\.sig"):
        verify(release)


def test_unfit_weights_are_not_verified() -> None:
    assert issubclass(UnfitWeights, NotVerified)
