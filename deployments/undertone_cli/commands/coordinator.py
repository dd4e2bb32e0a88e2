"""`undertone coordinator`: what a coordinator's operator does."""

import click

from undertone_cli.commands import (
    coordinator_init,
    coordinator_nodes,
    coordinator_rehearse,
    coordinator_runs,
    coordinator_start,
)


@click.group("coordinator")
def command() -> None:
    """What a coordinator's operator does with COORDINATOR_DIR: --home, else $UNDERTONE_HOME, else ~/.undertone."""


command.add_command(coordinator_init.command)
for _nodes in coordinator_nodes.COMMANDS:
    command.add_command(_nodes)
command.add_command(coordinator_start.command)
for _runs in coordinator_runs.COMMANDS:
    command.add_command(_runs)
command.add_command(coordinator_rehearse.command)
