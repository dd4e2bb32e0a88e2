"""A whole federation over TLS on this machine: the demo, whoever is killed while a study runs, and a foreign app.

Real processes. nginx is a Debian package, so all of it is slow.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import write_folder
from tests.support.loopback import Killable, Watched, none_left, silent
from tests.support.superlink import eventually
from undertone.release.verify import verify
from undertone_cli.commands.demo_deployment import ENVIRONMENT, demo_deployment
from undertone_cli.loopback.processes import Processes
from undertone_server.home.flower_files import program
from undertone_server.home.folder import Home

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1500)]
SITES = ("north", "east", "south")
KNOWN = "the SuperNode knows this relay"
STUDY = """
[study]
name = "{name}"
[model]
base = "embedded:tiny"
[method]
name = "dpsgd-ti"
token = "<shared>"
initial_word = "picture"
draws = 1
min_time = 0.5
optimiser = "adam"
learning_rate = 0.15
[privacy]
unit = "record"
epsilon = 4.0
delta = 1e-5
clip_norm = 0.05
sampling_rate = 0.5
rounds = 3
allow_noisy = true
[data]
caption = "a {{token}}"
[cohort]
min_sites = 3
units = {{ north = 10, east = 10, south = 10 }}
"""


def test_the_demo_ends_in_a_verified_release_and_leaves_no_process(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 100, 16, per_patient=1)
    with none_left():
        seconds = demo_deployment(tmp_path / "demo", tmp_path / "images")
    silent(tmp_path / "demo" / "coordinator")
    (release,) = (tmp_path / "demo" / "coordinator" / "runs").glob("loopback-*/release")  # a rehearsal has none
    statement = verify(release, (tmp_path / "demo" / "coordinator" / "coordinator.pub").read_text().strip())
    assert statement.attempts_charged == 2
    print(*(f"{value:6.1f} s  {name}" for name, value in seconds.items()), sep="\n")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "logs").mkdir()
    with none_left(), Processes(folder / "logs", ENVIRONMENT) as processes:
        made = Killable(folder, SITES, processes)
        made.begin("dpsgd-ti", 20.0)
        yield made
    silent(made.home)


def begun(federation: Killable, name: str, folder: Path) -> Watched:
    """A study that is submitted and approved."""
    path = folder / f"{name}.toml"
    path.write_text(STUDY.format(name=name), encoding="utf-8")
    run = federation.submit(path)
    federation.approve(run)
    return Watched(federation, run)


def ended(study: Watched) -> None:
    """The study ends released, and all books agree."""
    last = study.federation.wait(study.run.folder, 600)
    assert last["state"] == "released", last
    study.audit()
    verify(study.run.release, study.federation.key)


def test_a_site_whose_parts_are_killed_is_waited_for(federation: Killable, tmp_path: Path) -> None:
    study, log = begun(federation, "sites-die", tmp_path), federation.processes.log
    began = time.monotonic()

    study.reached("round-000001/session-001")
    known = log("north").count(KNOWN)
    gone = federation.kill("north", "node relay")
    relay = federation.says_again("north", KNOWN, known, 60)
    assert federation.found("north", "node relay") != gone

    study.reached("round-000002/asked-001.mark")
    gone = federation.kill("east", "node serve")
    node = federation.back("east", "node serve", gone, 60)
    study.waits_for("east", "NodeUnavailable: the site's node cannot be reached now", 60)

    study.reached("round-000003/session-001")
    connected = log("south").count("SuperNode ID:")
    federation.kill("south", "flower-supernode")
    supernode = federation.says_again("south", "SuperNode ID:", connected, 90)
    study.waits_for("south", "did not answer", 120)

    ended(study)
    took = time.monotonic() - began
    print(f"back after: relay {relay:.0f} s, node {node:.0f} s, SuperNode {supernode:.0f} s; study {took:.0f} s")


def test_a_coordinator_whose_parts_are_killed_goes_on(federation: Killable, tmp_path: Path) -> None:
    study = begun(federation, "hub-dies", tmp_path)
    run = study.run.folder.name

    def resumed() -> float:
        """Seconds from a failure, which has just been, until another process runs the study."""
        began = time.monotonic()
        assert eventually(lambda: not study.run.held(), 30)
        assert federation.status(study.run.folder)["state"] == "interrupted"
        if federation.found("coordinator", "flower-superlink") is None:
            federation.start_coordinator()
        federation.coordinator("resume", run)
        assert eventually(study.run.held, 60)
        return time.monotonic() - began

    study.reached("round-000001/asked-001.mark")
    federation.kill("coordinator", "flwr-serverapp")
    took = {"ServerApp": resumed()}

    study.reached("round-000002/session-001")
    federation.kill("coordinator", "flower-superlink")
    federation.processes.says("coordinator", "flower-superlink ended with exit code", 30)
    took["SuperLink"] = resumed()

    study.reached("round-000003/session-001")
    federation.kill("coordinator", "nginx: master")
    federation.processes.says("coordinator", "nginx ended with exit code", 30)
    took["nginx"] = resumed()

    ended(study)
    print(", ".join(f"{name}: resumed after {seconds:.0f} s" for name, seconds in took.items()))
    assert max(took.values()) <= 60


def test_attack_a_foreign_app_is_refused_and_never_imported(federation: Killable, tmp_path: Path) -> None:
    """Whoever may submit to the SuperLink can run what they like there, and nothing at a site."""
    app, imported, heard = tmp_path / "app", tmp_path / "imported-at-a-site", tmp_path / "heard.json"
    (app / "foreign").mkdir(parents=True)
    (app / "foreign" / "__init__.py").touch()
    (app / "pyproject.toml").write_text(FOREIGN_PROJECT, encoding="utf-8")
    (app / "foreign" / "server.py").write_text(FOREIGN_SERVER.format(heard=str(heard)), encoding="utf-8")
    (app / "foreign" / "client.py").write_text(FOREIGN_CLIENT.format(imported=str(imported)), encoding="utf-8")
    relays = {site: federation.found(site, "node relay") for site in SITES}
    home = Home.open(federation.home)
    done = subprocess.run(
        [program("flwr"), "run", str(app), home.connection],
        env=home.flower_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert eventually(heard.exists, 180), federation.processes.log("coordinator")[-3000:]
    replies = json.loads(heard.read_text(encoding="utf-8"))
    assert len(replies) == len(SITES)
    for said in replies.values():
        assert said["train.steal"] == "this site answers Undertone alone"
        assert said["query.hello"].startswith("ProtocolError: the request is malformed")
    assert not imported.exists()
    assert {site: federation.found(site, "node relay") for site in SITES} == relays


FOREIGN_PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "foreign"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "nobody"
[tool.flwr.app.components]
serverapp = "foreign.server:app"
clientapp = "foreign.client:app"
"""
FOREIGN_SERVER = """
import json
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    said = {{node: {{}} for node in grid.get_node_ids()}}
    for kind in ("train.steal", "query.hello"):
        records = RecordDict({{"config": ConfigRecord({{"give": "images"}})}})
        asked = [Message(records, dst_node_id=node, message_type=kind, ttl=120.0) for node in said]
        for reply in grid.send_and_receive(asked, timeout=120.0):
            if reply.has_error():
                text = reply.error.reason
            else:
                header = reply.content["header"]
                text = f"{{header['error']}}: {{header['message']}}"
            said[reply.metadata.src_node_id][kind] = text
    part = Path("{heard}.part")
    part.write_text(json.dumps(said))
    part.rename("{heard}")
"""
FOREIGN_CLIENT = """
from pathlib import Path
from flwr.clientapp import ClientApp

Path("{imported}").touch()
app = ClientApp()
"""
