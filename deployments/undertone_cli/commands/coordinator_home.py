"""The option --home, which all commands of a coordinator share."""

from pathlib import Path

import click

from undertone_server.home.folder import Home, default_folder

home_option = click.option(
    "--home",
    "folder",
    type=click.Path(path_type=Path),
    help="COORDINATOR_DIR; by default $UNDERTONE_HOME, else ~/.undertone.",
)


def opened(folder: Path | None) -> Home:
    """The COORDINATOR_DIR that a command means.

    Raises:
        FolderError: there is none.
    """
    return Home.open(folder or default_folder())
