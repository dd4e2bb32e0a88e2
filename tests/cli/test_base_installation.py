"""What `pip install` without an extra gives: it carries messages without torch, and says what a command lacks.

All that the base does not bring is made absent: in a process of its own no module is found but Python's, ours and those
of the distributions that `dependencies` of pyproject.toml names, with theirs.
"""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.arch.tree import MODULES, at_import, imported
from tests.support.deployed import processes
from tests.support.supernode import SECRET, supernode
from tests.support.world import World
from undertone import PROTOCOL
from undertone.wire.flower import reply_from_records, request_to_records
from undertone.wire.hello import CHALLENGE_BYTES, PROOF_BYTES, proves
from undertone.wire.messages import Due, Request
from undertone_cli.extras import EXTRAS
from undertone_cli.main import cli
from undertone_client.relay.presence import presence
from undertone_client.relay.secret import secret_of
from undertone_client.service.place import socket_of
from undertone_client.service.server import NodeService, serving

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BASE_COMMANDS = ("node", "node_relay", "node_start")
HEAVY = {"torch", "diffusers", "transformers", "scipy", "dp_accounting", "PIL", "safetensors", "huggingface_hub"}
BASE = """
import sys
ABSENT = set({absent!r})
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
COMMAND = """
from undertone_cli.main import cli
cli(sys.argv[1:], prog_name="undertone")
"""


def canonical(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def closure(requirements: list[str]) -> set[str]:
    """The distributions that come with these, those of no extra."""
    found: set[str] = set()
    left = [canonical(requirement) for requirement in requirements]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            left += [
                canonical(one) for one in requires(name) or [] if "extra ==" not in one.replace("extra==", "extra ==")
            ]
        except PackageNotFoundError:
            continue  # of another platform
    return found


def absent() -> set[str]:
    """Modules of this environment that a base installation would not have."""
    base = closure(PROJECT["dependencies"])
    ours = {"undertone", "undertone_origin", "undertone_client", "undertone_server", "undertone_cli", "tests"}
    owners = packages_distributions()
    return {name for name, of in owners.items() if not {canonical(one) for one in of} & base and name not in ours}


@pytest.fixture(scope="module")
def base() -> str:
    gone = absent()
    assert gone >= HEAVY
    return BASE.format(absent=sorted(gone))


def run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("words", ["--help", "--version", "node --help", "node relay --help", "node start --help"])
def test_the_base_says_what_it_can_do(base: str, words: str) -> None:
    done = run(base + COMMAND, *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("node init --help", "node"),
        ("node check --help", "node"),
        ("node data --help", "node"),
        ("plan --help", "coordinator"),
        ("simulate --help", "coordinator"),
        ("verify --help", "coordinator"),
        ("generate --help", "coordinator"),
        ("evaluate --help", "evaluate"),
        ("demo --help", "demo"),
    ],
)
def test_a_command_that_needs_more_says_which_extra_brings_it(base: str, words: str, extra: str) -> None:
    done = run(base + COMMAND, *words.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    command = words.removesuffix(" --help")
    said = rf"NotInstalled: `undertone {command}` needs \w+, which is not installed here: in your clone, "
    assert re.match(
        said + rf'pip install -c constraints.txt "\.\[{extra}\]"; of a wheel, .* \[{extra}\] behind it$', line
    )


def test_the_node_itself_says_so_when_it_is_to_start(base: str, tmp_path: Path) -> None:
    done = run(base + COMMAND, "node", "serve", tmp_path)
    assert done.returncode == 2
    assert re.match(r"NotInstalled: `undertone node` needs \w+, .* constraints.txt \"\.\[node\]\"", done.stderr)


def test_a_library_that_is_missing_later_is_one_line_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def digits(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn.datasets")

    monkeypatch.setattr("undertone_cli.commands.demo.write_digits", digits)
    done = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 2
    assert done.stderr.startswith("NotInstalled: `undertone demo` needs sklearn, which is not installed here: ")
    assert 'constraints.txt ".[demo]"' in done.stderr


def test_a_module_of_ours_that_is_missing_is_no_extra(base: str) -> None:
    script = base + 'import undertone_cli.main as main\nmain.COMMANDS["node"] = ("undertone_cli.nowhere:command", "")\n'
    done = run(script + 'main.cli(["node"], prog_name="undertone")')
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'undertone_cli.nowhere'" in done.stderr


def test_each_library_that_an_extra_brings_stands_in_the_table() -> None:
    """pyproject.toml's extras and the table say the same."""
    owners = packages_distributions()
    extras = PROJECT["optional-dependencies"]
    direct = {extra: {canonical(one) for one in extras[extra] if "undertone" not in one} for extra in extras}
    assert any(one.startswith("flwr[simulation]") for one in extras["ray"])
    direct["ray"].add("ray")  # which that brings
    for library, extra in EXTRAS.items():
        assert {canonical(one) for one in owners[library]} & direct[extra], library
    named = {canonical(one) for library in EXTRAS for one in owners[library]}
    for extra in ("node", "evaluate", "coordinator", "demo", "ray"):
        assert direct[extra] - {"flwr"} <= named, extra
    chain = [("evaluate", "node"), ("coordinator", "node"), ("coordinator", "evaluate")]
    chain += [("demo", "coordinator"), ("ray", "coordinator")]
    assert all(f"undertone-federated[{inner}]" in extras[outer] for outer, inner in chain)


