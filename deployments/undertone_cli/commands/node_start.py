"""`undertone node start`: all processes of a site under one account."""

from pathlib import Path

import click

from undertone_cli.processes import free_ports, log_to_stderr, stopped_by_signals
from undertone_client.relay.secret import secret_of
from undertone_client.service.place import socket_of
from undertone_client.supervise.child import Child
from undertone_client.supervise.connections import Connection, read_connections
from undertone_client.supervise.node_child import NodeChild
from undertone_client.supervise.programs import node_words, relay_words, supernode_words
from undertone_client.supervise.supernode import SuperNodeChild
from undertone_client.supervise.supervisor import Pair, supervise


@click.command("start")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.option("--coordinator", "chosen", multiple=True, metavar="NAME", help="This one alone; repeatable.")
@click.option("--socket", type=click.Path(path_type=Path), help="Instead of SITE_DIR/run/node.sock.")
def command(site_dir: Path, chosen: tuple[str, ...], socket: Path | None) -> None:
    """Run a site: the node, and for each coordinator Flower's SuperNode and a relay, until it is stopped.

    What ends is started again; what each process says stands here, behind its name. A coordinator's server that does
    not take this site's SuperNode is asked again every 10 s for 90 s, and then both causes are named. Stop it by Ctrl-C
    or SIGTERM: all processes end. Where systemd keeps services, three units do the same.

    Example: undertone node start /srv/undertone/site
    """
    log_to_stderr()
    place = socket_of(site_dir, socket)
    pairs = [_pair(site_dir, connection, place) for connection in read_connections(site_dir, chosen)]
    node = NodeChild("node", node_words(site_dir, place))
    with stopped_by_signals() as stop:
        supervise(node, pairs, lambda: node.answers, stop)


def _pair(site_dir: Path, to: Connection, socket: Path) -> Pair:
    """The SuperNode and the relay of one coordinator, which meet at a port of loopback that is free now."""
    (port,), secret = free_ports(1), secret_of(site_dir, to.name)
    return Pair(
        SuperNodeChild(f"{to.name}/supernode", supernode_words(to, port, secret)),
        Child(f"{to.name}/relay", relay_words(site_dir, to.name, port, secret, socket)),
    )
