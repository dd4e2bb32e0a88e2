"""The secret between SuperNode and relay: made once, and nobody else's."""

from pathlib import Path

import pytest

from undertone.errors import FolderError, InputError
from undertone_client.relay.secret import read_secret, secret_of


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "node.toml").write_text('site = "north"\n', encoding="utf-8")
    return tmp_path


def test_it_is_made_once_for_each_coordinator_and_its_owner_alone_reads_it(site: Path) -> None:
    path = secret_of(site, "hub")
    assert path == site / "run" / "superexec-hub.secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o750
    secret = read_secret(path)
    assert len(secret) == 32
    assert read_secret(secret_of(site, "hub")) == secret != read_secret(secret_of(site, "other"))


@pytest.mark.parametrize("name", ["", "..", "a/b", "Hub", "hub\n"])
def test_a_coordinators_name_is_no_path(site: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a coordinator"):
        secret_of(site, name)


def test_it_is_made_in_a_site_dir_alone(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is no SITE_DIR"):
        secret_of(tmp_path, "hub")
    assert not list(tmp_path.iterdir())


def test_one_that_others_could_know_is_refused(site: Path) -> None:
    path = secret_of(site, "hub")
    path.chmod(0o640)
    with pytest.raises(FolderError, match="is open to others than its owner: remove it"):
        read_secret(path)
    path.chmod(0o600)
    path.write_bytes(b"")
    with pytest.raises(FolderError, match="is empty"):
        read_secret(path)
    with pytest.raises(FolderError, match="cannot be read"):
        read_secret(site / "run" / "superexec-nobody.secret")
