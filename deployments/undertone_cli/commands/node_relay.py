"""`undertone node relay`: from a SuperNode to the node and back. Loads neither torch nor anything of a study."""

from pathlib import Path

import click

from undertone_cli.processes import log_to_stderr, stopped_by_signals
from undertone_client.relay.presence import present
from undertone_client.relay.relay import run_relay
from undertone_client.relay.secret import read_secret, secret_of
from undertone_client.service.client import NodeClient
from undertone_client.service.place import socket_of


@click.command("relay")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.option("--coordinator", metavar="NAME", required=True, help="Whose SuperNode this is, as policy.toml names him.")
@click.option("--runtime-api", metavar="127.0.0.1:PORT", required=True, help="The SuperNode's Runtime API.")
@click.option("--secret", type=click.Path(path_type=Path), help="Instead of SITE_DIR/run/superexec-NAME.secret.")
@click.option("--socket", type=click.Path(path_type=Path), help="Instead of SITE_DIR/run/node.sock.")
def command(site_dir: Path, coordinator: str, runtime_api: str, secret: Path | None, socket: Path | None) -> None:
    """Carry messages between a SuperNode and the node, until it is stopped.

    The SuperNode runs with --isolation process and, as its --superexec-auth-secret-file, the same secret, which is made
    here if it is not there. The app that a coordinator submits is never unpacked; a message that is not Undertone's is
    refused; while the node is away its coordinator is told so. `undertone node start` runs all three together.

    Example: undertone node relay SITE_DIR --coordinator hub --runtime-api 127.0.0.1:9094
    """
    log_to_stderr()
    known = read_secret(secret or secret_of(site_dir, coordinator))
    place = socket_of(site_dir, socket)
    with stopped_by_signals() as stop, NodeClient(place) as node, present(site_dir, coordinator) as say:
        run_relay(runtime_api, known, node, stop, say)
