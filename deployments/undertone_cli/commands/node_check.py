"""`undertone node check`: whether a site is ready for a study."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from undertone.core.clock import utc_now
from undertone.core.durable import read_bytes, storage_errors
from undertone.core.joining import LARGEST_WELCOME
from undertone.core.progress import reporting
from undertone.preflight.running import run
from undertone.study.plan import Plan
from undertone.study.schema import load_study
from undertone_cli.console import Bars
from undertone_cli.verdicts import show
from undertone_client.checks.inspection import Inspection
from undertone_client.checks.registry import checks_of
from undertone_client.site.folder import SiteDir


@click.command("check")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.option("--study", type=click.Path(path_type=Path), help="Check the columns that this STUDY.toml needs, too.")
@click.option(
    "--plan",
    "plans",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A plan.json to check the site for; repeatable.",
)
@click.option(
    "--welcome",
    "welcomes",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A coordinator's newest welcome: is the site's manifest older? Repeatable.",
)
@click.option("--socket", type=click.Path(path_type=Path), help="The node's, instead of SITE_DIR/run/node.sock.")
@click.option("--offline", is_flag=True, help="Ask nobody: neither coordinators' servers nor the site's processes.")
@click.option("--device-memory", is_flag=True, help="Try one unit of each plan and of the study on random data; slow.")
@click.option("--details", is_flag=True, help="Name every bad record, and all figures: for the operator's eyes alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    site_dir: Path,
    study: Path | None,
    plans: Sequence[Path],
    welcomes: Sequence[Path],
    socket: Path | None,
    offline: bool,
    device_memory: bool,
    details: bool,
    as_json: bool,
) -> None:
    """Check whether a site is ready for a study: PASS, WARN or FAIL for each check, with a remedy.

    What is printed names no record, no unit and no count of either, so it can go into a ticket. With --details every
    bad line of the metadata, bad image and lost record of an approved plan is named, with figures: keep that output at
    the site. After approval a bad record is a zero row, which nobody outside can see; this is how you find it. Nothing
    is written. A site that has joined a federation asks each coordinator's server what anybody could ask it, as its
    SuperNode will (by the proxy that the environment names), and sends it 5 MB of zeros; --offline asks nobody.

    Exit code 2 where a check FAILs; WARN leaves it at 0.

    Example: undertone node check /srv/undertone/site --study study.toml --details
    """
    with ExitStack() as watched:
        if details:  # a bar counts records
            watched.enter_context(reporting(watched.enter_context(Bars())))
        inspection = Inspection(
            SiteDir(site_dir),
            utc_now(),
            [Plan.from_bytes(read_bytes(path)) for path in plans],
            None if study is None else load_study(study),
            offline=offline,
            socket=socket,
            welcomes=[_read(path) for path in welcomes],
        )
        verdicts = run(checks_of(inspection, device_memory=device_memory), inspection)
        show("site", inspection.site.config.site, verdicts, details=details, as_json=as_json)


def _read(path: Path) -> bytes:
    with storage_errors(path), path.open("rb") as stream:
        return stream.read(LARGEST_WELCOME + 1)
