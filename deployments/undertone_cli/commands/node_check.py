"""`undertone node check`: whether a site is ready for a study."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from undertone.core.clock import utc_now
from undertone.core.durable import read_bytes
from undertone.core.progress import reporting
from undertone.core.text import shown
from undertone.study.plan import Plan
from undertone.study.schema import load_study
from undertone_cli.console import Bars, out
from undertone_client.checks.inspection import Inspection
from undertone_client.checks.registry import CHECKS, SLOW, run
from undertone_client.checks.verdict import Verdict, worst
from undertone_client.site.folder import SiteDir

_BAD = 2
_LONGEST = 4000


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
@click.option("--device-memory", is_flag=True, help="Try one unit of each plan and of the study on random data; slow.")
@click.option("--details", is_flag=True, help="Name every bad record, and all figures: for the operator's eyes alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    site_dir: Path,
    study: Path | None,
    plans: Sequence[Path],
    device_memory: bool,
    details: bool,
    as_json: bool,
) -> None:
    """Check whether a site is ready for a study: PASS, WARN or FAIL for each check, with a remedy.

    What is printed names no record, no unit and no count of either, so it can go into a ticket. With --details every
    bad line of the metadata, bad image and lost record of an approved plan is named, with figures: keep that output at
    the site. After approval a bad record is a zero row, which nobody outside can see; this is how you find it. Nothing
    is written, nothing is sent.

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
        )
        verdicts = []
        for verdict in run({**CHECKS, **SLOW} if device_memory else CHECKS, inspection):
            verdicts.append(verdict)
            if not as_json:
                _print(verdict, details)
    status = worst(verdict.status for verdict in verdicts)
    site = inspection.site.config.site
    if as_json:
        listed = [_as_json(verdict, details) for verdict in verdicts]
        click.echo(json.dumps({"site": site, "status": status, "checks": listed}))
    else:
        _line(f"{site}: {status}")
    if status == "FAIL":
        click.get_current_context().exit(_BAD)


def _print(verdict: Verdict, details: bool) -> None:
    _line(f"{verdict.status} {verdict.name}: {verdict.sentence}")
    if verdict.remedy:
        _line(f"     remedy: {verdict.remedy}")
    for detail in verdict.details if details else ():
        _line(f"     {shown(detail, _LONGEST)}")


def _as_json(verdict: Verdict, details: bool) -> dict[str, object]:
    values: dict[str, object] = {
        "name": verdict.name,
        "status": verdict.status,
        "sentence": verdict.sentence,
        "remedy": verdict.remedy,
    }
    return values | ({"details": list(verdict.details)} if details else {})


def _line(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
