"""`undertone node withdraw`: a plan that was approved, or a person who leaves."""

from pathlib import Path

import click

from undertone.errors import InputError
from undertone_cli.commands.node_plans import withdraw_plan
from undertone_cli.commands.node_units import withdraw_from_data


@click.command("withdraw")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.argument("digest", required=False)
@click.option("--unit", "unit", metavar="ID", help="A unit instead of a plan, such as a patient's id.")
@click.option("--data", "name", metavar="NAME", help="The unit's data set.")
@click.option("--yes", is_flag=True, help="Withdraw the unit without asking.")
def command(site_dir: Path, digest: str | None, unit: str | None, name: str | None, yes: bool) -> None:
    """Withdraw an approved plan (DIGEST), or a unit (--unit ID --data NAME), for good.

    A plan: the node answers it no more, and the budget that it has not charged is free again.

    A unit is never read again, whatever the metadata list. Studies that have it registered go on, with a zero row for
    it, or with its shard made anew without it, from their next attempt on; nobody outside can tell. What was made of
    its records is deleted: cached latents, rows of attempts that were not answered, what was made of its shard, its
    words in registrations. The ledger stays as it is.

    Examples: undertone node withdraw SITE_DIR 3f2a9c1b;
    undertone node withdraw SITE_DIR --unit P0417 --data chest
    """
    if digest is not None and unit is None and name is None:
        withdraw_plan(site_dir, digest)
    elif digest is None and unit is not None and name is not None:
        withdraw_from_data(site_dir, unit, name, yes)
    else:
        raise InputError("say which: the DIGEST of a plan, or --unit ID together with --data NAME")
