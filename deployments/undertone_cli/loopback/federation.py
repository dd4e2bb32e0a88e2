"""A coordinator and hospitals on loopback: SuperLink behind nginx, and node, relay and SuperNode of each hospital.

Each step is the command that a person types; docs/coordinator.md and docs/node.md explain them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undertone.core.canonical import sha256_hex
from undertone.core.durable import write_durable
from undertone.core.settings_file import settings_toml
from undertone.core.unit import Unit
from undertone.study.plan import Plan
from undertone_cli.loopback.hospitals import PATIENT, Hospital
from undertone_cli.loopback.processes import UNDERTONE, Processes, wait_until
from undertone_cli.processes import free_ports
from undertone_client.site.folder import SiteDir

HUB, DATA_SET = "hub", "images"
RELEASED = "released"
ENDED = (RELEASED, "stopped")
_SECONDS_TO_START = 180.0
_DIGITS = 8


class LoopbackFederation:
    """COORDINATOR_DIR in FOLDER/coordinator, each SITE_DIR in FOLDER/sites/NAME, logs in FOLDER/logs."""

    def __init__(self, folder: Path, hospitals: Sequence[Hospital], processes: Processes) -> None:
        self.home = folder / "coordinator"
        self.sites = {hospital.name: folder / "sites" / hospital.name for hospital in hospitals}
        self.hospitals = hospitals
        self.processes = processes
        self._mail = folder / "mail"  # what people send to each other: requests, welcomes, plans

    @property
    def key(self) -> str:
        """The coordinator's public key, hexadecimal."""
        return (self.home / "coordinator.pub").read_text(encoding="ascii").strip()

    def provision(self) -> None:
        """Keys and certificates are made where they stay; requests, then one welcome, go from hand to hand."""
        self._mail.mkdir()
        fleet, superlink, health = free_ports(3)
        address = ("--fleet", f"https://127.0.0.1:{fleet}", "--superlink-port", superlink, "--health-port", health)
        self.coordinator("init", "--name", "loopback", *address)
        requests = {name: self._mail / f"{name}.request" for name in self.sites}
        for name in self.sites:
            who = ("--site", name, "--coordinator", f"{HUB}={self.key}", "--request", requests[name])
            self.node(name, "init", *who)
        self.coordinator("add-node", *requests.values())
        welcome = sorted((self.home / "federation").glob("*.welcome"))[-1]
        digest = sha256_hex(welcome.with_suffix(".json").read_bytes())
        for name in self.sites:
            self.node(name, "join", welcome, "--name", HUB, "--yes-digest", digest[:_DIGITS])

    def add_data(self, unit: Unit, epsilon: float, delta: float) -> None:
        """Each hospital adds its images, with a cap for ever."""
        column = ("--unit-column", PATIENT) if unit == "patient" else ()
        for one in self.hospitals:
            cap = ("--publish", one.published, "--cap-epsilon", epsilon, "--cap-delta", delta)
            self.node(one.name, "data add", DATA_SET, one.images, "--unit", unit, *column, *cap)

    def allow(self, **allowed: object) -> None:
        """Each hospital writes its policy.toml, as its board has decided."""
        for folder in self.sites.values():
            site = SiteDir(folder)
            write_durable(folder / "policy.toml", settings_toml(site.policy.model_copy(update=allowed)))

    def start(self) -> None:
        """SuperLink and nginx, then the hospitals."""
        self.start_coordinator()
        for name in self.sites:
            self.start_site(name)
        for name in self.sites:
            self.processes.says(name, "the SuperNode knows this relay", _SECONDS_TO_START)

    def start_coordinator(self) -> None:
        """SuperLink and nginx; returns once they answer."""
        self.processes.start("coordinator", [*UNDERTONE, "coordinator", "start", "--nginx"], self._environment)
        self.processes.says("coordinator", "ready: ", _SECONDS_TO_START)

    def start_site(self, name: str) -> None:
        """A hospital's node, relay and SuperNode."""
        self.processes.start(name, [*UNDERTONE, "node", "start", self.sites[name]])

    def approve(self, run: Path, days: Mapping[str, str] | None = None) -> None:
        """Each hospital receives the plan by file, and somebody there approves it."""
        digest = Plan.from_bytes((run / "plan.json").read_bytes()).digest[:_DIGITS]
        for name in self.sites:
            self.node(name, "receive", run / "plan.json", run / "plan.sig")
            who = ("--data", DATA_SET, "--operator", f"Operator of {name}", "--yes-digest", digest)
            self.node(name, "approve", digest, *who, *(("--until", days[name]) if days else ()))

    def submit(self, study: Path) -> Path:
        """Submit a study; its RUN."""
        answer = json.loads(self.coordinator("submit", study, "--json"))
        return self.home / "runs" / str(answer["name"])

    def status(self, run: Path) -> dict[str, Any]:
        """What `coordinator status --json` says of a study."""
        (found,) = json.loads(self.coordinator("status", run.name, "--json", quiet=True))["studies"]
        return dict(found)

    def wait(self, run: Path, seconds: float) -> dict[str, Any]:
        """Wait until the study has ended, whichever way; its last status."""
        wait_until(lambda: self.status(run)["state"] in ENDED, "the study did not end", seconds)
        return self.status(run)

    def coordinator(self, command: str, *words: object, quiet: bool = False) -> str:
        """`undertone coordinator COMMAND`, at this coordinator."""
        return self.processes.undertone("coordinator", command, *words, environment=self._environment, quiet=quiet)

    def node(self, site: str, command: str, *words: object) -> str:
        """`undertone node COMMAND SITE_DIR WORDS` at a hospital."""
        return self.processes.undertone("node", *command.split(), self.sites[site], *words)

    @property
    def _environment(self) -> dict[str, str]:
        return {"UNDERTONE_HOME": str(self.home)}
