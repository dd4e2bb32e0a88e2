"""Files and keys: whole or not there, readable by their owner, and one spelling for each signature."""

import errno
import math
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertone.core.canonical import canonical_json, digest_of, file_sha256, sha256_hex
from undertone.core.durable import read_array, read_json, storage_errors, write_array, write_durable
from undertone.core.keys import (
    PLAN_DOMAIN,
    RELEASE_DOMAIN,
    check_signature,
    create_key,
    load_key,
    public_hex,
    sign,
    write_secret,
)
from undertone.core.settings_file import settings_toml
from undertone.errors import FolderError, MechanismViolation, NotApproved
from undertone.models.layout import Layout
from undertone.privacy.entropy import OsEntropy
from undertone_client.site.config import NodeConfig
from undertone_client.site.datasets import DataSet, data_sets, new_data_set, write_data_set
from undertone_client.site.folder import SiteDir, create_site
from undertone_client.site.policy import Policy

DIGEST = "ab" * 32
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), max_size=6))
def test_canonical_json_forgets_the_order_of_keys(table: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(list(table.items())))) == canonical_json(table)


@given(json_values)
def test_canonical_json_reads_back_as_what_was_written(value: Any) -> None:
    import json

    try:
        data = canonical_json(value)
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": [math.nan]}])
def test_canonical_json_refuses_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        digest_of(value)


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 7)
    (tmp_path / "f").write_bytes(data)
    assert file_sha256(tmp_path / "f") == sha256_hex(data)


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_durable(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FolderError, match="No space left"):
        write_durable(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_write_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_durable(tmp_path / "file", b"data")
    assert steps == ["file", "rename", "folder"]


def test_arrays_survive_and_damage_is_named(tmp_path: Path) -> None:
    array = np.arange(5, dtype=np.int64)
    path = tmp_path / "a.npy"
    write_array(path, array)
    np.testing.assert_array_equal(read_array(path), array)
    for data in (b"", b"text", path.read_bytes()[:-3]):
        path.write_bytes(data)
        with pytest.raises(FolderError, match=r"a\.npy"):
            read_array(path)
    with pytest.raises(FolderError):
        read_array(tmp_path / "none.npy")


def test_a_key_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    key = create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public_hex(load_key(path)) == public_hex(key)
    with pytest.raises(FolderError, match="exists already"):
        write_secret(path, b"x")
    assert public_hex(load_key(path)) == public_hex(key)
    for data in (b"", b"short", bytes(33)):
        path.write_bytes(data)
        with pytest.raises(FolderError, match=r"a\.key"):
            load_key(path)


def test_a_signature_holds_for_its_key_domain_and_digest_alone(tmp_path: Path) -> None:
    key, other = create_key(tmp_path / "a"), create_key(tmp_path / "b")
    good = sign(key, PLAN_DOMAIN, DIGEST)
    check_signature(public_hex(key), PLAN_DOMAIN, DIGEST, good)
    for public, domain, digest, signature in (
        (public_hex(other), PLAN_DOMAIN, DIGEST, good),
        (public_hex(key), RELEASE_DOMAIN, DIGEST, good),
        (public_hex(key), PLAN_DOMAIN, "cd" * 32, good),
        (public_hex(key), PLAN_DOMAIN, DIGEST, sign(other, PLAN_DOMAIN, DIGEST)),
        (public_hex(key), PLAN_DOMAIN, DIGEST, good.upper()),
        (public_hex(key), PLAN_DOMAIN, DIGEST, good + "\n"),
        (public_hex(key), PLAN_DOMAIN, DIGEST, good[:2] + " " + good[2:]),
        (public_hex(key).upper(), PLAN_DOMAIN, DIGEST, good),
        ("", PLAN_DOMAIN, DIGEST, good),
        (public_hex(key), PLAN_DOMAIN, DIGEST, ""),
        (public_hex(key), PLAN_DOMAIN, DIGEST, "zz" * 64),
    ):
        with pytest.raises(NotApproved, match="signature"):
            check_signature(public, domain, digest, signature)


def test_a_layout_is_its_names_shapes_and_order() -> None:
    layout = Layout((("a", (2, 3)), ("b", (4,))))
    assert layout.size == 10
    named = layout.unflatten(np.arange(10, dtype=np.float32))
    assert named["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    np.testing.assert_array_equal(layout.flatten(dict(reversed(list(named.items())))), np.arange(10))
    others = [Layout((("b", (4,)), ("a", (2, 3)))), Layout((("a", (3, 2)), ("b", (4,)))), Layout((("a", (2, 3)),))]
    assert len({layout.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)},
        {"a": np.zeros(3, np.float32)},
        {"a": np.zeros((1, 2), np.float32)},
    ],
)
def test_a_layout_refuses_other_tensors(named: Any) -> None:
    layout = Layout((("a", (2,)),))
    with pytest.raises(MechanismViolation):
        layout.flatten(named)
    with pytest.raises(MechanismViolation):
        layout.unflatten(np.zeros(3, dtype=np.float32))


# --- SITE_DIR -------------------------------------------------------------------------------------

POLICY = Policy(coordinators={"hub": "ab" * 32}, methods=["dp-lora"], largest_sampling_rate=0.05)


