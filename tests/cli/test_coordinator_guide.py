"""docs/coordinator.md: every command of the page runs here, in the page's order, at a coordinator of its own.

Flower's command line is a stand-in, and the study's program a thread; what needs real servers runs once more on them.
"""

import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from click.testing import CliRunner, Result

from tests.cli.test_node_guide import leaves
from tests.support.coordinating import Coordination, stand_in
from tests.support.federating import Hub
from tests.support.studies import study_with, write_study
from tests.support.superlink import Servers, eventually
from tests.support.world import World, secure
from undertone import __version__
from undertone.core.clock import utc_now
from undertone.core.federation import sign_federation
from undertone_cli import console
from undertone_cli.commands import coordinator, coordinator_nodes, coordinator_rehearse, coordinator_runs
from undertone_cli.main import cli
from undertone_cli.processes import free_ports
from undertone_client.site.folder import SiteDir
from undertone_server import release, run_study
from undertone_server.collect import gathering
from undertone_server.collect.deadlines import DAY, DEPLOYED, Deadlines
from undertone_server.home.certificates import make_ca, make_certificate
from undertone_server.home.fleet import Registered
from undertone_server.home.folder import Home
from undertone_server.home.membership import accepted
from undertone_server.home.settings import Settings
from undertone_server.run_folder import RunFolder
from undertone_server.status import State
from undertone_server.studies.standing import runs_of, standing

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coordinator.md").read_text(encoding="utf-8")
HOST, SITES = "hub.example.org:443", ("north", "east", "south")
_STEP = re.compile(r"^(?:#+ ([^\n]+)|```sh\n(.*?)^```)$", re.MULTILINE | re.DOTALL)
_CAPITALS = r"[A-Z][A-Z_]+\b"
# They install, or need a systemd that runs. An installation is tried in tests/cli/test_base_installation.py, the units
# in tests/cli/test_deployment_files.py.
EXCEPTED = ("systemctl ", "python3.11 -m venv ", "pip install ")
SERVERS = {"SuperLink", "nginx", "control API", "large messages"}  # checks that fail where none runs
AS_ROOT = ("ln -s ", "nginx -t", "systemd-sysusers ", "systemd-tmpfiles ")  # run in tests/cli/test_deployment_files.py


def steps() -> Iterator[tuple[str, str]]:
    """("heading" | "command", its text), in the order of the page."""
    for heading, block in (found.groups() for found in _STEP.finditer(PAGE)):
        if heading is not None:
            yield "heading", heading
        else:
            lines = block.replace("\\\n", " ").splitlines()
            yield from (("command", " ".join(line.split())) for line in lines if line.strip())


class Program(threading.Thread):
    """What Flower starts for a RUN: the study's program. Told to stop, it ends while it waits, as by a signal."""

    def __init__(self, hub: Coordination, run: Path) -> None:
        super().__init__(daemon=True)
        self._hub, self._run, self.told = hub, run, threading.Event()

    def run(self) -> None:
        with suppress(SystemExit):
            self._hub.run(self._run)

    def sleep(self, _seconds: float) -> None:
        if self.told.wait(0.05):
            raise SystemExit

    def end(self) -> None:
        self.told.set()
        self.join(30)
        assert not self.is_alive()


