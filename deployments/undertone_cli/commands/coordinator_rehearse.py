"""`undertone coordinator rehearse`: every message of a study at every site, on drawn images."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import click

from undertone.core.bounds import PLAN_BYTES
from undertone.core.canonical import Json
from undertone.core.clock import utc_now
from undertone.core.durable import storage_errors
from undertone.errors import TooFewSites
from undertone.study.plan import Plan
from undertone.study.rehearsal import rehearsal_of
from undertone_cli.commands.coordinator_home import home_option, opened
from undertone_cli.commands.coordinator_runs import as_json, plan_of, print_json
from undertone_cli.console import Bars, lines
from undertone_cli.flower_app import flower_app
from undertone_server.home.folder import Home
from undertone_server.run_folder import RunFolder
from undertone_server.studies.flower_runs import stop_run
from undertone_server.studies.standing import Standing, standing
from undertone_server.studies.submitting import make_run, start

_POLL_SECONDS = 2.0
_OVER = ("rehearsed", "stopped")
_LONGEST_NAME = 40


@click.command("rehearse")
@click.argument("plan", type=click.Path(path_type=Path))
@home_option
@click.option("--minutes", type=click.IntRange(min=1), default=30, show_default=True, help="How long it may take.")
@as_json
def command(plan: Path, folder: Path | None, minutes: int, as_json: bool) -> None:
    """Run one round of PLAN, a STUDY.toml or a plan.json, at every site on drawn images, and say who took part.

    Nothing private is read, nothing is charged, nobody approves it, and nothing is released. What it shows is that
    messages, keys, models and devices work between all sites. A site's policy must allow the study. Where its rounds
    are of several stages, it is one round of each. Exit code 3 unless all sites took part.

    Example: undertone coordinator rehearse study.toml
    """
    home, now = opened(folder), utc_now()
    asked = _plan(plan, quiet=as_json)
    rehearsal = rehearsal_of(asked, f"{asked.study[:_LONGEST_NAME]}-rehearsal-{now:%d%H%M%S}")
    run = make_run(home, rehearsal, now, approval_days=0)
    number = start(home, run, flower_app(), now)
    with Bars() as bars:
        bars.line(f"rehearsing {asked.study} as {run.folder.name}")
        found = wait(home, run, number, minutes * 60.0)
    result: dict[str, Json] = {
        site: found.missing.get(site, "took part" if found.state == "rehearsed" else "was not reached")
        for site in rehearsal.cohort.units
    }
    if as_json:
        print_json({"name": found.name, "state": found.state, "because": found.because, "sites": result})
    else:
        lines([("state", found.state), *([("because", found.because)] if found.because else []), *result.items()])
    away = [site for site, what in result.items() if what != "took part"]
    if away:
        raise TooFewSites(f"{', '.join(away)} took no part in the rehearsal, for the reasons above")


def wait(home: Home, run: RunFolder, number: str, seconds: float, clock: Callable[[], datetime] = utc_now) -> Standing:
    """Where a rehearsal stands when it is over; one that takes longer is stopped.

    Args:
        home: whose SuperLink runs it.
        run: the rehearsal.
        number: Flower's of its run.
        seconds: how long it may take.
        clock: the time.
    """
    began = clock()
    while (found := standing(run)).state not in _OVER:
        if (clock() - began).total_seconds() > seconds:
            stop_run(home, number)
            return standing(run)
        time.sleep(_POLL_SECONDS)
    return found


def _plan(path: Path, *, quiet: bool) -> Plan:
    if path.suffix != ".json":
        return plan_of(path, quiet=quiet)
    with storage_errors(path), path.open("rb") as stream:
        return Plan.from_bytes(stream.read(PLAN_BYTES + 1))
