"""`undertone coordinator submit | status | stop | resume`: the studies of a coordinator."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from undertone.core.canonical import Json
from undertone.core.clock import utc_now
from undertone.core.progress import reporting
from undertone.errors import InputError
from undertone.release.start import start_of
from undertone.study.clip_check import check_clip, refuse_clip
from undertone.study.plan import Plan
from undertone.study.resolve import refuse_noise, resolved
from undertone.study.schema import load_study
from undertone_cli.commands.coordinator_home import home_option, opened
from undertone_cli.commands.plan import BROKEN_ROUND, show
from undertone_cli.console import Bars, lines, out, table
from undertone_cli.flower_app import flower_app
from undertone_server.studies.flower_runs import numbers_of, stop_run
from undertone_server.studies.standing import Standing, run_named, runs_of, standing
from undertone_server.studies.submitting import make_run, start

_DAYS = 14
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
named = click.argument("name")


@click.command("submit")
@click.argument("study", type=click.Path(path_type=Path))
@home_option
@click.option(
    "--approval-days",
    type=click.IntRange(min=0, max=365),
    default=_DAYS,
    show_default=True,
    help="How long the first round waits for sites that have not approved the plan.",
)
@as_json
def submit(study: Path, folder: Path | None, approval_days: int, as_json: bool) -> None:
    """Resolve STUDY.toml to a plan, sign it, write COORDINATOR_DIR/runs/NAME-DIGEST8 and start the study on Flower.

    The plan reaches each site with the first message and waits there for approval; or send the two files that are
    named. The study waits for the sites that have not approved, and goes on without them when --approval-days are over.

    Example: undertone coordinator submit study.toml
    """
    home, now = opened(folder), utc_now()
    plan = plan_of(study, quiet=as_json)
    run = make_run(home, plan, now, approval_days, None if plan.start is None else start_folder(study))
    number = start(home, run, flower_app(), now)
    said: dict[str, Json] = {
        "name": run.folder.name,
        "digest": plan.digest,
        "plan": str(run.folder / "plan.json"),
        "signature": str(run.folder / "plan.sig"),
        "flower_run": number,
    }
    if as_json:
        print_json(said)
        return
    lines(
        [
            ("study", run.folder.name),
            ("digest", plan.digest),
            ("plan and signature, for sites", f"{said['plan']} {said['signature']}"),
            ("at a site", "undertone node receive SITE_DIR plan.json plan.sig, then undertone node approve"),
            ("look after it with", f"undertone coordinator status {run.folder.name}"),
        ]
    )


@click.command("status")
@click.argument("name", required=False)
@home_option
@as_json
def status(name: str | None, folder: Path | None, as_json: bool) -> None:
    """Where a study stands: rounds, attempts used, epsilon spent so far, who is missing and why; without NAME all.

    Epsilon spent is an odometer: the claim is the plan's, whole, however early a study ends.

    Example: undertone coordinator status chest-x-ray
    """
    home = opened(folder)
    found = [standing(run) for run in ([run_named(home, name)] if name else runs_of(home))]
    if as_json:
        print_json({"studies": [one.as_json() for one in found]})
        return
    if name:
        lines(_rows(found[0]))
        return
    rows = [[one.name, one.state, f"{one.rounds_done} of {one.rounds}", str(len(one.missing))] for one in found]
    table(f"studies of {home.settings.name}", ["study", "state", "rounds", "missing"], rows)


@click.command("stop")
@named
@home_option
@as_json
def stop(name: str, folder: Path | None, as_json: bool) -> None:
    """Stop a study. What is charged stays charged; `resume` goes on with it.

    Example: undertone coordinator stop chest-x-ray
    """
    home = opened(folder)
    run = run_named(home, name)
    numbers = numbers_of(run)
    if not numbers:
        raise InputError(f"{run.folder.name} was never started; `undertone coordinator resume` starts it")
    stop_run(home, numbers[-1])
    _said({"name": run.folder.name, "stopped": numbers[-1]}, f"{run.folder.name} is stopped", as_json)


@click.command("resume")
@named
@home_option
@as_json
def resume(name: str, folder: Path | None, as_json: bool) -> None:
    """Go on with a study that was stopped or died: the same RUN, a new run of Flower.

    What is durable is used and never made twice; an attempt in which sites were asked for vectors counts.

    Example: undertone coordinator resume chest-x-ray
    """
    home = opened(folder)
    run = run_named(home, name)
    number = start(home, run, flower_app(), utc_now())
    _said({"name": run.folder.name, "flower_run": number}, f"{run.folder.name} goes on", as_json)


def plan_of(study: Path, *, quiet: bool) -> Plan:
    """The plan of STUDY.toml, refused where its release would be noise; shown unless `quiet`.

    Raises:
        StudyError, ModelError: what is missing or cannot be.
        Refused: the noise or C makes the study hopeless.
    """
    with Bars() as bars, reporting(bars):
        written = load_study(study)
        found = resolved(written, start=start_of(written))
        check = check_clip(found)
    if not quiet:
        show(found, check)
    refuse_noise(found.plan, found.base)
    refuse_clip(check, allow_noisy=found.plan.privacy.allow_noisy)
    return found.plan


def start_folder(study: Path) -> Path | None:
    """The release that STUDY.toml names as its start, of which a RUN keeps a copy."""
    named = load_study(study).model.start
    return None if named is None else Path(named)


def print_json(said: Mapping[str, Json]) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(said, indent=2, sort_keys=True))


def _rows(one: Standing) -> Sequence[tuple[str, object]]:
    spare = [("a broken round", BROKEN_ROUND)] if one.no_attempt_to_spare else []
    waits = [("because", one.because)] if one.because else []
    missing = [(f"{site} is missing", reason) for site, reason in sorted(one.missing.items())]
    return [
        ("study", one.name),
        ("digest", one.digest),
        ("state", one.state + (f", since {one.since}" if one.since else "")),
        *waits,
        ("rounds", f"{one.rounds_done} of {one.rounds}"),
        ("attempts used", f"{one.attempts_used} of {one.max_attempts}"),
        *spare,
        ("epsilon spent so far", f"{one.epsilon_spent:.4f} of {one.epsilon:.4f} at delta {one.delta:g} (an odometer)"),
        ("not approved by", ", ".join(one.not_approved) or "nobody that was asked"),
        *missing,
    ]


def _said(said: Mapping[str, Json], line: str, as_json: bool) -> None:
    if as_json:
        print_json(said)
    else:
        out.print(line, soft_wrap=True, markup=False, highlight=False)
