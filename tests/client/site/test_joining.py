"""A site takes welcomes in their order, of coordinators that it knows, and pins nothing that does not hold."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.federating import Hub, hub, welcome_of
from tests.support.runs import call
from undertone.core.clock import utc_now
from undertone.core.durable import exclusively
from undertone.core.keys import public_hex
from undertone.errors import FolderError, InputError, NotApproved
from undertone_client.site.folder import SiteDir
from undertone_client.site.joining import joining
from undertone_server.home.membership import add_sites, issue
from undertone_server.home.rotation import rotate_ca, rotate_key


@pytest.fixture
def made(tmp_path: Path) -> Hub:
    return hub(tmp_path / "hub")


def test_joined(made: Hub) -> None:
    change = made.add("north", "east")
    site = made.join("north", welcome_of(change))
    key = public_hex(made.home.key())
    assert site.policy.coordinators == {"heart": key}
    assert site.federation("heart") == change.federation == made.home.federation()
    assert site.connection("heart").address.authority == "hub.example.org:8443"
    assert site.root_certificate("heart").read_bytes() == made.home.ca.read_bytes()
    (log,) = (path for path in (site.folder / "audit").iterdir() if path.read_bytes())
    last = json.loads(log.read_text().splitlines()[-1])
    facts = {"coordinator": key, "digest": made.home.federation().digest, "serial": 1}
    assert (last["event"], last["facts"]) == ("federation joined", facts)


def test_the_same_welcome_again_heals_what_was_interrupted(made: Hub) -> None:
    welcome = welcome_of(made.add("north", "east"))
    site = made.join("north", welcome)
    (site.federation_folder("heart") / "federation.json").unlink()
    with pytest.raises(NotApproved, match="no readable"):
        site.federation("heart")
    assert made.join("north", welcome).federation("heart").serial == 1


def test_newer_manifests_are_taken_in_their_order_and_older_ones_never(made: Hub) -> None:
    first, second = welcome_of(made.add("north", "east")), welcome_of(made.add("south"))
    third = welcome_of(made.remove("east"))
    made.join("north", first)
    made.join("north", third)  # one that was missed in between is no reason to stay behind
    assert set(made.site("north").federation("heart").sites) == {"north", "south"}
    for old in (first, second):
        with pytest.raises(NotApproved, match="an older one, or another of the same number, is never taken"):
            made.join("north", old)
    assert made.site("north").federation("heart").serial == 3


def test_attack_two_manifests_of_one_number(made: Hub) -> None:
    made.join("north", welcome_of(made.add("north", "east")))
    kept = {path: path.read_bytes() for path in made.home.manifests.iterdir()}
    made.join("north", welcome_of(made.add("south")))
    for path in made.home.manifests.iterdir():
        path.unlink()
    for path, data in kept.items():
        path.write_bytes(data)
    other = made.add("west")
    assert other.federation is not None
    assert other.federation.serial == 2
    with pytest.raises(NotApproved, match="never taken"):
        made.join("north", welcome_of(other))
    third = issue(made.home, utc_now(), anew=True)
    with pytest.raises(NotApproved, match="shown its sites different"):
        made.join("north", welcome_of(third))


def test_what_expired_or_does_not_name_this_site_is_not_taken(made: Hub) -> None:
    past = datetime(2025, 1, 1, tzinfo=UTC)
    with pytest.raises(NotApproved, match="expired"):
        made.join("north", welcome_of(made.add("north", "east", now=past)))
    with pytest.raises(NotApproved, match="does not name south"):
        made.join("south", welcome_of(issue(made.home, utc_now(), anew=True)))
    assert made.site("north").policy.federations == {}


def test_a_manifest_that_expires_later_stops_the_site(made: Hub) -> None:
    site = made.join("north", welcome_of(made.add("north", "east")))
    late = utc_now() + timedelta(days=366)
    with pytest.raises(NotApproved, match="expired"):
        site.federation("heart", lambda: late)


def test_another_key_than_this_sites(made: Hub, tmp_path: Path) -> None:
    """Somebody else asked under this site's name."""
    imposter = hub(tmp_path / "imposter")
    imposter.home = made.home
    imposter.add("north")
    with pytest.raises(NotApproved, match="another key for north"):
        made.join("north", welcome_of(made.add("east")))


