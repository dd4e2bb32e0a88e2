"""deployments/files: what the IT of a hospital or a coordinator gives to systemd and nginx; the demo runs the same."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from tests.support.federating import hub
from undertone.core.fleet_address import FleetAddress
from undertone_cli.loopback.processes import UNDERTONE
from undertone_cli.main import cli
from undertone_cli.processes import free_ports
from undertone_client.supervise.connections import Connection
from undertone_client.supervise.programs import node_words, relay_words, supernode_words
from undertone_server.home import nginx

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deployments" / "files"
UNITS = {path.name: path for path in sorted((FILES / "systemd").glob("*.service"))}
BIN, SITE, HOME = "/opt/undertone/bin/", Path("/var/lib/undertone/site"), Path("/var/lib/undertone/coordinator")
INSTALLED = "/opt/undertone/lib/python3.11/site-packages/undertone_cli/files/"
NAME, PORT, FLEET = "hub", 9094, "hub.example.org:443"
MUST = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ReadWritePaths": "/var/lib/undertone",
    "ProtectHome": "yes",
    "User": "undertone",
    "UMask": "0077",
    "Restart": "on-failure",
    "CapabilityBoundingSet": "",
}
LARGEST_EXPOSURE = 20  # of 100, in tenths of what `systemd-analyze security` prints


def settings(unit: str) -> dict[str, list[str]]:
    """Each key of a unit, with all of its values."""
    found: dict[str, list[str]] = {}
    for line in UNITS[unit].read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def started(unit: str) -> list[str]:
    """What a unit runs for the coordinator hub, when /etc/undertone/hub.env says what the unit's comments say."""
    (line,) = settings(unit)["ExecStart"]
    for written, means in (("%i", NAME), ("${RUNTIME_PORT}", str(PORT)), ("${SUPERLINK}", FLEET)):
        line = line.replace(written, means)
    return shlex.split(line)


def parsed(words: list[str]) -> dict[str, object]:
    """The command that the words of a unit name, and what it makes of its options.

    Raises:
        click.UsageError: there is no such command or option, or one is missing.
    """
    program, *rest = words
    assert program == f"{BIN}undertone"
    group: click.Command = cli
    ctx = click.Context(cli)
    while isinstance(group, click.Group):
        name, command, rest = group.resolve_command(ctx, rest)
        assert command is not None
        group, ctx = command, click.Context(command, parent=ctx, info_name=name)
    made = group.make_context(group.name, rest)
    return {"command": made.command.name} | {
        key: value.as_posix() if isinstance(value, Path) else value for key, value in made.params.items()
    }


def test_the_units_run_commands_that_exist_with_these_options() -> None:
    assert parsed(started("undertone-superlink.service"))["folder"] == HOME.as_posix()
    assert parsed(started("undertone-node.service"))["site_dir"] == SITE.as_posix()
    relay = parsed(started("undertone-relay@.service"))
    assert (relay["coordinator"], relay["runtime_api"]) == (NAME, f"127.0.0.1:{PORT}")


@pytest.mark.parametrize("wrong", ["node run /x", "node serve /x --sockets /y", "node relay /x --coordinator hub"])
def test_words_that_are_no_command_are_found(wrong: str) -> None:
    with pytest.raises(click.UsageError):
        parsed([f"{BIN}undertone", *wrong.split()])


def test_the_units_of_a_site_run_what_node_start_runs() -> None:
    """But for what is left at its default there: socket and secret lie within SITE_DIR."""
    run = SITE / "run"
    secret = run / f"superexec-{NAME}.secret"
    to = Connection(NAME, FLEET, SITE / "federations" / NAME / "ca.crt", SITE / "flower.key")
    ours = {
        "undertone-node.service": node_words(SITE, run / "node.sock"),
        "undertone-relay@.service": relay_words(SITE, NAME, PORT, secret, run / "node.sock"),
    }
    for unit, words in ours.items():
        assert words[: len(UNDERTONE)] == list(UNDERTONE)
        by_default = [*words[len(UNDERTONE) :]]
        for option in ("--socket", "--secret"):
            if option in by_default:
                at = by_default.index(option)
                assert Path(by_default[at + 1]) in (run / "node.sock", secret)
                del by_default[at : at + 2]
        assert started(unit)[1:] == by_default, unit
    program, *options = supernode_words(to, PORT, secret)
    assert started("undertone-supernode@.service")[0] == BIN + Path(program).name
    assert sorted(started("undertone-supernode@.service")[1:]) == sorted(options)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_may_do_no_more_than_it_must(unit: str) -> None:
    found = settings(unit)
    assert {key: found.get(key, [None])[-1] for key in MUST} == MUST
    assert "PYTHONUNBUFFERED=1" in found["Environment"]  # what a program says is in the journal when it says it
    alone = found.get("IPAddressDeny")
    assert alone == (None if "supernode" in unit else ["any"])
    assert found.get("PrivateNetwork") == (["yes"] if "node.service" in unit else None)
    assert "AF_NETLINK" not in found["RestrictAddressFamilies"][0]


def test_there_are_four_units_and_the_pages_name_each() -> None:
    assert list(UNITS) == [
        "undertone-node.service",
        "undertone-relay@.service",
        "undertone-superlink.service",
        "undertone-supernode@.service",
    ]
    pages = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("node.md", "coordinator.md"))
    for unit in UNITS:
        assert re.search(rf"\b{unit.removesuffix('.service')}", pages), unit


