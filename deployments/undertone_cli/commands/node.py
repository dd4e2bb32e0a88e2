"""`undertone node`: what a site's operator does."""

from pathlib import Path

import click

from undertone.core.progress import reporting
from undertone.errors import DataError
from undertone.study.schema import load_study
from undertone_cli.commands import node_init, node_units
from undertone_cli.console import Bars, out
from undertone_client.registration.checking import check_site
from undertone_client.site.folder import SiteDir


@click.group("node")
def command() -> None:
    """What a site's operator does with its SITE_DIR."""


command.add_command(node_init.command)
for one in (node_units.withdraw, node_units.forget, node_units.unit_of):
    command.add_command(one)


@command.command("check")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.option("--study", type=click.Path(path_type=Path), help="Check the columns that this STUDY.toml needs, too.")
def check(site_dir: Path, study: Path | None) -> None:
    """Name every bad record of a site: each line of its metadata, each image, each record of an approved plan.

    Run it before you approve a plan: what is wrong then can be repaired. After approval a bad record is a zero
    row, which nobody outside can see; this command is how you find it. Nothing is written, nothing is sent.

    Lines that begin with WARN name what is accepted and may be wrong: images with almost no range, hidden files that
    were skipped, images that no line lists, empty columns of the caption. Exit code 2 where a record is bad.

    Example: undertone node check /srv/undertone/site --study study.toml
    """
    with Bars() as bars, reporting(bars):
        site = SiteDir(site_dir)
        checked = check_site(site, None if study is None else load_study(study))
    for remark in checked.remarks:
        out.print(f"WARN {remark}", soft_wrap=True, markup=False, highlight=False)
    for problem in checked.problems:
        out.print(str(problem), soft_wrap=True, markup=False, highlight=False)
    counted = f"{checked.records} records of {checked.units} units, {checked.registrations} approved plans"
    out.print(f"{site.config.site}: {counted}")
    if checked.problems:
        raise DataError(f"{len(checked.problems)} problems at {site.config.site}, named above; repair or remove them")
