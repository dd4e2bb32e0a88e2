"""`undertone node`: what a site's operator does."""

import click

from undertone_cli.commands import (
    node_data,
    node_init,
    node_join,
    node_ledger,
    node_plans,
    node_serve,
    node_units,
    node_withdraw,
)
from undertone_cli.commands.node_check import check
from undertone_client.site import budget


@click.group("node")
def command() -> None:
    """What a site's operator does with its SITE_DIR."""


command.add_command(node_init.command)
command.add_command(node_join.request)
command.add_command(node_join.join)
command.add_command(node_data.data_commands(budget))
command.add_command(check)
command.add_command(node_ledger.command)
for _plans in node_plans.COMMANDS:
    command.add_command(_plans)
command.add_command(node_withdraw.command)
command.add_command(node_serve.command)
for _units in (node_units.forget, node_units.unit_of):
    command.add_command(_units)
