"""Sites come and go: each change is a new manifest that names the one before, and no key is two sites'."""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.federating import Hub, hub, welcome_of
from undertone.core.clock import utc_now
from undertone.core.joining import ReadWelcome, ca_sha256, site_request
from undertone.core.keys import public_hex
from undertone.errors import FolderError, InputError, NotApproved
from undertone_server.home import membership
from undertone_server.home.folder import Home
from undertone_server.home.membership import accepted, add_sites, alone, issue, remove_site
from undertone_server.home.rotation import rotate_ca, rotate_certificate, rotate_key

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def made(tmp_path: Path) -> Hub:
    return hub(tmp_path / "hub")


def test_the_first_manifest_needs_two_sites(made: Hub) -> None:
    assert made.add("north") == membership.Change(None, None)
    change = made.add("east", now=NOW)
    federation = change.federation
    assert federation is not None
    assert (federation.serial, federation.predecessor, federation.expires) == (1, "", "2027-11-29T12:00:00Z")
    assert federation.ca_sha256 == ca_sha256(made.home.ca.read_text())
    assert federation.sites == {name: public_hex(made.site(name).identity()) for name in ("north", "east")}
    assert Home.open(made.home.folder).federation() == federation


def test_each_change_names_the_manifest_before(made: Hub) -> None:
    changes = [made.add("north", "east"), made.add("south"), made.remove("east"), issue(made.home, NOW, anew=True)]
    manifests = [change.federation for change in changes if change.federation is not None]
    assert [manifest.serial for manifest in manifests] == [1, 2, 3, 4]
    assert [manifest.predecessor for manifest in manifests[1:]] == [manifest.digest for manifest in manifests[:-1]]
    assert sorted(manifests[3].sites) == ["north", "south"]
    assert made.home.federation() == manifests[3]
    assert ReadWelcome(welcome_of(changes[3])).federation == manifests[3]


def test_the_same_again_makes_no_new_manifest(made: Hub) -> None:
    first = made.add("north", "east")
    assert made.add("north", "east") == made.add("east") == first


