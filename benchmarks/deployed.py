"""Seconds of a deployed steady round by stage, beside Flower's floor; and long vectors over TLS, both ways, bit by bit.

python benchmarks/deployed.py [--data FOLDER] [--rounds 5] [--values 10000000]

Every part is a process of its own on this machine's loopback, as in `undertone demo-deployment`: SuperLink behind
nginx; node, relay and SuperNode of each hospital. For long vectors the nodes are stubs that answer from this process.
"""

import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from deployed_app import digest, state_of, words_of
from report import Row, parser, publish

from undertone import PROTOCOL
from undertone.core.canonical import Json, canonical_json
from undertone.core.durable import read_json, write_durable
from undertone.wire.hello import prove
from undertone.wire.messages import Reply, Request
from undertone.wire.vectors import LARGEST_HEADER, Packed
from undertone_cli.commands.demo import write_digits
from undertone_cli.commands.demo_deployment import CAP, DELTA, ENVIRONMENT, decisions, study_text
from undertone_cli.flower_app import flower_app
from undertone_cli.loopback.federation import HUB, RELEASED, LoopbackFederation
from undertone_cli.loopback.hospitals import Hospital, make_hospitals
from undertone_cli.loopback.processes import Processes, wait_until
from undertone_cli.processes import free_ports
from undertone_client.relay.secret import secret_of
from undertone_client.service.place import socket_of
from undertone_client.service.server import NodeService, serving
from undertone_client.site.folder import SiteDir
from undertone_client.supervise.connections import read_connections
from undertone_client.supervise.programs import relay_words, supernode_words
from undertone_server.home.folder import Home
from undertone_server.run_folder import RunFolder
from undertone_server.studies.flower_runs import start_run

FLOOR = 3.0
"""Seconds that an idle SuperNode sleeps between two questions for a message: `time.sleep(3)` in flwr 1.41,
`flwr.supernode.start_client_internal.start_client_internal`. It asks once right after each answer, too early for the
next message."""
SITES = ("east", "west")
_NO_HEAD = "0" * 64
_SECONDS = 1800.0
_SUPERNODE = re.compile(rf"^(\S+)Z undertone\.start: {HUB}/supernode \| INFO : +(.*)$", re.MULTILINE)
_ROUND, _RECEIVED, _SENT = re.compile(r"\[RUN \d+, ROUND (\d+)\]"), re.compile(r"Receiving: \w+\.(\w+) "), "Sent succ"


def main() -> None:
    """Measure both and tabulate."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, help="an imagefolder as for demo-deployment; by default digits")
    arguments.add_argument("--rounds", type=int, default=5, help="three or more; the first and the last are not steady")
    arguments.add_argument("--values", type=int, default=10_000_000, help="of the long vectors")
    arguments.add_argument("--keep", type=Path, help="keep everything, logs too, in this new folder")
    chosen = arguments.parse_args()
    if chosen.rounds < 3:
        arguments.error("--rounds: three or more")
    load = os.getloadavg()[0]
    root = chosen.keep or Path(tempfile.mkdtemp(prefix="undertone-deployed-"))
    rows = steady_rounds(root.resolve() / "study", chosen.data, chosen.rounds)
    rows += long_vectors(root.resolve() / "vectors", chosen.values)
    publish(
        f"a deployed federation; load average {load:.1f} before, {os.getloadavg()[0]:.1f} at the end", rows, chosen.json
    )
    if chosen.keep is None:
        shutil.rmtree(root)


# --- a steady round by stage ----------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """A message at a site: when it came, for which round, which kind; seconds since the last answer had left."""

    at: float
    round: int
    kind: str
    idle: float


def steady_rounds(folder: Path, data: Path | None, rounds: int) -> list[Row]:
    """A whole study over five hospitals, and the stages of its rounds as their SuperNodes' logs have them."""
    (folder / "logs").mkdir(parents=True)
    if data is None:
        write_digits(folder, {"digits": 1.0})
        data = folder / "digits"
    unit, hospitals = make_hospitals(data, folder / "hospitals")
    study = folder / "study.toml"
    study.write_text(study_text(unit, hospitals).replace("rounds = 2\n", f"rounds = {rounds}\n"), encoding="utf-8")
    with Processes(folder / "logs", ENVIRONMENT) as processes:
        federation = LoopbackFederation(folder, hospitals, processes)
        federation.provision()
        federation.add_data(unit, CAP, DELTA)
        federation.allow(**decisions(study, unit, hospitals))
        federation.start()
        run = federation.submit(study)
        federation.approve(run)
        last = federation.wait(run, _SECONDS)
        if last["state"] != RELEASED:
            raise SystemExit(f"the study is {last['state']}: {last['because']}; see {folder}")
        logs = [received(processes.log(name)) for name in federation.sites]
    return stage_rows(logs, range(2, rounds), f"{len(logs)} sites, rounds 2 to {rounds - 1}")


def received(log: str) -> list[Received]:
    """The messages of a site, in order, from the log of `undertone node start`, whose times are whole seconds."""
    found, number, sent = list[Received](), 0, float("nan")
    for when, line in _SUPERNODE.findall(log):
        at = datetime.fromisoformat(when).timestamp()
        if of_round := _ROUND.match(line):
            number = int(of_round[1])
        elif message := _RECEIVED.match(line):
            found.append(Received(at, number, message[1], at - sent))
        elif line.startswith(_SENT):
            sent = at
    return found