class Guide:
    """The coordinator heart, its four hospitals, and what the page's words stand for here."""

    def __init__(self, folder: Path, world: World, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.world, self.patch = folder, world, patch
        self.program: Program | None = None
        self.place = folder / "coordinator"
        self.address = f"localhost:{free_ports(1)[0]}"
        self.words = {HOST: self.address, "COORDINATOR_DIR": str(self.place)}
        self.words["UNDERTONE_HOME"] = "UNDERTONE_HOME"
        for name in (*SITES, "west"):
            self.words[f"{name}.request"] = str(folder / f"{name}.request")
        for name in ("hub.crt", "hub.key", "house-ca.crt", "study.toml"):
            self.words[name] = str(folder / name)
        now = utc_now()
        ca = make_ca("house", 100, now)
        server = make_certificate(["localhost"], 90, now, ca)
        (folder / "house-ca.crt").write_bytes(ca.certificate_pem)
        (folder / "hub.crt").write_bytes(server.certificate_pem)
        (folder / "hub.key").write_bytes(server.key_pem)
        write_study(folder / "study.toml", study_with({}, world.plan.model.base))

    @property
    def home(self) -> Home:
        return Home.open(self.place)

    @property
    def hub(self) -> Coordination:
        return Coordination(self.home, self.world)

    def run_folder(self) -> RunFolder:
        (found,) = (run for run in runs_of(self.home) if not run.plan().rehearsal)
        return found

    def meant(self, text: str) -> str:
        """What a text of the page stands for here; a word in capitals that is not known fails."""
        words = "|".join(map(re.escape, sorted(self.words, key=len, reverse=True)))
        return re.sub(rf"(?<![\w.-])(?:(?:{words})\b|{_CAPITALS})", self._known, text)

    def _known(self, found: re.Match[str]) -> str:
        return self.words[found.group()]

    def heading(self, text: str) -> None:
        """What others do before a section begins."""
        if text == "Accept sites":
            hospitals = Hub(self.folder, self.home)
            hospitals.sites.update(self.world.sites)
            for name in (*SITES, "west"):
                hospitals.request(name)
        elif text == "Rehearse":  # all have taken the newest welcome
            federation = self.home.federation()
            for place in self.world.sites.values():
                SiteDir(place).join("hub", federation, sign_federation(federation, self.home.key()))
            self.words["HUB_KEY"] = federation.coordinator
        elif text == "Approvals":  # Flower has started the study
            run = self.run_folder()
            self.words["RUN"] = run.folder.name
            self.begin()
            self.until(lambda: standing(run).state == "waiting")
        elif text == "The release":  # all have approved the plan
            self.hub.approve()
            self.until(lambda: standing(self.run_folder()).state == "released")

    def checked(self, result: Result) -> bool:
        """Whether the check found all to be well but the servers, none of which runs."""
        failed = re.findall(r"(?m)^FAIL ([\w ]+): ", result.stdout)
        return result.exit_code == 2 and set(failed) <= SERVERS

    def begin(self) -> None:
        self.program = Program(self.hub, self.run_folder().folder)
        self.patch.setattr(gathering, "time", SimpleNamespace(monotonic=time.monotonic, sleep=self.program.sleep))
        self.program.start()

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + 60.0
        while not what():
            assert time.monotonic() < end
            assert self.program is not None
            assert self.program.is_alive() or what()
            time.sleep(0.05)

    def command(self, line: str) -> Result | None:
        """Run a command as somebody at a terminal, who says yes; None for what does not run here."""
        if line.startswith((*EXCEPTED, *AS_ROOT)):
            return None
        name, *words = shlex.split(self.meant(line))
        if name == "export":
            self.patch.setenv(*words[0].split("=", 1))
            return None
        assert name == "undertone", line
        if "--certificate" in words:
            words += ["--home", str(self.folder / "with-own-certificate")]
        if words == ["coordinator", "start"]:  # runs until it is stopped; below it runs
            words.append("--help")
        result = CliRunner().invoke(cli, words, input="y\n")
        if words == ["coordinator", "check"]:
            assert self.checked(result), result.output
            result.exit_code = 0
        if words[:2] == ["coordinator", "stop"] and self.program is not None:
            self.program.end()
        if words[:2] == ["coordinator", "resume"]:
            self.begin()
        return result

    def as_on_the_page(self, text: str) -> list[str]:
        """Lines of output without what differs each time: hashes and keys, digests, times."""
        text = text.replace(str(self.place), "COORDINATOR_DIR").replace(self.world.plan.study, "chest-x-ray")
        for differs in (r"\b[0-9a-f]{64}\b", r"\b[0-9a-f]{8}\b", r"\b\d{4}-\d\d-\d\d(T[\d:]+Z)?"):
            text = re.sub(differs, "*", text)
        return [line.rstrip() for line in text.splitlines()]


class GuideOnServers(Guide):
    """The same with a SuperLink that runs, and with no hospital behind any key."""

    def __init__(self, folder: Path, world: World, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, world, patch)
        self.servers: Servers | None = None
        changes = {"method": {"name": "dpagg-ti", "steps": 1}, "cohort.units": dict.fromkeys(SITES, 10)}
        write_study(folder / "study.toml", study_with(changes, "embedded:tiny"))

    def heading(self, text: str) -> None:
        if text.startswith("Before and during a study"):  # after a new CA both are restarted
            self.restart()
        elif text == "Approvals":
            self.words["RUN"] = self.run_folder().folder.name
            self.until(lambda: standing(self.run_folder()).state == "waiting")
        elif text == "The release":
            self.until(lambda: standing(self.run_folder()).state == "waiting")
            assert len(standing(self.run_folder()).flower_runs) == 2
        else:
            super().heading(text)

    def until(self, what: Callable[[], bool]) -> None:
        assert eventually(what, 240)

    def restart(self) -> None:
        self.end()
        superlink, health = free_ports(2)
        path = self.place / "coordinator.toml"
        text = path.read_text(encoding="utf-8")
        for key, port in (("superlink_port", superlink), ("health_port", health)):  # the page's may be taken here
            text = re.sub(rf"(?m)^{key} = \d+", f"{key} = {port}", text)
        path.write_text(text, encoding="utf-8")
        self.servers = Servers(self.home, "--nginx")
        assert eventually(self.servers.ready, 90), self.servers.said

    def end(self) -> None:
        if self.servers is not None:
            assert self.servers.stop() == 0
            self.servers = None

    def command(self, line: str) -> Result | None:
        if line == "undertone coordinator start" or line.startswith("systemctl restart"):
            self.restart()
            return None
        result = super().command(line)
        if line.startswith("undertone coordinator stop"):
            self.until(lambda: not self.run_folder().held())
        return result

    def checked(self, result: Result) -> bool:
        """But for the hospitals, whose absence is a warning, all is well."""
        return result.exit_code == 0 and "WARN sites: not connected: east, north, south" in result.stdout

    def begin(self) -> None:
        """Flower does."""


@pytest.fixture
def guide(make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guide]:
    world = make_world(aggregation=secure(3), rounds=2, max_attempts=5, sampling_rate=0.9)
    made = Guide(tmp_path, world, monkeypatch)
    stand_in(tmp_path, monkeypatch)
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(coordinator_nodes, "synchronise", lambda home: Registered(kept=list(accepted(home))))
    for module in (coordinator_runs, coordinator_rehearse):
        monkeypatch.setattr(module, "plan_of", lambda *_args, **_options: world.plan)
    monkeypatch.setattr(run_study, "deadlines_for", lambda _setting: replace(Deadlines.equal(5.0), pause=0.05))
    monkeypatch.setattr("undertone_server.telemetry.epsilon_spent", lambda *_: 1.0)
    monkeypatch.setattr(
        release, "_draw_samples", lambda _plan, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )

    def rehearse(_seconds: float) -> None:
        for run in runs_of(made.home):
            made.hub.run(run.folder)

    monkeypatch.setattr(coordinator_rehearse, "time", SimpleNamespace(sleep=rehearse))
    yield made
    if made.program is not None:
        made.program.end()


def test_every_command_of_the_page_does_what_the_page_says(guide: Guide) -> None:
    outputs, seen = [], []
    for kind, text in steps():
        result = getattr(guide, kind)(text)
        if result is not None:
            assert result.exit_code == 0, (text, result.output, result.exception)
            outputs.append(result.stdout)
            seen.append(text)
    printed = set(guide.as_on_the_page("".join(outputs)))
    pasted = [line for block in re.findall(r"(?ms)^```text\n(.*?)^```$", PAGE) for line in guide.as_on_the_page(block)]
    assert len(pasted) > 15
    assert [line for line in pasted if line not in printed] == []
    assert len(seen) > 18

    newest = guide.home.federation()
    assert sorted(newest.sites) == ["east", "north", "south"]
    run = guide.run_folder()
    assert (standing(run).state, standing(run).flower_runs) == ("released", ["101", "102"])
    for site in SITES:
        assert [charge[0] for charge in guide.world.charges(site)] == [1, 2]


@pytest.mark.slow
def test_what_needs_servers_does_it_with_real_ones_too(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    guide, said = GuideOnServers(tmp_path, make_world(), monkeypatch), {}
    try:
        for kind, text in steps():
            if text.startswith("undertone verify"):  # nobody is there, so nothing is released
                break
            result = getattr(guide, kind)(text)
            if result is not None:
                said[text] = result.stdout
                nobody_is_there = text.startswith("undertone coordinator rehearse")
                assert result.exit_code == (3 if nobody_is_there else 0), (text, result.output, result.exception)
        assert guide.servers is not None
        started = guide.servers.said
    finally:
        guide.end()
    assert "3 sites were registered before" in started
    (added,) = (text for command, text in said.items() if " add-node " in command)
    assert [f"{site}: registered at the SuperLink" in added for site in (*SITES, "west")] == [True] * 4
    assert "west: unregistered at the SuperLink" in said["undertone coordinator remove-node west"]
    assert "north: did not answer" in said["undertone coordinator rehearse study.toml"]
    assert "waiting for east, north, south" in said["undertone coordinator status RUN"]


def test_a_word_that_stands_for_nothing_here_is_no_command_of_the_page(guide: Guide) -> None:
    with pytest.raises(KeyError, match="OTHER_DIR"):
        guide.command("undertone coordinator status --home OTHER_DIR")
    with pytest.raises(AssertionError, match="rm -r"):
        guide.command("rm -r /")


def test_the_page_shows_every_command_of_a_coordinator() -> None:
    shown = [f"{text} " for kind, text in steps() if kind == "command"]
    for words in leaves(coordinator.command, "coordinator"):
        assert any(text.startswith(f"undertone {words} ") for text in shown), words


def test_the_deadlines_are_those_of_a_deployed_study() -> None:
    table = PAGE.partition("## How long the coordinator waits")[2].partition("\n## ")[0]
    rows = [row.strip("| \n").split(" | ")[1] for row in table.splitlines() if row.startswith("| ")][1:]
    due = DEPLOYED
    assert rows == [
        f"{due.hello:.0f} s",
        f"{due.again:.0f} s",
        f"{due.step:.0f} s, and a second for each {due.line / 1000:.0f} kB of a vector",
        f"{due.preparation / 3600:.0f} h",
        f"{due.absent / 3600:.0f} h",
        f"{due.start / 60:.0f} min",
        f"{due.approvals / DAY:.0f} days",
    ]


def test_every_state_of_a_study_and_every_term_of_a_file_is_on_the_page() -> None:
    states = {*get_args(State), "submitted", "interrupted", "unreleased"}
    assert states == set(re.findall(r"(?m)^\| (\w+) \| .* \| .* \|$", PAGE.partition("## Stop and")[0])) & states
    settings = Settings(name="x", fleet="https://x.example.org:443")
    assert f"certificates ({settings.certificate_days} days) and manifests ({settings.manifest_days} days)" in PAGE


def test_the_wheel_that_the_page_installs_has_this_version() -> None:
    assert f"./undertone_federated-{__version__}-py3-none-any.whl[coordinator]" in PAGE
