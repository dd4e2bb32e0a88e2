"""`undertone node`: what a site's operator does."""

import click

from undertone_cli.commands.node_check import check


@click.group("node")
def command() -> None:
    """What a site's operator does with its SITE_DIR."""


command.add_command(check)
