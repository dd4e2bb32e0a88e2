"""A coordinator's folder over the sites of a world, and a stand-in for Flower's command line."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID

from tests.support.approvals import HUB, approved
from tests.support.world import World, identify
from undertone.core.clock import utc_now
from undertone.core.federation import sign_federation
from undertone.core.flower_keys import public_flower_key
from undertone.core.joining import site_request
from undertone_cli.engines.inprocess import InProcessGrid
from undertone_client.app import app as client_app
from undertone_client.site.folder import SiteDir
from undertone_server.home.folder import Home
from undertone_server.home.membership import add_sites
from undertone_server.home.settings import Settings
from undertone_server.run_study import run_study
from undertone_server.studies import flower_runs

FLWR = f"""#!{sys.executable} -SE
import json, os, pathlib, sys
place = pathlib.Path(os.environ["FLWR_HOME"]) / "stand-in.json"
held = json.loads(place.read_text()) if place.exists() else {{"runs": {{}}, "asked": [], "down": False}}
words = sys.argv[1:]
held["asked"].append(words)
def say(answer, code=0):
    place.write_text(json.dumps(held))
    print(json.dumps(answer))
    sys.exit(code)
assert words[-2:] == ["--format", "json"]
if held["down"]:
    say({{"success": False, "error-message": "no connection \\x1b[2J"}}, 1)
if words[0] == "run":
    number = str(100 + len(held["runs"]))
    held["runs"][number] = "running"
    say({{"success": True, "run-id": number}})
if words[0] == "list":
    number = words[words.index("--run-id") + 1]
    if number not in held["runs"]:
        say({{"success": False, "error-message": "unknown run"}}, 1)
    say({{"success": True, "runs": [{{"run-id": number, "status": held["runs"][number]}}]}})
if words[0] == "stop":
    held["runs"][words[1]] = "finished:stopped"
    say({{"success": True, "run-id": words[1]}})
"""


@dataclass
class Coordination:
    """A COORDINATOR_DIR whose federation is a world's sites, and what the stand-in for Flower was asked."""

    home: Home
    world: World

    @property
    def _place(self) -> Path:
        return self.home.folder / "superlink" / "flower" / "stand-in.json"

    def asked(self) -> list[list[str]]:
        """Command lines."""
        found: Any = json.loads(self._place.read_text(encoding="utf-8"))["asked"] if self._place.exists() else []
        return list(found)

    def set(self, **changes: Any) -> None:
        """Change what the stand-in knows."""
        empty = {"runs": {}, "asked": [], "down": False}
        held = json.loads(self._place.read_text(encoding="utf-8")) if self._place.exists() else empty
        self._place.write_text(json.dumps(held | changes), encoding="utf-8")

    def run(self, folder: Path, absent: tuple[str, ...] = ()) -> None:
        """What the ServerApp of a run does, in this process."""
        identify()
        there = [place for site, place in self.world.sites.items() if site not in absent]
        run_study(InProcessGrid(client_app, dict(enumerate(there, SUPERLINK_NODE_ID + 1))), folder)

    def approve(self, *sites: str) -> None:
        """These sites approve the world's plan for this coordinator."""
        for site in sites or tuple(self.world.sites):
            approved(SiteDir(self.world.sites[site]), self.world.plan)


def coordination(folder: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Coordination:
    """Make it: sites have joined and have not approved anything of this coordinator."""
    home = Home.create(folder / "home", Settings(name="heart", fleet="https://hub.example.org:8443"))
    requests = []
    for name, place in world.sites.items():
        site = SiteDir(place)
        requests.append(site_request(name, site.identity(), public_flower_key(site.flower_key)))
    federation = add_sites(home, requests, utc_now()).federation
    assert federation is not None
    for place in world.sites.values():
        SiteDir(place).join(HUB, federation, sign_federation(federation, home.key()))
    stand_in(folder, monkeypatch)
    return Coordination(home, world)


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in the place of Flower's command line."""
    program = folder / "flwr"
    program.write_text(FLWR, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(flower_runs, "program", lambda _name: str(program))
