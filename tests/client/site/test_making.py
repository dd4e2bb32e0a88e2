"""A SITE_DIR is made whole, readable by its owner alone, and nothing is ever overwritten."""

import os
import stat
import tomllib
from pathlib import Path

import pytest

from tests.support.books import KEY, fresh_site
from undertone.errors import FolderError
from undertone.privacy.ledger import Ledger
from undertone_client.site import folder as folder_module
from undertone_client.site.config import NodeConfig
from undertone_client.site.folder import SiteDir
from undertone_client.site.policy import Policy


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask() -> object:
    """The widest rights that a system could give by itself."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_keys_and_folders_are_their_owners_alone(tmp_path: Path) -> None:
    site = fresh_site(tmp_path / "site")
    assert {path.name: mode(path) for path in [site.folder, *site.folder.iterdir()] if path.is_dir()} == {
        "site": 0o700,
        "cache": 0o700,
        "datasets": 0o700,
    }
    assert {mode(site.folder / name) for name in ("secret.key", "identity.key", "ledger.sqlite")} == {0o600}


def test_a_new_ledger_is_empty_and_settings_are_explained(tmp_path: Path) -> None:
    site = fresh_site(tmp_path / "site")
    with Ledger.open(site.ledger, read_only=True) as ledger:
        assert [entry.kind for entry in ledger.entries()] == ["open"]
    for name, model in (("node.toml", NodeConfig), ("policy.toml", Policy)):
        text = (site.folder / name).read_text(encoding="utf-8")
        assert set(tomllib.loads(text)) <= set(model.model_fields)
        for key, field in model.model_fields.items():
            assert f"\n{key} = " in f"\n{text}" or f"# {key} is not set" in text
            assert (field.description or "")[:60] in text
    assert KEY in (site.folder / "policy.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("there", ["a file", "an old site", "a hidden file", "a link to a site"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    path = tmp_path / "site"
    if there == "a file":
        path.write_text("mine", encoding="utf-8")
    elif there == "a hidden file":
        path.mkdir()
        (path / ".mine").write_text("mine", encoding="utf-8")
    elif there == "an old site":
        fresh_site(path)
    else:
        path.symlink_to(fresh_site(tmp_path / "other").folder)
    before = {one: one.read_bytes() for one in path.rglob("*") if one.is_file()} or path.read_bytes()
    with pytest.raises(FolderError, match=r"never overwritten; name another"):
        fresh_site(path)
    assert before == ({one: one.read_bytes() for one in path.rglob("*") if one.is_file()} or path.read_bytes())


def test_an_empty_folder_that_was_mounted_is_filled(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir(mode=0o755)
    site = fresh_site(tmp_path / "site")
    assert mode(site.folder) == 0o700
    assert SiteDir(site.folder).secret() == site.secret()


def test_what_was_begun_and_failed_leaves_nothing_and_can_be_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise FolderError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "create_key", fails)
        with pytest.raises(FolderError, match="no room"):
            fresh_site(tmp_path / "site")
    assert not (tmp_path / "site").exists()
    fresh_site(tmp_path / "site")


def test_a_folder_that_a_death_left_half_made_is_no_site(tmp_path: Path) -> None:
    site = fresh_site(tmp_path / "site")
    (site.folder / "node.toml").unlink()  # it is written last
    with pytest.raises(FolderError, match=r"no SITE_DIR: it has no node\.toml"):
        SiteDir(site.folder)
    with pytest.raises(FolderError, match="interrupted it has no node"):
        fresh_site(site.folder)
