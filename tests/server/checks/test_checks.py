"""Each check of a coordinator, seen to fail and to pass: real sockets, real certificates, a real SuperLink."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.federating import Hub, hub, welcome_of
from tests.support.fleet import Told, fake_fleet
from tests.support.runs import call
from tests.support.superlink import eventually, servers, supernode
from tests.support.world import make_plan
from undertone.core.clock import utc_now
from undertone.preflight.fleet import CLOSED, FLEET
from undertone.preflight.running import run
from undertone.preflight.verdict import Verdict
from undertone.study.plan import Plan
from undertone_cli.processes import free_ports
from undertone_server.checks import folder
from undertone_server.checks.inspection import Inspection
from undertone_server.checks.registry import CHECKS
from undertone_server.home.certificates import Pair, load_ca, make_certificate
from undertone_server.home.fleet import connections, synchronise
from undertone_server.home.membership import issue
from undertone_server.run_folder import RunFolder

Serve = Callable[..., AbstractContextManager[int]]
# What needs the SuperLink or nginx alone.
SERVERS = ("SuperLink", "nginx", "control API", "large messages")
FAMILIES = [("AF_INET", "0.0.0.0", "127.0.0.1"), ("AF_INET6", "::", "::1")][: 1 + Path("/proc/net/if_inet6").exists()]


@pytest.fixture
def made(tmp_path: Path) -> Hub:
    superlink, health, fleet = free_ports(3)
    address = f"https://localhost:{fleet}"
    found = hub(tmp_path / "hub", fleet=address, superlink_port=superlink, health_port=health)
    welcome = welcome_of(found.add("north", "east"))
    for name in ("north", "east"):
        found.join(name, welcome)
    return found


@pytest.fixture
def serve(made: Hub, tmp_path: Path) -> Serve:
    """What stands where nginx should."""

    def begin(pair: Pair | None = None, **told: Any) -> AbstractContextManager[int]:
        ca = load_ca(made.home.ca, made.home.ca.with_suffix(".key"))
        own = make_certificate(["localhost"], 100, utc_now(), ca)
        return fake_fleet(tmp_path, pair or own, made.home.settings.address.port, Told(**told))

    return begin


def inspect(made: Hub, **changes: Any) -> Inspection:
    values: dict[str, Any] = {"now": utc_now(), "environment": {}} | changes
    return Inspection(made.home, **values)


def says(name: str, looked_at: Inspection, status: str, words: str = "") -> Verdict:
    (found,) = run({name: CHECKS[name]}, looked_at)
    assert (found.name, found.status, words in found.sentence) == (name, status, True), found
    assert found.status == "PASS" or found.remedy
    assert str(looked_at.home.folder) not in found.sentence + found.remedy
    return found


def test_a_coordinator_as_it_was_made_passes_all_but_what_runs(made: Hub) -> None:
    found = {one.name: one.status for one in run(CHECKS, inspect(made))}
    runs = {"SuperLink": "FAIL", "nginx": "FAIL", "control API": "WARN", "large messages": "WARN", "sites": "WARN"}
    assert found == dict.fromkeys(CHECKS, "PASS") | runs


# --- the folder ------------------------------------------------------------------------------------------------


def test_clock(made: Hub, serve: Serve) -> None:
    says("clock", inspect(made, now=datetime(2025, 12, 31, tzinfo=UTC)), "FAIL", "before this version")
    says("clock", inspect(made, now=utc_now() - timedelta(hours=1)), "WARN", "before files of COORDINATOR_DIR")
    says("clock", inspect(made), "PASS", "its server's clock was not asked")
    with serve():
        says("clock", inspect(made), "PASS", "agrees with that of the fleet address")
        ahead = inspect(made, clock=lambda: utc_now() + timedelta(seconds=6))
        says("clock", ahead, "FAIL", "ahead of")


@pytest.mark.parametrize("name", ["coordinator.key", "tls/ca.key", "tls/server.key", "tls/loopback.key"])
def test_keys(made: Hub, name: str) -> None:
    path = made.home.folder / name
    for mode, status in ((0o640, "FAIL"), (0o604, "FAIL"), (0o600, "PASS")):
        path.chmod(mode)
        says("keys", inspect(made), status)
    made.home.folder.chmod(0o750)
    says("keys", inspect(made), "WARN", "COORDINATOR_DIR can be opened")
    made.home.key_file.unlink()
    says("keys", inspect(made), "FAIL", "missing or damaged")


def test_certificates(made: Hub) -> None:
    says("certificates", inspect(made), "PASS")
    says("certificates", inspect(made, now=utc_now() + timedelta(days=368)), "WARN", "expires within a month")
    says("certificates", inspect(made, now=utc_now() + timedelta(days=398)), "FAIL", "that sites see has expired")
    tls = made.home.folder / "tls"
    shutil.copyfile(tls / "loopback.key", tls / "server.key")
    says("certificates", inspect(made), "FAIL", "do not belong together")
    (tls / "server.crt").write_bytes(b"nothing")
    says("certificates", inspect(made), "FAIL", "that sites see is missing or damaged")


@pytest.mark.parametrize(("days", "status"), [(0, "PASS"), (334, "PASS"), (336, "WARN"), (364, "WARN"), (365, "FAIL")])
def test_manifest(made: Hub, days: int, status: str) -> None:
    says("manifest", inspect(made, now=utc_now() + timedelta(days=days, minutes=1)), status)


def test_a_manifest_that_does_not_say_what_is_so(made: Hub, tmp_path: Path) -> None:
    home = made.home
    request = home.sites / "east.json"
    kept = request.read_bytes()
    request.unlink()
    says("manifest", inspect(made), "FAIL", "other sites or keys")
    request.write_bytes(kept)
    ca = home.ca.read_bytes()
    home.ca.write_bytes(hub(tmp_path / "other").home.ca.read_bytes())
    says("manifest", inspect(made), "FAIL", "another CA")
    home.ca.write_bytes(ca)
    says("manifest", inspect(made), "PASS")
    shutil.copyfile(tmp_path / "other" / "home" / "coordinator.key", home.key_file)
    says("manifest", inspect(made), "FAIL")
    says("manifest", Inspection(hub(tmp_path / "new").home, utc_now()), "FAIL", "no federation manifest yet")


def study(made: Hub, base: Path, **changes: Any) -> tuple[RunFolder, Plan]:
    plan = make_plan(base, {"north": 20, "east": 20}).model_copy(update=changes)
    made.home.runs.mkdir(exist_ok=True)
    return RunFolder.create(made.home.runs / "chest", plan, {"setting": "a test"}), plan


@pytest.mark.parametrize("change", [{"package_sha256": "ab" * 32}, {"protocol": 1}, {"package": "0.0.9"}])
def test_code(made: Hub, dummy_base: Path, dummy_method: None, change: dict[str, Any]) -> None:
    del dummy_method
    says("code", inspect(made), "PASS", "no study is under way")
    run_folder, _ = study(made, dummy_base, **change)
    says("code", inspect(made), "FAIL", "the plan of chest names other code, or another protocol")
    run_folder.release.mkdir()
    says("code", inspect(made), "PASS", "no study is under way")


def test_a_study_of_this_code(made: Hub, dummy_base: Path, dummy_method: None) -> None:
    del dummy_method
    study(made, dummy_base)
    says("code", inspect(made), "PASS", "is what the studies under way name")


def test_flower(made: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    says("flower", inspect(made), "PASS")
    monkeypatch.setattr(folder, "version", lambda _: "1.43.0")
    says("flower", inspect(made), "FAIL")


def test_disk(made: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((folder._LEAST_FREE - 1, "FAIL"), (folder._FREE - 1, "WARN"), (folder._FREE, "PASS")):
        found = shutil._ntuple_diskusage(1 << 40, 0, free)
        monkeypatch.setattr(folder.shutil, "disk_usage", lambda _, found=found: found)
        says("disk", inspect(made), status)


# --- what runs -----------------------------------------------------------------------------------------------------


def test_proxy(made: Hub) -> None:
    proxied = {"HTTPS_PROXY": "http://proxy:3128"}
    says("proxy", inspect(made, environment=proxied), "FAIL")
    says("proxy", inspect(made, environment=proxied | {"NO_PROXY": "127.0.0.1"}), "PASS")


@pytest.mark.parametrize(("family", "anywhere", "here"), FAMILIES)
@pytest.mark.parametrize("which", ["superlink_port", "health_port"])
def test_ports(made: Hub, family: str, anywhere: str, here: str, which: str) -> None:
    port = getattr(made.home.settings, which)
    for host, status in ((anywhere, "FAIL"), (here, "PASS")):
        with socket.socket(getattr(socket, family)) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            says("ports", inspect(made), "PASS")
            bound.listen()
            says("ports", inspect(made), status)


def test_ports_where_the_system_does_not_tell(made: Hub, tmp_path: Path) -> None:
    says("ports", inspect(made, sockets=(tmp_path / "nothing",)), "WARN", "cannot be seen on this system")


def test_nginx(made: Hub, serve: Serve, tmp_path: Path) -> None:
    says("nginx", inspect(made), "FAIL", "is not reached")
    other = hub(tmp_path / "other").home
    foreign = make_certificate(["localhost"], 10, utc_now(), load_ca(other.ca, other.ca.with_suffix(".key")))
    with serve(foreign):
        says("nginx", inspect(made), "FAIL", "not by the CA")
    with serve():
        says("nginx", inspect(made), "PASS")


def test_control_api_and_large_messages(made: Hub, serve: Serve) -> None:
    with serve(statuses={FLEET: 401, CLOSED[1]: 401}, largest=1 << 20):
        looked_at = inspect(made)
        says("control API", looked_at, "FAIL", "open to the network")
        says("large messages", looked_at, "FAIL", "refuses Flower's pieces")
    with serve(statuses={FLEET: 502}):
        says("large messages", inspect(made), "FAIL", "no SuperLink answers")
    with serve():
        looked_at = inspect(made)
        says("control API", looked_at, "PASS")
        says("large messages", looked_at, "PASS")


def test_superlink_and_sites(made: Hub) -> None:
    says("SuperLink", inspect(made), "FAIL", "does not answer")
    says("sites", inspect(made), "WARN", "could not be asked")
    home = made.home
    with servers(home) as running:
        says("SuperLink", inspect(made), "PASS")
        says("ports", inspect(made), "PASS")
        says("sites", inspect(made), "WARN", "not connected: east, north")
        made.add("south")
        says("sites", inspect(made), "FAIL", "does not know the key of south")
        synchronise(home)
        made.remove("south")
        synchronise(home)
        address, north = f"127.0.0.1:{home.settings.superlink_port}", made.site("north")
        ca = north.root_certificate("heart")
        with supernode(north, address, ca), supernode(made.site("east"), address, ca):
            assert eventually(lambda: set(connections(home).values()) == {"online"}, 60)
            says("sites", inspect(made), "PASS", "every site is registered and connected")
        running.stop()
    says("SuperLink", inspect(made), "FAIL", "does not answer")


# --- the command -----------------------------------------------------------------------------------------------------


def test_what_is_printed(made: Hub) -> None:
    result = call("coordinator", "check", "--home", made.home.folder)
    assert result.exit_code == 2
    assert "PASS keys: all keys are there" in result.stdout
    assert "FAIL SuperLink: the SuperLink does not answer on this machine\n     remedy: start it" in result.stdout
    assert result.stdout.endswith("heart: FAIL\n")
    assert str(made.home.folder) not in result.output
    assert "manifest 1 of heart" in call("coordinator", "check", "--home", made.home.folder, "--details").stdout


def test_json(made: Hub) -> None:
    result = call("coordinator", "check", "--home", made.home.folder, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["federation"], found["status"]) == (2, "heart", "FAIL")
    assert [one["name"] for one in found["checks"]] == list(CHECKS)
    assert all(set(one) == {"name", "status", "sentence", "remedy"} for one in found["checks"])
    detailed = json.loads(call("coordinator", "check", "--home", made.home.folder, "--json", "--details").stdout)
    assert all("details" in one for one in detailed["checks"])


# --- behind a real nginx ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_whole_coordinator_behind_nginx_and_each_way_to_configure_it_wrong(
    made: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    home, north = made.home, made.site("north")
    address, ca = north.connection("heart").address.authority, north.root_certificate("heart")
    with servers(home, "--nginx"):
        with supernode(north, address, ca), supernode(made.site("east"), address, ca):
            assert eventually(lambda: set(connections(home).values()) == {"online"}, 90)
            result = call("coordinator", "check", "--home", home.folder, "--details")
            assert (result.exit_code, result.stdout.endswith("heart: PASS\n")) == (0, True), result.stdout
            site = call("node", "check", made.sites["north"], "--details").stdout
            for name in ("clock", "coordinator", "control API", "large messages"):
                assert f"PASS {name}: " in site, site
        nginx = home.folder / "nginx"
        conf, pid = (nginx / "undertone.conf").read_text(), int((nginx / "nginx.pid").read_text())
        without = conf.replace("client_max_body_size 16m;", "")
        open_ = "\n".join(line for line in conf.splitlines()).replace('!~ "^/v1/fleet/[a-z-]+$"', '= "/never"')
        open_ = open_.replace("location ^~ /v1/fleet/ {", "location ^~ /v1/ {")
        for text, name, words in (
            (without, "large messages", "refuses Flower's pieces"),
            (open_, "control API", "open to the network"),
        ):
            assert text != conf
            (nginx / "undertone.conf").write_text(text)
            os.kill(pid, 1)
            assert eventually(lambda name=name: dict(_statuses(made))[name] == "FAIL", 20)
            says(name, inspect(made), "FAIL", words)
        (nginx / "undertone.conf").write_text(conf)
        os.kill(pid, 1)
        assert eventually(lambda: all(dict(_statuses(made))[name] == "PASS" for name in SERVERS), 20)


def _statuses(made: Hub) -> list[tuple[str, str]]:
    return [(one.name, one.status) for one in run(CHECKS, inspect(made))]


def test_a_newer_manifest_alone_is_no_fault(made: Hub) -> None:
    issue(made.home, utc_now(), anew=True)
    says("manifest", inspect(made), "PASS")