@pytest.mark.parametrize(
    "data", ['with "quotes"', "back\\slash", "tab\t", "ünïcode/ä", "new\nline", "\x7f", "\U0001f600\u2028"]
)
def test_a_sites_settings_survive_any_path(tmp_path: Path, data: str) -> None:
    config = NodeConfig(site="north", micro_batch=3, keep_rows=True)
    site = create_site(tmp_path / "site", config, POLICY, OsEntropy())
    assert (site.config, site.policy) == (config, POLICY)
    assert SiteDir(tmp_path / "site").config == config
    described = data_of(data)
    write_data_set(site.folder, described)
    assert data_sets(site.folder) == {"data": described}


texts = st.text(max_size=30) | st.text("\x00\x1f\x7f\x80\x85\u2028\ufeff\U0001f600\"'\\\n\r#", max_size=12)


def data_of(folder: str, metadata: str | None = None) -> DataSet:
    return new_data_set(
        name="data", folder=folder, metadata=metadata, unit="record", publish=210, epsilon=2.5, delta=1e-05
    )


@given(data=texts, metadata=texts, devices=st.lists(texts, max_size=3))
def test_settings_read_back_as_the_text_they_were(data: str, metadata: str, devices: list[str]) -> None:
    described, config = data_of(data, metadata), NodeConfig(site="north", device=devices)
    assert DataSet.model_validate(tomllib.loads(settings_toml(described).decode())) == described
    assert NodeConfig.model_validate(tomllib.loads(settings_toml(config).decode())) == config


def test_settings_explain_themselves() -> None:
    """Above each key stands what its model says, and a key without a value is said to be there."""
    text = settings_toml(data_of("images")).decode()
    assert "# metadata is not set" in text
    for key, field in DataSet.model_fields.items():
        assert field.description, key
        assert field.description[:40] in text
    assert all(field.description for field in NodeConfig.model_fields.values())
    assert max(map(len, text.splitlines())) <= 100


@given(st.binary(max_size=20) | st.binary(max_size=6).map(lambda end: "\U0001f600/ä".encode() + end))
def test_any_name_of_the_file_system_is_kept_or_refused_by_name(name: bytes) -> None:
    """What is not UTF-8 reaches Python as lone surrogates, for which TOML has no spelling."""
    try:
        name.decode()
    except UnicodeDecodeError:
        with pytest.raises(FolderError, match=r"folder = .* is not UTF-8"):
            data_of(os.fsdecode(name))
    else:
        described = settings_toml(data_of(os.fsdecode(name)))
        assert tomllib.loads(described.decode())["folder"] == os.fsdecode(name)


def test_a_site_whose_settings_cannot_be_written_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="not UTF-8"):
        create_site(tmp_path / "site", NodeConfig(site="north", device="a\udcff"), POLICY, OsEntropy())
    assert not (tmp_path / "site").exists()


def test_a_site_folder_is_never_replaced(tmp_path: Path) -> None:
    config = NodeConfig(site="north")
    site = create_site(tmp_path / "site", config, POLICY, OsEntropy())
    secret = site.secret()
    assert len(secret) == 32
    with pytest.raises(FolderError, match="never overwritten"):
        create_site(tmp_path / "site", config, POLICY, OsEntropy())
    assert site.secret() == secret


@pytest.mark.parametrize(
    "text",
    [
        "[",
        'coordinators = {hub = "short"}',
        "allow = true",
        'models = ["x"]',
        f'coordinators = {{hub = "{DIGEST}"}}\napprovers = {{dean = "{DIGEST}"}}',
        "largest_sampling_rate = 1.5",
        "fewest_sites = 1",
        'noise = ["none"]',
    ],
)
def test_a_policy_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    create_site(tmp_path / "site", NodeConfig(site="north"), POLICY, OsEntropy())
    (tmp_path / "site" / "policy.toml").write_text(text, encoding="utf-8")
    with pytest.raises(FolderError, match=r"policy\.toml"):
        SiteDir(tmp_path / "site")


def test_a_log_that_cannot_be_written_makes_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = create_site(tmp_path / "site", NodeConfig(site="north"), POLICY, OsEntropy())
    (site.folder / "node.log").mkdir()
    site.log("zero row: patient-1")
    assert "zero row: patient-1" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_half_a_secret_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(FolderError, match="cannot be written"):
            write_secret(tmp_path / "secret", b"secret")
    assert not (tmp_path / "secret").exists()
    write_secret(tmp_path / "secret", b"secret")


def test_a_secret_without_its_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="cannot be written"):
        write_secret(tmp_path / "none" / "secret", b"secret")


def test_every_flipped_bit_of_an_array_is_found_and_numpy_reads_past_the_seal(tmp_path: Path) -> None:
    path, array = tmp_path / "a.npy", np.arange(3, dtype=np.int64)
    write_array(path, array)
    np.testing.assert_array_equal(np.load(path), array)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises(FolderError, match="damaged"):
            read_array(path)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_json_that_is_none_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(FolderError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FolderError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_the_storages_errors_are_ours_and_the_networks_are_not(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="No space left"), storage_errors(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for error in (ConnectionResetError, BrokenPipeError, TimeoutError):
        with pytest.raises(error), storage_errors(tmp_path):
            raise error
