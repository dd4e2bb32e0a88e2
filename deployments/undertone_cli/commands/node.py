"""`undertone node`: what a site's operator does."""

import click

from undertone_cli.lazy import LazyGroup

_HERE = "undertone_cli.commands"
COMMANDS = {
    "init": (f"{_HERE}.node_init:command", "Make a SITE_DIR: keys, an empty ledger, a policy that allows nothing yet."),
    "request": (f"{_HERE}.node_join:request", "Write the signed request with which a coordinator takes this site in."),
    "join": (f"{_HERE}.node_join:join", "Join a federation, or take its newer manifest: a coordinator's welcome."),
    "data": (f"{_HERE}.node_data:command", "A site's data sets."),
    "check": (f"{_HERE}.node_check:check", "Check whether a site is ready for a study."),
    "start": (f"{_HERE}.node_start:command", "Run a site: its node, and a SuperNode and a relay for each coordinator."),
    "serve": (f"{_HERE}.node_serve:command", "The node itself, at a Unix socket."),
    "relay": (f"{_HERE}.node_relay:command", "Carry messages between a SuperNode and the node; needs no torch."),
    "ledger": (f"{_HERE}.node_ledger:command", "What was spent, and what is left."),
    "policy": (f"{_HERE}.node_plans:policy", "What the site allows; what it would refuse of a plan."),
    "receive": (f"{_HERE}.node_plans:receive", "Take a plan that came another way than by the coordinator's program."),
    "pending": (f"{_HERE}.node_plans:pending", "Plans that wait for a person."),
    "approve": (f"{_HERE}.node_plans:approve_command", "Read what a plan does and costs, and approve it."),
    "end": (f"{_HERE}.node_plans:end_command", "End a study here that is over: what it did not charge is free again."),
    "withdraw": (f"{_HERE}.node_withdraw:command", "End a plan here, or take one unit out of everything to come."),
    "forget": (f"{_HERE}.node_units:forget", "Delete what is kept of a study."),
    "unit-of": (f"{_HERE}.node_units:unit_of", "What a patient's id means here, and what is kept of her."),
}


@click.group("node", cls=LazyGroup, places=COMMANDS)
def command() -> None:
    """What a site's operator does with its SITE_DIR."""
