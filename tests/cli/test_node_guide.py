"""docs/node.md: every `undertone` command of the page runs here, in the page's order, at a site of its own."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.federating import Hub
from tests.support.images import write_folder
from tests.support.runs import call
from tests.support.world import make_plan, secure
from undertone.core.keys import PLAN_DOMAIN, public_hex, sign
from undertone.models.pinned import files_digest
from undertone.privacy.accounting import GaussianEvent
from undertone.privacy.cap import Cap, suggested
from undertone.privacy.ledger import Ledger
from undertone.privacy.renyi import NOTHING, draw
from undertone.study.plan import Plan
from undertone_cli import console
from undertone_cli.commands import log, node
from undertone_cli.main import cli
from undertone_client.approval.approvals import approval_of
from undertone_client.site.budget import Budget
from undertone_client.site.folder import SiteDir
from undertone_server.home.folder import Home
from undertone_server.home.membership import add_sites
from undertone_server.home.settings import Settings
from undertone_server.run_folder import RunFolder

PAGE = (Path(__file__).parents[2] / "docs" / "node.md").read_text(encoding="utf-8")
UNITS = {"north": 210, "east": 150, "south": 70, "west": 30}
SIGMA = 3821  # of Delta = 1024: epsilon is 1.000 at delta 1e-5
_STEP = re.compile(r"^(?:#+ ([^\n]+)| *```(\w+)\n(.*?)^ *```)$", re.MULTILINE | re.DOTALL)
# Commands that run until they are stopped. Here their options are read; they run in tests/e2e/test_deployed.py and
# tests/client/supervise.
RUNS_ON = ("start", "serve", "relay")
_FOLDERS = r"/(?:data|backup|elsewhere)/"
_CAPITALS = r"[A-Z][A-Z_]+\b"


def steps() -> Iterator[tuple[str, str]]:
    """("heading" | "toml" | "command", its text), in the order of the page."""
    for heading, kind, block in (found.groups() for found in _STEP.finditer(PAGE)):
        if heading is not None:
            yield "heading", heading
        elif kind == "toml":
            yield "toml", block
        elif kind == "sh":
            lines = block.replace("\\\n", " ").splitlines()
            yield from (("command", line.strip()) for line in lines if line.strip().startswith("undertone"))


class Guide:
    """The hospital north, its coordinator and its dean, and what the page's words in capitals stand for there."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.site, self.dean = folder, folder / "site", Ed25519PrivateKey.generate()
        for name in ("backup", "elsewhere"):
            (folder / name).mkdir()
        write_folder(folder / "data" / "chest", 428)
        write_folder(folder / "data" / "skin", 80, first=1000)
        plan = make_plan(base, UNITS, aggregation=secure(4), min_sites=3, sigma=SIGMA)
        self.plan = plan.model_copy(update={"study": "chest-x-ray"})
        self.approved, self.section = [self.plan], ""
        self.run = RunFolder.create(folder / "run", self.plan, {"setting": "a guide"})
        self.words = {
            "SITE_DIR": str(self.site),
            "BASE": str(base),
            "HUB_KEY": public_hex(self.run.key()),
            "DEAN_KEY": public_hex(self.dean),
            "MODEL_DIGEST": files_digest(self.plan.model.files),
            "LAST_DAY": f"{datetime.now(UTC) + timedelta(days=60):%Y-%m-%d}",
            "dpagg-ti": "dummy",
            "north.request": str(folder / "north.request"),
            "again.request": str(folder / "again.request"),
            "plan.json": str(folder / "plan.json"),
            "plan.sig": str(folder / "plan.sig"),
            "approval.sig": str(folder / "approval.sig"),
        }
        self.send(self.plan)

    def send(self, plan: Plan, word: str = "DIGEST") -> None:
        """The coordinator sends a plan, which the page calls by this word from now on."""
        (self.folder / "plan.json").write_bytes(plan.as_bytes())
        (self.folder / "plan.sig").write_text(sign(self.run.key(), PLAN_DOMAIN, plan.digest))
        self.words[word] = plan.digest[:8]

    def another(self, study: str, word: str = "DIGEST") -> Plan:
        """Another plan is received."""
        plan = self.plan.model_copy(update={"study": study})
        self.send(plan, word)
        assert call("node", "receive", self.site, self.folder / "plan.json", self.folder / "plan.sig").exit_code == 0
        return plan

    def meant(self, text: str) -> str:
        """What a text of the page stands for here; a word in capitals that is not known fails."""

        def known(found: re.Match[str]) -> str:
            word = found.group()
            return str(self.folder) + word if word.startswith("/") else self.words[word]

        words = "|".join(map(re.escape, sorted(self.words, key=len, reverse=True)))
        return re.sub(rf"(?<![\w./-])(?:{_FOLDERS}|(?:{words})\b|{_CAPITALS})", known, text)

    def heading(self, text: str) -> None:
        """What others do before a section begins."""
        self.section = text
        if text == "Join the federation":
            hub = Hub(self.folder, Home.create(self.folder / "hub", Settings(name="hub", fleet="https://hub:443")))
            shutil.copyfile(self.run.folder / "coordinator.key", hub.home.folder / "coordinator.key")
            requests = [(self.folder / "north.request").read_bytes(), *map(hub.request, UNITS.keys() - {"north"})]
            change = add_sites(hub.home, requests, datetime.now(UTC))
            self.words["WELCOME"] = str(change.welcome)
            self.words["FEDERATION_DIGEST"] = hub.home.federation().digest
        elif text == "Named approvers":
            self.without_approvers = (self.site / "policy.toml").read_bytes()
            self.approved.append(self.another("a-second-study"))
        elif text.startswith("Before and during a study"):  # whose plan was approved before there were approvers
            (self.site / "policy.toml").write_bytes(self.without_approvers)
        elif text == "When a study is over":
            self.words["DIGEST"] = self.plan.digest[:8]

    def toml(self, text: str) -> None:
        """policy.toml is written anew; a table of it alone is put at its end."""
        path, before = self.site / "policy.toml", ""
        if text.startswith("["):
            before = path.read_text(encoding="utf-8") + "\n"
        path.write_text(before + self.meant(text), encoding="utf-8")

    def command(self, line: str) -> Result:
        """Run a command as somebody at a terminal, who answers what is asked."""
        if "--drop" in line:
            self.another("unwanted", "DROPPED_DIGEST")
        if "--signature" in line:
            request = self.site / "pending" / f"{self.approved[1].digest}.request"
            (self.folder / "approval.sig").write_bytes(self.dean.sign(request.read_bytes()))
        if "--lost" in line and len(self.approved) == 2:
            self.lose()
        if "HASH" in line:
            self.words["HASH"] = json.loads(call("log", "verify", self.site, "--json").stdout)["newest"]
        answer = self.words.get("DIGEST", "") if " approve " in line else "y"
        if " join " in line:
            answer = self.words["FEDERATION_DIGEST"][:8]
        _, *arguments = shlex.split(self.meant(line), comments=True)
        if arguments[:1] == ["node"] and arguments[1] in RUNS_ON:
            arguments.append("--help")
        if arguments[:2] == ["node", "check"]:  # here no coordinator runs: tests/client/checks/test_connection.py
            arguments.append("--offline")
        return CliRunner().invoke(cli, arguments, input=f"{answer}\n")

    def as_on_the_page(self, text: str) -> list[str]:
        """Lines of output without what differs each time: hashes and keys, digests, times, last days."""
        text = text.replace(str(self.site), "SITE_DIR").replace(f"{self.folder}/north", "north")
        for differs in (r"\b[0-9a-f]{64}\b", r"\b[0-9a-f]{8}\b", r"\b\d{4}-\d\d-\d\d(T[\d:]+Z)?"):
            text = re.sub(differs, "*", text)
        return [line.rstrip() for line in text.splitlines()]

    def lose(self) -> None:
        """Since the newest copy of the ledger a third plan was approved and a data set added; no approver is named."""
        (again,) = [text for _, text in steps() if " data add SITE_DIR skin " in text]
        assert self.command(again).exit_code == 0
        third = self.another("a-third-study")
        self.approved.append(third)
        self.command('undertone node approve SITE_DIR DIGEST --data chest --operator "A. Operator"')
        head = self.folder / "elsewhere" / "head"
        assert call("node", "ledger", self.site, "--write-head", head).exit_code == 0
        shutil.copyfile(self.folder / "backup" / "ledger-1.sqlite", self.site / "ledger.sqlite")
        assert call("node", "ledger", self.site, "--expect-head", head).exit_code == 3