def test_what_the_base_imports_itself_is_named_and_not_only_brought_by_another() -> None:
    """The third-party modules that are reached from the commands of the base, at import."""
    trees = {module.name: at_import(module.tree) for module in MODULES}
    owners = {library: {canonical(one) for one in of} for library, of in packages_distributions().items()}
    left, seen, libraries = (
        ["undertone_cli.main", *(f"undertone_cli.commands.{name}" for name in BASE_COMMANDS)],
        set(),
        set(),
    )
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        names = imported(trees[name])
        left += [other for other in names if other in trees]
        libraries |= {other.partition(".")[0] for other in names if other.partition(".")[0] in owners}
    ours = {"undertone", "undertone_origin", "undertone_client", "undertone_server", "undertone_cli"}
    direct = {canonical(one) for one in PROJECT["dependencies"]}
    assert len(libraries) > 5
    for library in libraries - ours:
        assert owners[library] & direct, library


def test_the_relay_loads_no_torch_and_costs_two_seconds_at_most(base: str) -> None:
    script = base + (
        "import time\n"
        "import undertone_cli.commands.node_relay\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'scipy', 'PIL', 'safetensors'} & set(sys.modules)\n"
        "print(time.process_time(), *heavy)"
    )
    done = [run(script) for _ in range(2)]  # the first may have to compile
    assert [one.stderr for one in done] == ["", ""]
    seconds, *heavy = done[1].stdout.split()
    assert not heavy
    assert float(seconds) <= 2.0


def test_a_relay_of_the_base_carries_messages(base: str, make_world: Any, tmp_path: Path) -> None:
    world: World = make_world()
    node, site = world.node(), world.sites["north"]
    secret_of(site, "hub").write_bytes(SECRET)
    challenge = bytes(range(CHALLENGE_BYTES))
    with (
        supernode() as flower,
        processes(tmp_path / "relay") as running,
        serving(NodeService(node.handle, node.state_due), site, socket_of(site)),
    ):
        relay = ["node", "relay", site, "--coordinator", "hub", "--runtime-api", flower.address]
        process = running.start("relay", [sys.executable, "-c", base + COMMAND, *relay])
        flower.put("query.hello", request_to_records(Request("hello", PROTOCOL, body=challenge)))
        reply = reply_from_records(flower.reply(60).content, Due(body=PROOF_BYTES))
        assert presence(site, "hub") == "connected"
        process.terminate()
        assert process.wait(timeout=20) == 0, running.log("relay")
    assert presence(site, "hub") == "absent"
    assert proves(world.run.federation(), "north", challenge, reply.body)