def test_the_pages_name_files_that_the_wheel_ships() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert shipped["deployments/files"] == "undertone_cli/files"
    pages = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("node.md", "coordinator.md"))
    pages = pages.replace("$FILES/", f"{INSTALLED}systemd/")
    named = re.findall(rf"{re.escape(INSTALLED)}([\w/.@-]+)", pages)
    assert len(named) > 8
    for name in named:
        assert (FILES / name).exists(), name


def test_the_example_for_nginx_is_what_init_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx, "_IPV6", Path(__file__))  # there where it runs, there is IPv6
    tls = HOME / "tls"
    address = FleetAddress.parse(f"https://{FLEET}")
    written = nginx.server_conf(address, 9091, tls / "server.crt", tls / "server.key", tls / "ca.crt")
    assert (FILES / "nginx" / "undertone.conf.example").read_text(encoding="utf-8") == written


# --- what the programs themselves say: Debian's systemd and nginx-light ------------------------------------


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)


def as_installed(unit: str, folder: Path, change: tuple[str, str] = ("", "")) -> Path:
    """A unit whose programs are there, with one of its lines changed."""
    text = UNITS[unit].read_text(encoding="utf-8").replace(BIN, f"{Path(sys.executable).parent}/")
    assert change[0] in text
    path = folder / unit
    path.write_text(text.replace(*change) if change[0] else text, encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: str, tmp_path: Path) -> None:
    for other in UNITS:
        as_installed(other, tmp_path)
    found = run("systemd-analyze", "verify", "--man=no", tmp_path / unit)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [("NoNewPrivileges=", "NoNewPrivilege="), ("Restart=on-failure", "Restart=sometimes")]
)
def test_systemd_finds_a_planted_error(change: tuple[str, str], tmp_path: Path) -> None:
    """It ends with 0 all the same: its output is what counts."""
    found = run("systemd-analyze", "verify", "--man=no", as_installed("undertone-node.service", tmp_path, change))
    assert "undertone-node.service" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_counts_little_that_a_unit_could_be_used_for(unit: str, tmp_path: Path) -> None:
    words = ("systemd-analyze", "security", "--offline=true", f"--threshold={LARGEST_EXPOSURE}")
    found = run(*words, as_installed(unit, tmp_path))
    assert found.returncode == 0, found.stdout
    assert "Overall exposure level" in found.stdout
    open_ = as_installed(unit, tmp_path, ("SystemCallFilter=@system-service\nSystemCallFilter=~@privileged\n", ""))
    open_.write_text(open_.read_text().replace("RestrictNamespaces=yes", "").replace("ProtectSystem=strict", ""))
    assert run(*words, open_).returncode == 1


@pytest.mark.slow
def test_the_account_and_its_folders_are_made(tmp_path: Path) -> None:
    """As the page says, in a file system of its own, where the account is then whoever runs this test."""
    etc, passwd = tmp_path / "etc", tmp_path / "etc" / "passwd"
    etc.mkdir()
    (account, folders) = re.findall(
        r"(?m)^systemd-(?:sysusers|tmpfiles) .*$", (ROOT / "docs" / "coordinator.md").read_text(encoding="utf-8")
    )

    def done(line: str) -> None:
        program, *words = shlex.split(line.replace(INSTALLED, f"{FILES}/"))
        made = run(program, f"--root={tmp_path}", *words)
        assert made.returncode == 0, made.stderr

    done(account)
    (line,) = passwd.read_text(encoding="utf-8").splitlines()
    name, _, number, group, *_, home, shell = line.split(":")
    assert (name, home, shell) == ("undertone", "/var/lib/undertone", "/usr/sbin/nologin")
    for path, theirs, ours in (
        (passwd, f"{number}:{group}", f"{os.getuid()}:{os.getgid()}"),
        (etc / "group", group, str(os.getgid())),
    ):
        path.write_text(path.read_text(encoding="utf-8").replace(f":{theirs}:", f":{ours}:"), encoding="utf-8")
    done(folders)
    assert (tmp_path / "var" / "lib" / "undertone").stat().st_mode & 0o777 == 0o700
    assert (etc / "undertone").stat().st_mode & 0o777 == 0o755


@pytest.mark.slow
def test_nginx_takes_the_generated_server_block(tmp_path: Path) -> None:
    """As the page says: linked into conf.d, which Debian's nginx.conf includes in its http context."""
    made = hub(tmp_path / "hub", fleet=f"https://localhost:{free_ports(1)[0]}")
    conf, main = tmp_path / "etc" / "nginx" / "conf.d", tmp_path / "nginx.conf"
    conf.mkdir(parents=True)
    page = (ROOT / "docs" / "coordinator.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"(?m)^ln -s .*$", page)
    line = line.replace("COORDINATOR_DIR", str(made.home.folder)).replace("/etc/nginx", str(tmp_path / "etc" / "nginx"))
    assert run(*shlex.split(line)).returncode == 0
    main.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n    include {conf}/*.conf;\n}}\n", encoding="utf-8")
    test = ("nginx", "-t", "-e", "stderr", "-c", main)
    found = run(*test)
    assert (found.returncode, "test is successful" in found.stderr) == (0, True), found.stderr
    block = made.home.folder / "nginx" / "undertone.conf"
    block.write_text(
        block.read_text(encoding="utf-8").replace("proxy_ssl_verify", "proxy_ssl_verifies"), encoding="utf-8"
    )
    assert run(*test).returncode == 1
