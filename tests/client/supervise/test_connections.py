"""Where a site's coordinators are, read from what `node join` leaves."""

from pathlib import Path

import pytest

from undertone.errors import FolderError, InputError
from undertone_client.supervise.connections import Connection, read_connections
from undertone_client.supervise.programs import node_words, relay_words, supernode_words


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "node.toml").write_text('site = "north"\n', encoding="utf-8")
    (tmp_path / "flower.key").write_text("key", encoding="utf-8")
    for name in ("hub", "second"):
        folder = tmp_path / "federations" / name
        folder.mkdir(parents=True)
        (folder / "connection.toml").write_text(f'fleet = "https://{name}.example:443"\n', encoding="utf-8")
        (folder / "ca.crt").write_text("certificate", encoding="utf-8")
    return tmp_path


def test_all_coordinators_or_the_chosen_ones(site: Path) -> None:
    hub, second = read_connections(site)
    assert hub == Connection("hub", "hub.example:443", site / "federations/hub/ca.crt", site / "flower.key")
    assert read_connections(site, ("second",)) == [second]


@pytest.mark.parametrize("text", ["", 'fleet = "http://hub.example:443"\n', "fleet = 3\n", "fleet", "\xff"])
def test_a_file_that_says_no_address_is_named(site: Path, text: str) -> None:
    (site / "federations" / "hub" / "connection.toml").write_text(text, encoding="latin-1")
    with pytest.raises(FolderError, match=r"connection\.toml.*; `undertone node join` writes the file anew"):
        read_connections(site)


@pytest.mark.parametrize("missing", ["flower.key", "federations/second/ca.crt"])
def test_a_file_that_is_missing_is_named(site: Path, missing: str) -> None:
    (site / missing).unlink()
    with pytest.raises(FolderError, match=f"{missing} is missing"):
        read_connections(site)


def test_a_site_without_coordinators_is_told_what_to_do(site: Path) -> None:
    with pytest.raises(InputError, match='"third" is no coordinator of this site; there are: hub, second'):
        read_connections(site, ("third",))
    for path in site.glob("federations/*/connection.toml"):
        path.unlink()
    with pytest.raises(InputError, match="has joined no federation: `undertone node join`"):
        read_connections(site)
    (site / "node.toml").unlink()
    with pytest.raises(FolderError, match="is no SITE_DIR"):
        read_connections(site)


def test_the_supernode_runs_no_app_and_gives_tasks_to_who_knows_the_secret(site: Path) -> None:
    (hub, _) = read_connections(site)
    program, *words = supernode_words(hub, 4711, site / "run" / "s")
    assert Path(program).name == "flower-supernode"
    assert words == [
        "--superlink=hub.example:443",
        f"--root-certificates={site}/federations/hub/ca.crt",
        f"--auth-supernode-private-key={site}/flower.key",
        "--isolation=process",
        f"--superexec-auth-secret-file={site}/run/s",
        "--host=127.0.0.1",
        "--port=4711",
    ]


def test_node_and_relay_meet_at_one_socket_and_relay_and_supernode_at_one_port(site: Path) -> None:
    socket, secret = site / "run" / "node.sock", site / "run" / "s"
    assert node_words(site, socket)[-4:] == ["serve", str(site), "--socket", str(socket)]
    words = relay_words(site, "hub", 4711, secret, socket)
    assert words[-9:-4] == [str(site), "--coordinator", "hub", "--runtime-api", "127.0.0.1:4711"]
    assert words[-4:] == ["--secret", str(secret), "--socket", str(socket)]
