"""Groups of commands, each imported when it is asked for; and what to install where its libraries are not there."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

from undertone.errors import NotInstalled

# Which extra brings a library that the base installation lacks. The base is what carries messages: a relay.
_NODE = (
    "PIL",
    "accelerate",
    "diffusers",
    "dp_accounting",
    "huggingface_hub",
    "peft",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
EXTRAS = dict.fromkeys(_NODE, "node") | {
    "matplotlib": "coordinator",
    "tensorboard": "coordinator",
    "sklearn": "demo",
    "psutil": "ray",
    "ray": "ray",
}
# A site's commands; all others are a coordinator's, whose extra holds a node's.
_SITE = ("node", "log")


class LazyGroup(click.Group):
    """Lists its commands without importing them.

    `commands` of a click group are there from the start; these come from `places`: name -> ("module:attribute", what
    the command does).
    """

    def __init__(self, *arguments: Any, places: Mapping[str, tuple[str, str]], **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._places = places

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(self._places)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module."""
        if name not in self._places:
            return None
        module, _, attribute = self._places[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for --help, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._places.items()])


def not_installed(command: str, error: ModuleNotFoundError) -> NotInstalled | None:
    """What to say where a command's library is not there; None where no extra would bring it.

    Args:
        command: the first word behind `undertone`.
        error: of Python.
    """
    library = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(library)
    if extra is None:
        return None
    if extra == "node" and command not in _SITE:
        extra = "demo" if command == "demo" else "coordinator"
    return NotInstalled(
        f"`undertone {command}` needs {library}, which is not installed here: pip install -c constraints.txt "
        f'"undertone-federated[{extra}]", or ".[{extra}]" in a clone'
    )
