"""`undertone node`: what a site's operator does."""

import click

from undertone_cli.commands import node_ledger, node_plans
from undertone_cli.commands.node_check import check


@click.group("node")
def command() -> None:
    """What a site's operator does with its SITE_DIR."""


command.add_command(check)
command.add_command(node_ledger.command)
for _plans in node_plans.COMMANDS:
    command.add_command(_plans)
