"""`undertone demo-deployment`: a study over a network, every part of it a process of its own on this machine."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from undertone.core.durable import exclusively
from undertone.core.loopback import with_loopback
from undertone.core.progress import reporter, reporting
from undertone.core.unit import Unit
from undertone.errors import FolderError, InputError
from undertone.models.pinned import files_digest, pin
from undertone.study.schema import load_study
from undertone_cli.commands.demo import write_digits
from undertone_cli.console import Bars, out, table
from undertone_cli.loopback.federation import RELEASED, LoopbackFederation
from undertone_cli.loopback.hospitals import PATIENT, Hospital, make_hospitals
from undertone_cli.loopback.processes import Processes
from undertone_server.run_folder import refuse_existing

STUDY = Path(__file__).with_name("demo_deployment.toml")
BASE, CAP, DELTA = "embedded:tiny", 8.0, 1e-5
_MOST_SECONDS = 1800.0
# Flower asks a proxy of the environment even for this machine, and tells its makers of each run unless told not to.
ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "NO_PROXY": with_loopback(""),
    "no_proxy": with_loopback(""),
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OMP_NUM_THREADS": "1",
}


class Stages:
    """Wall time by stage, in the order in which they ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs within."""
        began = time.monotonic()
        reporter().line(f"# {name}")
        yield
        self.seconds[name] = time.monotonic() - began


def study_text(unit: Unit, hospitals: Sequence[Hospital]) -> str:
    """STUDY.toml for these hospitals' published figures."""
    column = f'unit_column = "{PATIENT}"\n' if unit == "patient" else ""
    units = ", ".join(f"{one.name} = {one.published}" for one in hospitals)
    return STUDY.read_text(encoding="utf-8").format(unit=unit, column=column, units=units)


def decisions(study: Path, unit: Unit, hospitals: Sequence[Hospital]) -> dict[str, object]:
    """What each hospital's board decides, as keys of policy.toml: this study's method and model, and bounds."""
    return {
        "methods": [load_study(study).method.name],
        "models": [files_digest(dict(pin(BASE, None).files))],
        "noise": ["central"],
        "largest_sampling_rate": 1.0,
        "largest_rounds": 100,
        "fewest_sites": 3,
        "fewest_patients": sum(one.published for one in hospitals) if unit == "patient" else 0,
        "fewest_honest_shares": 2,
        "longest_approval_days": 30,
    }


def demo_deployment(folder: Path, data: Path | None) -> dict[str, float]:
    """Run the demo in a new folder; seconds of each stage. No process is left, however it ends.

    Raises:
        UndertoneError: see the logs in FOLDER/logs.
    """
    with exclusively(folder):
        refuse_existing(folder)
        if shutil.which("nginx") is None:
            raise InputError("nginx is not installed; on Debian: apt install nginx-light")
        try:
            (folder / "logs").mkdir(parents=True)
        except OSError as error:
            raise FolderError(f"{folder} cannot be made: {error.strerror}; choose another --out") from None
        if data is None:
            write_digits(folder, {"digits": 1.0})
            data = folder / "digits"
        stages = Stages()
        with Processes(folder / "logs", ENVIRONMENT) as processes:
            _study(folder, data, processes, stages)
        return stages.seconds


def _study(folder: Path, data: Path, processes: Processes, stages: Stages) -> None:
    with stages.stage("five hospitals, each with its own people"):
        unit, hospitals = make_hospitals(data, folder / "hospitals")
        study = folder / "study.toml"
        study.write_text(study_text(unit, hospitals), encoding="utf-8")
    federation = LoopbackFederation(folder, hospitals, processes)
    with stages.stage("keys, certificates, who is in"):
        federation.provision()
    with stages.stage("data sets and policies"):
        federation.add_data(unit, CAP, DELTA)
        federation.allow(**decisions(study, unit, hospitals))
    with stages.stage("start: SuperLink, nginx, and three processes at each hospital"):
        federation.start()
    with stages.stage("rehearsal on drawn images: nothing private is read, nothing charged"):
        federation.coordinator("rehearse", study)
    with stages.stage("plan, submitted; approved at each hospital"):
        run = federation.submit(study)
        federation.approve(run)
    with stages.stage("two rounds of secure aggregation, and the release"):
        last = federation.wait(run, _MOST_SECONDS)
        if last["state"] != RELEASED:
            raise InputError(f"the study is {last['state']}: {last['because']}; see {folder / 'logs'} and {run}")
    with stages.stage("release verified with the coordinator's key"):
        processes.undertone("verify", run / "release", "--coordinator", federation.key)


@click.command("demo-deployment")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="A new folder for everything.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="An imagefolder with metadata.csv; its column patient_id, where there is one, says whose each image is. By "
    "default handwritten digits.",
)
def command(folder: Path, data: Path | None) -> None:
    """A coordinator and five hospitals on this machine's loopback, over TLS, as they would be deployed.

    SuperLink behind nginx; node, relay and SuperNode at each hospital; each a process of its own. Every step is a
    command that is shown before it runs. All processes end with the demo.

    Needs nginx (on Debian: apt install nginx-light).
    """
    with Bars() as bars, reporting(bars):
        seconds = demo_deployment(folder.resolve(), data)
    table("wall time", ["stage", "seconds"], [(name, f"{value:.1f}") for name, value in seconds.items()])
    out.print(f"all in all {sum(seconds.values()):.0f} s; no process is left. Logs: {folder / 'logs'}", soft_wrap=True)
