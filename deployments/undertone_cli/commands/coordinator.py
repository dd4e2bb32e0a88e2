"""`undertone coordinator`: what a coordinator's operator does."""

import click

from undertone_cli.lazy import LazyGroup

_HERE = "undertone_cli.commands"
COMMANDS = {
    "init": (f"{_HERE}.coordinator_init:command", "Make COORDINATOR_DIR: signing key, certificates, configuration."),
    "add-node": (f"{_HERE}.coordinator_nodes:add_node", "Accept sites by their request files; write the welcome."),
    "remove-node": (f"{_HERE}.coordinator_nodes:remove_node", "Take a site out, here and at Flower."),
    "manifest": (f"{_HERE}.coordinator_nodes:manifest", "Show the newest federation manifest, or renew it."),
    "rotate": (f"{_HERE}.coordinator_nodes:rotate", "Replace the server's certificate, the CA or the signing key."),
    "sync": (f"{_HERE}.coordinator_nodes:sync", "Tell the SuperLink which sites are in."),
    "start": (f"{_HERE}.coordinator_start:command", "Run the SuperLink, and nginx if asked, in the foreground."),
    "check": (f"{_HERE}.coordinator_check:command", "Check whether servers, keys and sites are ready for a study."),
    "rehearse": (f"{_HERE}.coordinator_rehearse:command", "One round at every site on drawn images; nothing charged."),
    "submit": (f"{_HERE}.coordinator_runs:submit", "Plan and sign a study, and start it."),
    "status": (f"{_HERE}.coordinator_runs:status", "Where a study stands, and who is missing."),
    "stop": (f"{_HERE}.coordinator_runs:stop", "Stop a study; what is charged stays charged."),
    "resume": (f"{_HERE}.coordinator_runs:resume", "Go on with a study that was stopped or died."),
}


@click.group("coordinator", cls=LazyGroup, places=COMMANDS)
def command() -> None:
    """What a coordinator's operator does with COORDINATOR_DIR: --home, else $UNDERTONE_HOME, else ~/.undertone."""