def test_what_was_interrupted_is_finished_by_the_same_command(made: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    made.add("north", "east")

    def dies(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(membership, "sign_federation", dies)
        with pytest.raises(KeyboardInterrupt):
            made.add("south")
    assert made.home.federation().serial == 1
    change = made.add("south")
    assert change.federation is not None
    assert (change.federation.serial, sorted(change.federation.sites)) == (2, ["east", "north", "south"])


def test_keys_are_one_sites_alone(made: Hub, tmp_path: Path) -> None:
    made.add("north")
    copied = made.site("south").folder
    shutil.copyfile(made.site("north").flower_key, copied / "flower.key")
    with pytest.raises(NotApproved, match="south has the same key as north"):
        made.add("south")
    other = site_request("hubs", made.home.key(), membership.SiteRequest.read(made.request("east")).flower)
    with pytest.raises(NotApproved, match="hubs has the same key as this coordinator"):
        add_sites(made.home, [other], NOW)
    assert list(accepted(made.home)) == ["north"]


def test_of_several_requests_all_are_taken_or_none(made: Hub) -> None:
    with pytest.raises(InputError, match="site request"):
        add_sites(made.home, [made.request("north"), b"{}"], NOW)
    assert accepted(made.home) == {}


def test_attack_another_site_under_a_name_that_is_in(made: Hub, tmp_path: Path) -> None:
    made.add("north", "east")
    stranger = hub(tmp_path / "stranger").request("north")
    with pytest.raises(NotApproved, match="north is in already, with other keys"):
        add_sites(made.home, [stranger], NOW)
    assert made.home.federation().serial == 1


def test_removing(made: Hub) -> None:
    made.add("north", "east", "south")
    for name in ("west", "../coordinator", "North"):
        with pytest.raises(InputError, match="the sites are east, north, south"):
            remove_site(made.home, name, NOW)
    made.remove("north")
    with pytest.raises(NotApproved, match="fewer than two sites are left"):
        made.remove("east")
    assert sorted(accepted(made.home)) == ["east", "south"]


@pytest.mark.parametrize("died", ["sign_federation", "write_welcome"])
def test_a_removal_that_was_interrupted_is_finished_by_the_same_command(
    made: Hub, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    """And what comes behind it is done: the command then tells the SuperLink."""
    made.add("north", "east", "south")

    def dies(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(membership, died, dies)
        with pytest.raises(KeyboardInterrupt):
            made.remove("south")
    for change in (made.remove("south"), made.remove("south")):
        assert change.federation == made.home.federation()
        assert (change.federation.serial, sorted(change.federation.sites)) == (2, ["east", "north"])
        assert ReadWelcome(welcome_of(change)).federation == change.federation


def test_one_of_two_sites_stays_whatever_was_interrupted(made: Hub) -> None:
    made.add("north", "east")
    (made.home.sites / "east.json").unlink()
    for name in ("north", "east"):
        with pytest.raises(NotApproved, match="fewer than two sites are left"):
            made.remove(name)


def test_keys_that_were_taken_back_never_return(made: Hub) -> None:
    made.add("north", "east", "south")
    removed, replaced = made.request("north"), made.request("east")
    made.remove("north")
    add_sites(made.home, [made.request("east", new_keys=True)], NOW, replace=True)
    for name, request in (("north", removed), ("east", replaced)):
        with pytest.raises(NotApproved, match=f"{name} asks with a key that was taken back"):
            add_sites(made.home, [request], NOW, replace=True)
    change = add_sites(made.home, [made.request("north", new_keys=True)], NOW)
    assert change.federation is not None
    assert sorted(change.federation.sites) == ["east", "north", "south"]


def test_a_key_that_a_replaced_request_shares_with_the_new_one_is_not_taken_back(made: Hub) -> None:
    """A lost Flower key is made anew again and again; the identity beside it is in use all the time."""
    made.add("north", "east", "south")
    site, requests = made.site("north"), [made.request("north")]
    for _ in range(2):
        site.flower_key.unlink()
        requests.append(made.request("north"))
        add_sites(made.home, requests[-1:], NOW, replace=True)
    assert made.home.federation().sites["north"] == public_hex(site.identity())
    for old in requests[:-1]:
        with pytest.raises(NotApproved, match="north asks with a key that was taken back"):
            add_sites(made.home, [old], NOW, replace=True)
    made.remove("north")
    site.flower_key.unlink()
    with pytest.raises(NotApproved, match="north asks with a key that was taken back"):
        made.add("north")


@pytest.mark.parametrize("new_keys", [True, False], ids=["both keys", "one key"])
def test_a_replacement_that_was_interrupted_is_finished_by_the_same_command(
    made: Hub, monkeypatch: pytest.MonkeyPatch, new_keys: bool
) -> None:
    made.add("north", "east")
    if not new_keys:
        made.site("north").flower_key.unlink()
    request = made.request("north", new_keys=new_keys)
    write = membership.write_durable

    def dies(path: Path, data: bytes) -> None:
        if path == made.home.sites / "north.json":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(membership, "write_durable", dies)
        with pytest.raises(KeyboardInterrupt):
            add_sites(made.home, [request], NOW, replace=True)
    assert sorted(accepted(made.home)) == ["east", "north"]
    add_sites(made.home, [request], NOW, replace=True)
    assert accepted(made.home)["north"] == membership.SiteRequest.read(request)


def test_a_damaged_request_of_a_site_is_named(made: Hub) -> None:
    made.add("north", "east")
    path = made.home.sites / "north.json"
    path.write_bytes((made.home.sites / "east.json").read_bytes())
    with pytest.raises(FolderError, match=r"north\.json is the request of east"):
        accepted(made.home)
    path.write_bytes(b"")
    with pytest.raises(FolderError, match=r"north\.json is damaged"):
        issue(made.home, NOW)


@pytest.mark.parametrize("damage", ["signature", "manifest", "other key", "missing"])
def test_a_manifest_that_this_coordinator_did_not_sign(made: Hub, tmp_path: Path, damage: str) -> None:
    made.add("north", "east")
    path = made.home.manifests / "0001.json"
    if damage == "signature":
        path.with_suffix(".sig").write_text("ab" * 64)
    elif damage == "manifest":
        path.write_bytes(path.read_bytes().replace(b"heart", b"hearx"))
    elif damage == "missing":
        path.with_suffix(".sig").unlink()
    else:
        key = hub(tmp_path / "other").home.folder / "coordinator.key"
        shutil.copyfile(key, made.home.folder / "coordinator.key")
    for read in (made.home.federation, made.home.newest_manifest, lambda: issue(made.home, NOW)):
        with pytest.raises((NotApproved, FolderError)):
            read()


def test_attack_two_changes_at_once_never_sign_two_manifests_of_one_number(
    made: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.add("north", "east")
    made.request("south"), made.request("west")
    signing, sign, refused = threading.Barrier(2), membership.sign_federation, threading.Event()

    def meets(*arguments: Any) -> str:
        if not refused.is_set():
            with suppress(threading.BrokenBarrierError):
                signing.wait(5)
        return sign(*arguments)

    def add(name: str) -> membership.Change | None:
        try:
            return made.add(name)
        except FolderError:
            refused.set()
            signing.abort()
            return None

    monkeypatch.setattr(membership, "sign_federation", meets)
    with ThreadPoolExecutor(2) as pool:
        changes = [change for change in pool.map(add, ("south", "west")) if change is not None]
    manifests = [change.federation for change in changes if change.federation is not None]
    assert len({manifest.digest for manifest in manifests}) == len({manifest.serial for manifest in manifests})
    assert manifests[-1] == made.home.federation()


@pytest.mark.parametrize("change", ["add", "remove", "issue", "ca", "key", "certificate"])
def test_no_change_while_another_is_made(made: Hub, change: str) -> None:
    made.add("north", "east", "south")
    made.request("west")
    before = {path: path.read_bytes() for path in made.home.folder.rglob("*") if path.is_file()}
    does: dict[str, Callable[[], object]] = {
        "add": lambda: made.add("west"),
        "remove": lambda: made.remove("south"),
        "issue": lambda: issue(made.home, NOW, anew=True),
        "ca": lambda: rotate_ca(made.home, utc_now()),
        "key": lambda: rotate_key(made.home, utc_now()),
        "certificate": lambda: rotate_certificate(made.home, utc_now()),
    }
    with alone(made.home), pytest.raises(FolderError, match="another process is at work"):
        does[change]()
    assert {path: path.read_bytes() for path in made.home.folder.rglob("*") if path.is_file()} == before
    does[change]()


# --- rotation ---------------------------------------------------------------------------------------------


def test_a_new_certificate_is_by_the_same_ca(made: Hub) -> None:
    first = made.add("north", "east")
    tls = made.home.folder / "tls"
    before = {path.name: path.read_bytes() for path in tls.iterdir()}
    rotate_certificate(made.home, utc_now())
    after = {path.name: path.read_bytes() for path in tls.iterdir()}
    same = {name for name in before if before[name] == after[name]}
    assert (before.keys(), same) == (after.keys(), {"ca.crt", "ca.key"})
    assert issue(made.home, NOW) == first


def test_a_new_ca_is_a_new_manifest(made: Hub) -> None:
    made.add("north", "east")
    change = rotate_ca(made.home, utc_now())
    assert change.federation is not None
    assert change.federation.serial == 2
    assert change.federation.ca_sha256 == ca_sha256(made.home.ca.read_text())
    made.home.check_certificates()


def test_a_ca_that_others_made_is_not_replaced_here(made: Hub, tmp_path: Path) -> None:
    paths = {
        name: str(made.home.folder / "tls" / file)
        for name, file in {"ca": "ca.crt", "certificate": "server.crt", "certificate_key": "server.key"}.items()
    }
    settings = made.home.settings.model_copy(update=paths)
    own = Home.create(tmp_path / "own", settings)
    with pytest.raises(InputError, match="was not made here"):
        rotate_ca(own, utc_now())


@pytest.mark.parametrize("died", ["before anything", "new key made", "old key moved", "new key in place"])
def test_a_new_signing_key_whenever_the_command_died(made: Hub, died: str) -> None:
    made.add("north", "east")
    home, before = made.home, public_hex(made.home.key())
    key, new, old = (home.folder / f"coordinator.key{end}" for end in ("", ".new", ".before"))
    if died != "before anything":
        new.write_bytes(bytes(range(32)))
    if died in ("old key moved", "new key in place"):
        key.replace(old)
    if died == "new key in place":
        new.replace(key)
        with pytest.raises(NotApproved, match="names the signing key before"):
            home.federation()
    change = rotate_key(home, utc_now())
    federation = home.federation()
    assert change.federation == federation
    assert (federation.serial, federation.coordinator) == (2, public_hex(home.key()))
    assert federation.coordinator != before
    assert (home.folder / "coordinator.pub").read_text() == f"{federation.coordinator}\n"
    assert ReadWelcome(welcome_of(change)).handed_over_by(before)
    assert not new.exists()
