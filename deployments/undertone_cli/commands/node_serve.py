"""`undertone node serve`: the node as a service on a Unix socket."""

import os
import sys
from pathlib import Path

import click

from undertone_cli.console import err
from undertone_cli.processes import stopped_by_signals
from undertone_client.supervise.node_child import ANSWERS


@click.command("serve")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="Where the socket shall lie, if not at SITE_DIR/run/node.sock: a path of 107 bytes at the most.",
)
def command(site_dir: Path, socket: Path | None) -> None:
    """Answer requests at a Unix socket until Ctrl-C or SIGTERM.

    Its relay hands it what a coordinator asks. The socket is the owner's alone. One node serves a SITE_DIR. Killed at
    any moment, it goes on after the next start: what it answered is durable, and what it was preparing is begun where
    it was.

    Example: undertone node serve /srv/undertone/site
    """
    from undertone_client.service.running import run_node  # loads torch, which `undertone node --help` need not

    with stopped_by_signals() as stop:
        ended = run_node(site_dir, socket, _started, stop)
    if not ended:  # in the middle of a long block: a thread that computes ends with its process alone
        sys.stderr.flush()
        os._exit(0)


def _started(site: str, socket: Path) -> None:
    err.print(f"{site}{ANSWERS}{socket}", soft_wrap=True, markup=False, highlight=False)
