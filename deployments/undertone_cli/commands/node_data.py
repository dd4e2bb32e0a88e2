"""`undertone node data`: a site's data sets. Counts are printed for its operator alone."""

from pathlib import Path

import click

from undertone.core.progress import reporter, reporting
from undertone.core.text import shown
from undertone.errors import InputError
from undertone_cli.console import Bars, out, table
from undertone_client.registration import moving
from undertone_client.registration.remarks import remarks
from undertone_client.site import budget
from undertone_client.site.datasets import data_sets, new_data_set
from undertone_client.site.enrol import Caps, Found, add_data_set
from undertone_client.site.folder import SiteDir
from undertone_client.site.unit_index import read_index

_UNITS = ("patient", "record", "site")


@click.command("add")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--unit", type=click.Choice(_UNITS), required=True, help="What privacy protects, for life.")
@click.option("--unit-column", metavar="COLUMN", help="The column that names the patient, for life.")
@click.option("--publish", type=int, required=True, help="The public round figure of its units.")
@click.option("--cap-epsilon", type=float, required=True, help="What all studies together may cost a unit, ever.")
@click.option("--cap-delta", type=float, required=True, help="Of the cap; well below 1 / the number of units.")
@click.option("--metadata", type=click.Path(path_type=Path), help="The metadata file, where it is not in FOLDER.")
@click.option("--ids-as-written", is_flag=True, help="Unit ids that look alike are different people.")
@click.pass_obj
def add(
    books: Caps,
    site_dir: Path,
    name: str,
    folder: Path,
    unit: str,
    unit_column: str | None,
    publish: int,
    cap_epsilon: float,
    cap_delta: float,
    metadata: Path | None,
    ids_as_written: bool,
) -> None:
    """Add a data set: every line is read and every image decoded, so what is wrong is named now.

    Unit, unit column and cap are fixed for life, and no patient and no image may stand in two data sets: each would
    have two budgets. --publish is all that anybody outside learns of its size. It is a round figure (two digits
    and noughts; below 100 a multiple of five) within 20 % of the count, it is yours to choose, and nothing updates
    it.

    Example: undertone node data add SITE_DIR chest /data/chest --unit patient --unit-column patient_id
    --publish 210 --cap-epsilon 8 --cap-delta 1e-6
    """
    data = new_data_set(
        name=name,
        folder=str(folder.resolve()),
        metadata=None if metadata is None else str(metadata.resolve()),
        unit=unit,
        unit_column=unit_column,
        ids_as_written=ids_as_written,
        publish=publish,
        epsilon=cap_epsilon,
        delta=cap_delta,
    )
    site = SiteDir(site_dir)
    with Bars() as bars, reporting(bars):
        found = add_data_set(site, data, books)
        _remark(found)
    _say(f"{name} is added: {_counts(found)}, published as {publish}")
    if cap_delta * publish > 1:
        _say(f"WARN --cap-delta {cap_delta:g} is above 1 / {publish}: one unit in so many may lose more than the cap")


@click.command("update")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.argument("name")
def update(site_dir: Path, name: str) -> None:
    """Let new records join a data set; its budget goes on, and its published figure stays.

    They are checked as by `add`. Studies that are approved already keep the records that they were approved with;
    later ones register what is there now. Where you have changed folder or metadata in datasets/NAME.toml, approved
    studies are refused until this command has looked at the new place; then they go on there.
    """
    site = SiteDir(site_dir)
    with Bars() as bars, reporting(bars):
        found = moving.update(site, name)
        _remark(found)
    _say(f"{name}: {_counts(found)}; {found.joined} units joined")
    if found.gone:
        _say(f"{found.gone} units that it had once are not listed now; they keep what they have spent")
    if found.gone_files:
        _say(f"{found.gone_files} files that it had once are gone or changed")
    published = data_sets(site.folder)[name].publish
    _say(f"published stays {published}")


@click.command("list")
@click.argument("site_dir", type=click.Path(path_type=Path))
def listed(site_dir: Path) -> None:
    """The site's data sets, with counts as they were read last: for your eyes alone."""
    site, rows = SiteDir(site_dir), []
    for data in data_sets(site.folder).values():
        index = read_index(site, data)
        unit = data.unit if data.unit_column is None else f"{data.unit} by {data.unit_column}"
        counts = [str(index.units), str(index.records), str(data.publish)]
        rows.append([data.name, unit, *counts, f"{data.epsilon:g}, {data.delta:g}", data.folder])
    if not rows:
        raise InputError(f"{site.config.site} has no data set yet; `undertone node data add` makes one")
    table(
        f"data sets of {site.config.site}",
        ["data set", "unit", "units", "images", "published", "cap (epsilon, delta)", "folder"],
        rows,
    )


def data_commands(books: Caps) -> click.Group:
    """The group `data`; `books` is where the caps of new data sets are entered."""
    return click.Group(
        "data",
        {"add": add, "update": update, "list": listed},
        help="What images a site has, whom they show, and what all studies together may learn of them.",
        context_settings={"obj": books},
    )


def _remark(found: Found) -> None:
    """What is no error and still worth a line."""
    for line in remarks(found.table, ""):
        reporter().line(line)


def _counts(found: Found) -> str:
    out_ = f", {found.withdrawn} withdrawn units stay out" if found.withdrawn else ""
    return f"{len(found.table.records)} records of {found.units} units{out_}"


def _say(text: str) -> None:
    out.print(shown(text, 500), soft_wrap=True, markup=False, highlight=False)


command = data_commands(budget)
