"""`undertone coordinator check`: whether servers, keys and sites are ready for a study."""

from pathlib import Path

import click

from undertone.core.clock import utc_now
from undertone.preflight.running import run
from undertone_cli.commands.coordinator_home import home_option, opened
from undertone_cli.verdicts import show
from undertone_server.checks.inspection import Inspection
from undertone_server.checks.registry import CHECKS


@click.command("check")
@home_option
@click.option("--details", is_flag=True, help="Dates, addresses and what each error said, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(folder: Path | None, details: bool, as_json: bool) -> None:
    """Check whether a coordinator is ready: PASS, WARN or FAIL for each check, with a remedy.

    Keys, certificates and the manifest; the SuperLink and its ports; nginx, asked on this machine as a site asks it,
    with 5 MB of zeros; which sites are connected. Nothing is written. Without --details the output names sites and
    digests of plans, no path and no address, so it can go into a ticket. Run it before a study, and every day of one.

    Exit code 2 where a check FAILs; WARN leaves it at 0.

    Example: undertone coordinator check
    """
    inspection = Inspection(opened(folder), utc_now())
    show("federation", inspection.home.settings.name, run(CHECKS, inspection), details=details, as_json=as_json)