def stage_rows(logs: Sequence[list[Received]], rounds: range, case: str) -> list[Row]:
    """Means over sites and rounds. A stage lasts from its message's arrival to the next message's."""
    seconds, count, idle = dict[str, float](), dict[str, float](), 0.0
    for log in logs:
        for this, following in pairwise(log):
            if this.round in rounds:
                share = 1 / (len(logs) * len(rounds))
                seconds[this.kind] = seconds.get(this.kind, 0.0) + share * (following.at - this.at)
                count[this.kind] = count.get(this.kind, 0.0) + share
                idle += share * following.idle
    floor = {kind: FLOOR * number for kind, number in count.items()}
    rows = [Row(case, f"{kind}, s", seconds[kind], floor[kind], "Flower's sleep, 3 s each") for kind in seconds]
    whole = sum(seconds.values())
    rows.append(Row(case, "whole round, s", whole, sum(floor.values()), "Flower's sleep, 3 s each"))
    return [*rows, Row(case, "of it SuperNode idle, s", idle, whole, "whole round")]


# --- long vectors ---------------------------------------------------------------------------------


class StubNode:
    """Answers for a site whatever it is asked; keeps the digest of each state that came, by its length."""

    def __init__(self, folder: Path) -> None:
        self.site, self._identity = folder.name, SiteDir(folder).identity()
        self.states: dict[int, str] = {}

    def handle(self, request: Request) -> Reply:
        """A request's `session` is the length of its vector."""
        if request.kind == "hello":
            return Reply(self.site, PROTOCOL, body=prove(self._identity, self.site, request.body))
        if request.kind == "prepare" and isinstance(request.state, Packed):
            self.states[request.session] = digest(request.state.read(np.float32, request.session))
        words = words_of(self.site, request.session) if request.kind == "plain_input" else None
        return Reply(self.site, PROTOCOL, words=words, ledger_head=_NO_HEAD)

    def state_due(self, request: Request) -> int:
        """Bytes of a state."""
        return 4 * request.session + LARGEST_HEADER


def long_vectors(folder: Path, values: int) -> list[Row]:
    """A state to two sites and a vector from each: one value first, which is what the way itself takes, then many."""
    (folder / "logs").mkdir(parents=True)
    here = str(Path(__file__).resolve().parent)  # where Flower looks for deployed_app
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(folder / "logs", ENVIRONMENT))
        federation = LoopbackFederation(folder, [Hospital(site, folder, 0) for site in SITES], processes)
        federation.provision()
        federation.start_coordinator()
        nodes = {site: StubNode(place) for site, place in federation.sites.items()}
        for site, place in federation.sites.items():
            node = nodes[site]
            stack.enter_context(serving(NodeService(node.handle, node.state_due), place, socket_of(place)))
            start_wires(processes, site, place)
        for site in SITES:
            processes.says(f"{site}-relay", "the SuperNode knows this relay", 180.0)
        found = submitted(folder, federation, (1, values))
    one, many = found["1"], found[str(values)]
    sent = {site: digest(words_of(site, values)) for site in SITES}
    equal = {
        "there": sum(node.states.get(values) == digest(state_of(values)) for node in nodes.values()),
        "back": sum(many["vectors"].get(site) == sent[site] for site in SITES),
    }
    names = {"there": "state, float32, to each site", "back": "vector, uint32, from each site"}
    rows = [
        row
        for way, name in names.items()
        for row in (
            Row(f"{values:.0e} {name}", "s, two sites", many[way], one[way], "the same with one value"),
            Row(f"{values:.0e} {name}", "sites with equal SHA-256", equal[way], len(SITES), "sites"),
        )
    ]
    if set(equal.values()) != {len(SITES)}:
        raise SystemExit(f"not bit by bit what was sent: {equal}, {many['missing']}")
    return rows


def start_wires(processes: Processes, site: str, place: Path) -> None:
    """A site's SuperNode and relay, as `undertone node start` starts them."""
    (connection,) = read_connections(place)
    (port,), secret = free_ports(1), secret_of(place, connection.name)
    processes.start(f"{site}-supernode", supernode_words(connection, port, secret))
    processes.start(f"{site}-relay", relay_words(place, connection.name, port, secret, socket_of(place)))


def submitted(folder: Path, federation: LoopbackFederation, lengths: Sequence[int]) -> dict[str, Any]:
    """Run `deployed_app.py` on the SuperLink; what it found."""
    app, run = folder / "app", folder / "run"
    shutil.copytree(flower_app(), app)
    text = (app / "pyproject.toml").read_text(encoding="utf-8")
    ours = tomllib.loads(text)["tool"]["flwr"]["app"]["components"]["serverapp"]
    (app / "pyproject.toml").write_text(text.replace(ours, "deployed_app:app"), encoding="utf-8")
    run.mkdir()
    job: dict[str, Json] = {"home": str(federation.home), "sites": list(SITES), "lengths": list(lengths)}
    write_durable(run / "job.json", canonical_json(job))
    start_run(Home.open(federation.home), RunFolder(run), app)
    wait_until((run / "found.json").exists, "deployed_app.py found nothing", _SECONDS)
    return cast(dict[str, Any], read_json(run / "found.json"))


if __name__ == "__main__":
    main()
