"""`undertone coordinator start`: the SuperLink, and nginx where it is asked for, in the foreground."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from undertone_cli.commands.coordinator_home import home_option, opened
from undertone_cli.commands.coordinator_nodes import say_registered
from undertone_cli.console import out
from undertone_server.home.fleet import Registered
from undertone_server.home.servers import Server, run, servers


@click.command("start")
@home_option
@click.option("--nginx", is_flag=True, help="Run nginx from here too, with COORDINATOR_DIR/nginx/standalone.conf.")
@click.option("--print", "print_only", is_flag=True, help="Start nothing: print the commands and their environment.")
def command(folder: Path | None, nginx: bool, print_only: bool) -> None:
    """Run the SuperLink in the foreground, with TLS, node authentication and the sites that are in.

    Configuration of nginx and of Flower's CLI is written anew from coordinator.toml first. Ctrl-C or SIGTERM ends all
    of it. For systemd, --print shows what the units run.

    Example: undertone coordinator start --nginx
    """
    home = opened(folder)
    home.check_certificates()
    home.write_configuration()
    programs = servers(home, nginx=nginx)
    if print_only:
        _print(programs)
        return

    def ready(done: Registered) -> None:
        say_registered(done)
        reached = home.settings.fleet if nginx else f"https://127.0.0.1:{home.settings.superlink_port}, behind nginx"
        _say(f"ready: {home.settings.name} on {reached}")

    _say(run(home, programs, ready))


def _print(programs: Sequence[Server]) -> None:
    """Shell lines; of the environment what is not the caller's own."""
    for program in programs:
        own = {name: value for name, value in program.variables.items() if os.environ.get(name) != value}
        _say(shlex.join(["env", *(f"{name}={value}" for name, value in own.items()), *program.argv]))


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