def test_several_coordinators_at_one_site(made: Hub, tmp_path: Path) -> None:
    lung = hub(tmp_path / "lung", "lung", "https://lung.example.org:443")
    lung.sites = made.sites
    made.join("north", welcome_of(made.add("north", "east")))
    site = made.join("north", welcome_of(lung.add("north", "east")), "the-lung-people")
    assert site.federation("heart").name == "heart"
    assert site.federation("the-lung-people").name == "lung"
    assert site.connection("the-lung-people").address.host == "lung.example.org"
    with pytest.raises(NotApproved, match="has approved no federation of lung"):
        site.federation("lung")


def test_a_name_is_one_coordinators(made: Hub, tmp_path: Path) -> None:
    other = hub(tmp_path / "other")
    other.sites = made.sites
    made.join("north", welcome_of(made.add("north", "east")))
    welcome = welcome_of(other.add("north", "east"))
    with pytest.raises(NotApproved, match="knows heart by the key"):
        made.join("north", welcome)
    assert made.join("north", welcome, "other").federation("other").coordinator == public_hex(other.home.key())
    with pytest.raises(InputError, match="calls this coordinator other"):
        made.join("north", welcome, "third")
    with pytest.raises(InputError, match="for example the-hub"):
        made.join("north", welcome, "The Hub")


def test_a_coordinators_federation_keeps_its_name(made: Hub) -> None:
    made.join("north", welcome_of(made.add("north", "east")))
    made.home.settings = made.home.settings.model_copy(update={"name": "lung"})
    with pytest.raises(NotApproved, match="a manifest of lung; heart is the coordinator of heart"):
        made.join("north", welcome_of(issue(made.home, utc_now())))


def test_a_new_signing_key_is_taken_when_the_one_before_signed_for_it(made: Hub) -> None:
    made.join("north", welcome_of(made.add("north", "east")))
    change = rotate_key(made.home, utc_now())
    found = joining(made.site("north"), welcome_of(change), None, utc_now())
    assert "new: signed by the key before" in dict(found.summary())["coordinator heart"]
    site = made.join("north", welcome_of(change))
    assert site.policy.coordinators == {"heart": public_hex(made.home.key())}
    assert site.federation("heart").serial == 2


