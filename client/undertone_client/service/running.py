"""A SITE_DIR's node as a program: it answers at its socket until it is told to stop."""

import threading
from collections.abc import Callable
from pathlib import Path

from undertone_client.node import Node
from undertone_client.service.place import socket_of
from undertone_client.service.queue import PreparationQueue
from undertone_client.service.server import NodeService, serving
from undertone_client.site.folder import SiteDir

_SECONDS_TO_END = 10.0


def run_node(folder: Path, named: Path | None, started: Callable[[str, Path], None], stop: threading.Event) -> bool:
    """Serve a SITE_DIR until `stop` is set.

    Args:
        folder: the SITE_DIR.
        named: where the socket shall lie; None for its place in SITE_DIR.
        started: called with the site's name and the socket once requests are answered.
        stop: ends it; the preparation that runs then ends behind its next block, and goes on after the next start.

    Returns:
        whether that preparation has ended; where it has not, its process may be killed: what it made is durable.

    Raises:
        FolderError: no SITE_DIR, another node serves it, or the socket cannot be made.
    """
    site, socket = SiteDir(folder), socket_of(folder, named)
    queue = PreparationQueue(site.log)
    node = Node(folder, preparations=queue)
    try:
        with serving(NodeService(node.handle, node.state_due), folder, socket):
            started(site.config.site, socket)
            stop.wait()
    finally:
        ended = queue.end(_SECONDS_TO_END)
    return ended
