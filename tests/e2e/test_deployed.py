"""One secure round over SuperLink, SuperNodes and relays, each a process of its own, as three hospitals would run them.

The three nodes answer from this process, at their sockets: the dummy method is known here, and torch is loaded already.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil

from tests.support.deployed import Processes, dummy_app, processes, start_superlink, submit, wait_until
from tests.support.hand_session import plain_sum
from tests.support.world import World, secure
from undertone.wire.messages import Kind, Request
from undertone_cli.processes import free_ports
from undertone_client.relay.secret import secret_of
from undertone_client.service.place import socket_of
from undertone_client.service.server import NodeService, serving

SITES = ("east", "north", "south")


def start_site(running: Processes, site: Path, superlink: int) -> None:
    """A SuperNode and its relay."""
    (port,), secret = free_ports(1), secret_of(site, "hub")
    api = f"127.0.0.1:{port}"
    words = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{superlink}", "--isolation", "process"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--superexec-auth-secret-file", str(secret)]
    running.start(f"supernode-{site.name}", words)
    relay = ["node", "relay", str(site), "--coordinator", "hub", "--runtime-api", api]
    running.start(f"relay-{site.name}", [sys.executable, "-m", "undertone_cli.main", *relay])


def test_a_secure_round_over_three_supernodes(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(dict.fromkeys(SITES, 4), aggregation=secure(3), min_sites=3)
    asked: dict[str, list[Kind]] = {site: [] for site in SITES}
    with ExitStack() as stack:
        running = stack.enter_context(processes(tmp_path / "flower"))
        superlink = start_superlink(running)
        for site, folder in world.sites.items():
            node = world.node(site)

            def handle(request: Request, node=node, site=site):
                asked[site].append(request.kind)
                return node.handle(request)

            stack.enter_context(serving(NodeService(handle, node.state_due), folder, socket_of(folder)))
            start_site(running, folder, superlink)
        for site in SITES:
            running.says(f"supernode-{site}", "SuperNode ID: ", 90)
            running.says(f"relay-{site}", "the SuperNode knows this relay", 90)
        submit(running, dummy_app(tmp_path / "app"), world.run.folder)
        noised = world.round_folder() / "noised-001.npy"
        wait_until(noised.exists, "no sum was opened", 90)
        wait_until(lambda: world.run.kept_state(1) is not None, "no state", 60)
        relays = {site: running.log(f"relay-{site}") for site in SITES}
    attempt, values, survivors = world.run.kept_noised(1)
    assert (attempt, survivors) == (1, SITES)
    assert np.array_equal(values, plain_sum(world, SITES) + np.load(world.run.folder / "drawn.npy"))
    assert world.charges() == [(1, 1)]
    for site in SITES:
        assert world.charges(site) == [(1, 1)]
        wanted = ["hello", "prepare", "share_keys", "masked_input", "consistency_check", "unmasking"]
        assert [kind for kind in asked[site] if kind != "ready"] == wanted
        (pid,) = re.findall(r"relay (\d+) begins", relays[site])  # one process for all messages
        assert relays[site].count(": answered ") == len(asked[site])
        assert not psutil.pid_exists(int(pid))
    assert str(os.getpid()) not in pid