def test_attack_a_new_signing_key_that_nobody_vouches_for(made: Hub) -> None:
    made.join("north", welcome_of(made.add("north", "east")))
    change = rotate_key(made.home, utc_now())
    content = json.loads(welcome_of(change))
    for handover in ("", content["signature"], "ab" * 64):
        forged = json.dumps(content | {"handover": handover}, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises(NotApproved, match="knows heart by the key"):
            made.join("north", forged)


def test_a_new_signing_key_that_a_person_wrote_down(made: Hub) -> None:
    """The key before is lost, so nobody could sign for the new one: policy.toml decides."""
    site = made.join("north", welcome_of(made.add("north", "east")))
    before = public_hex(made.home.key())
    change = rotate_key(made.home, utc_now())
    path = site.folder / "policy.toml"
    path.write_text(path.read_text().replace(before, public_hex(made.home.key())))
    with pytest.raises(NotApproved, match="another coordinator's"):
        made.site("north").federation("heart")
    content = json.loads(welcome_of(change)) | {"handover": ""}
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert made.join("north", data).federation("heart").serial == 2


def test_a_sites_new_keys_hold_once_a_welcome_names_them(made: Hub) -> None:
    site = made.join("north", welcome_of(made.add("north", "east")))
    old = [path.read_bytes() for path in site.keys]
    request = made.request("north", new_keys=True)
    assert made.request("north", new_keys=True) == request
    assert [path.read_bytes() for path in site.keys] == old
    with pytest.raises(NotApproved, match="with other keys"):
        add_sites(made.home, [request], utc_now())
    change = add_sites(made.home, [request], utc_now(), replace=True)
    site = made.join("north", welcome_of(change))
    assert site.federation("heart").sites["north"] == public_hex(site.identity())
    assert all(path.read_bytes() != before for path, before in zip(site.keys, old, strict=True))
    assert not any(path.exists() for path in site.next_keys)
    assert made.join("east", welcome_of(change)).federation("heart").serial == 2


def test_what_a_person_wrote_in_the_policy_stays(made: Hub) -> None:
    path = made.site("north").folder / "policy.toml"
    key = public_hex(made.home.key())
    path.write_text(f'# mine\nmethods = ["dpagg-ti"] # and no other\n[coordinators]\nhub = "{key}"\n')
    made.join("north", welcome_of(made.add("north", "east")))
    text = path.read_text()
    assert "# mine\n" in text
    assert "# and no other" in text
    assert made.site("north").federation("hub").name == "heart"


def test_a_policy_that_a_program_cannot_change_says_which_line_to_write(made: Hub, tmp_path: Path) -> None:
    path = made.site("north").folder / "policy.toml"
    path.write_text('[coordinators]\nlung = "' + "ab" * 32 + '"\n')
    welcome = welcome_of(made.add("north", "east"))
    before = path.read_bytes()
    with pytest.raises(FolderError, match=r'coordinators = \{"lung" = ') as caught:
        made.join("north", welcome)
    assert path.read_bytes() == before
    line = str(caught.value).split("of what there is: ")[1].split(". Then")[0]
    path.write_text("\n".join(line.split(" and ")))
    assert made.join("north", welcome).federation("heart").serial == 1


def test_a_policy_names_no_federation_of_a_stranger(made: Hub) -> None:
    path = made.site("north").folder / "policy.toml"
    path.write_text(f'federations = {{"hub" = "{"ab" * 32}"}}\n')
    with pytest.raises(FolderError, match="hub, which is not among coordinators"):
        SiteDir(path.parent)


# --- two at once, and what is done in which order ---------------------------------------------------------


def test_attack_an_older_manifest_that_was_shown_before_a_newer_one_was_pinned(made: Hub) -> None:
    first, second = welcome_of(made.add("north", "east")), welcome_of(made.add("south"))
    third = welcome_of(made.remove("south"))
    made.join("north", first)
    waits = joining(made.site("north"), second, None, utc_now())
    made.join("north", third)
    with pytest.raises(NotApproved, match="is never taken"):
        waits.pin()
    assert sorted(made.site("north").federation("heart").sites) == ["east", "north"]


def test_what_was_shown_is_pinned_only_while_it_still_holds(made: Hub) -> None:
    first, second = welcome_of(made.add("north", "east")), welcome_of(made.add("south"))
    third = welcome_of(made.remove("east"))
    made.join("north", first)
    waits = joining(made.site("north"), third, None, utc_now())
    made.join("north", second)
    with pytest.raises(NotApproved, match="changed after this was shown"):
        waits.pin()
    assert made.site("north").federation("heart").serial == 2


def test_another_coordinator_that_was_joined_meanwhile_stays(made: Hub, tmp_path: Path) -> None:
    lung = hub(tmp_path / "lung", "lung", "https://lung.example.org:443")
    lung.sites = made.sites
    waits = joining(made.site("north"), welcome_of(made.add("north", "east")), None, utc_now())
    made.join("north", welcome_of(lung.add("north", "east")))
    waits.pin()
    site = made.site("north")
    assert {site.federation(name).name for name in ("heart", "lung")} == {"heart", "lung"}


def test_two_commands_never_pin_at_once(made: Hub) -> None:
    waits = joining(made.site("north"), welcome_of(made.add("north", "east")), None, utc_now())
    with exclusively(waits.site.folder / "federations"), pytest.raises(FolderError, match="another process"):
        waits.pin()
    assert made.site("north").policy.federations == {}


def test_a_site_that_pins_can_be_reached_whenever_the_command_died(made: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pinned answers; so how the coordinator is reached is there before."""
    welcome = welcome_of(made.add("north", "east"))

    def dies(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SiteDir, "join", dies)
        with pytest.raises(KeyboardInterrupt):
            made.join("north", welcome)
    site = made.site("north")
    assert site.policy.federations == {}
    assert site.root_certificate("heart").read_bytes() == made.home.ca.read_bytes()
    assert site.connection("heart").address.authority == "hub.example.org:8443"
    assert made.join("north", welcome).federation("heart").serial == 1


def test_a_policy_that_a_program_cannot_change_changes_nothing_else(made: Hub) -> None:
    site = made.join("north", welcome_of(made.add("north", "east")))
    change = add_sites(made.home, [made.request("north", new_keys=True)], utc_now(), replace=True)
    path = site.folder / "policy.toml"
    text = path.read_text()
    tables = {key: getattr(site.policy, key)["heart"] for key in ("coordinators", "federations")}
    for key, value in tables.items():
        text = re.sub(rf"(?m)^{key} *=.*\n", "", text) + f'\n[{key}]\nheart = "{value}"\n'
    path.write_text(text)
    rotated = rotate_ca(made.home, utc_now())
    assert rotated.federation != change.federation
    files = [file for file in site.folder.rglob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    with pytest.raises(FolderError, match=r'federations = \{"heart" = '):
        made.join("north", welcome_of(rotated))
    assert {file: file.read_bytes() for file in files if file.exists()} == before
    assert made.site("north").federation("heart").serial == 1


# --- commands ---------------------------------------------------------------------------------------------


def test_the_commands_of_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERTONE_HOME", str(tmp_path / "home"))
    fleet = "https://hub.example.org:8443"
    assert call("coordinator", "init", "--name", "heart", "--fleet", fleet, "--superlink-port", 1).exit_code == 0
    requests = [tmp_path / f"{name}.request" for name in ("north", "east")]
    for request in requests:
        site = tmp_path / request.stem
        assert call("node", "init", site, "--site", request.stem, "--request", request).exit_code == 0
    one = call("coordinator", "add-node", requests[0])
    assert "no manifest yet" in one.stdout
    both = call("coordinator", "add-node", *requests)
    assert (both.exit_code, "the SuperLink was not told" in both.stdout) == (0, True)
    welcome, digest = tmp_path / "home" / "federation" / "0001.welcome", both.stdout.split("digest: ")[1][:8]
    refused = call("node", "join", tmp_path / "north", welcome, "--yes-digest", "00000000")
    assert (refused.exit_code, SiteDir(tmp_path / "north").policy.federations) == (2, {})
    joined = call("node", "join", tmp_path / "north", welcome, "--yes-digest", digest)
    assert joined.exit_code == 0
    for key in ("site north", "site east", "CA certificate", "coordinator heart", "(this site)"):
        assert key in joined.stdout
    again = call("coordinator", "manifest", "--renew")
    assert "manifest 2" in again.stdout
    assert call("coordinator", "manifest").stdout == again.stdout
    assert call("coordinator", "sync").exit_code == 2
    assert call("coordinator", "remove-node", "north", "--yes").exit_code == 3
    assert call("coordinator", "remove-node", "North", "--yes").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("coordinator", "init", "--name", "Herz Köln", "--fleet", "https://hub.example.org:443"),
        ("node", "init", "SITE", "--site", "Herz Köln", "--request", "FILE"),
        ("node", "init", "SITE", "--site", "north", "--coordinator", "Herz Köln=" + "ab" * 32),
    ],
    ids=["federation", "site", "coordinator"],
)
def test_names_with_capitals_and_umlauts_get_a_clear_answer(
    tmp_path: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNDERTONE_HOME", str(tmp_path / "home"))
    paths = {"SITE": str(tmp_path / "site"), "FILE": str(tmp_path / "file")}
    result = call(*(paths.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert "for example herz-koeln" in result.stderr
    assert not list(tmp_path.iterdir())