@pytest.fixture
def guide(tmp_path: Path, dummy_base: Path, dummy_method: None, monkeypatch: pytest.MonkeyPatch) -> Guide:
    del dummy_method
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    return Guide(tmp_path, dummy_base)


def test_every_command_of_the_page_does_what_the_page_says(guide: Guide) -> None:
    outputs = []
    for kind, text in steps():
        result = getattr(guide, kind)(text)
        if kind == "command":
            assert result.exit_code == 0, (text, result.output)
            outputs.append(result.stdout)
    printed = set(guide.as_on_the_page("".join(outputs)))
    pasted = [line for block in re.findall(r"(?ms)^```text\n(.*?)^```$", PAGE) for line in guide.as_on_the_page(block)]
    assert len(pasted) > 30
    assert [line for line in pasted if line not in printed and line != "..."] == []

    first, second, third = (approval_of(SiteDir(guide.site), plan.digest) for plan in guide.approved)
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.document.operator, first.approver, first.withdrawn) == ("A. Operator", "", "")
    assert (second.approver, bool(second.withdrawn)) == ("dean", True)
    with Ledger.open(guide.site / "ledger.sqlite", read_only=True) as ledger:
        chest, skin = Budget.of_all(ledger)
    assert (skin.name, skin.epsilon, skin.studies) == ("skin", 2.0, ())
    lost = "the newest copy burnt with the server"
    freed = {study.digest: study.freed for study in chest.studies}
    assert [freed[plan.digest] for plan in guide.approved] == ["ended", "withdrawn", lost]


def test_a_word_that_stands_for_nothing_here_is_no_command_of_the_page(guide: Guide) -> None:
    with pytest.raises(KeyError, match="OTHER_DIR"):
        guide.command("undertone node ledger OTHER_DIR")


def leaves(group: click.Group, *names: str) -> Iterator[str]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from leaves(command, *names, name)
        else:
            yield " ".join([*names, name])


def test_the_page_shows_every_command_of_a_site() -> None:
    shown = [text for kind, text in steps() if kind == "command"]
    for words in [*leaves(node.command, "node"), *leaves(log.command, "log")]:
        assert any(text.startswith(f"undertone {words} ") for text in shown), words


def test_the_plans_that_fit_a_cap_are_as_many_as_the_page_says() -> None:
    event = GaussianEvent(SIGMA, 1024, 1.0, 1)
    assert [suggested(draw(event, 1), delta).epsilon for delta in (1e-5, 1e-6)] == [1.136, 1.271]
    rows = re.findall(r"(?m)^\| ([\d.]+) \| (\d+) \|$", PAGE)
    assert len(rows) == 6
    for cap, plans in rows:
        assert Cap.register(float(cap), 1e-6).room(NOTHING, event) == int(plans), cap
