"""Groups of commands, each imported when it is asked for."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

from undertone_cli.extras import not_installed


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

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module.

        Raises:
            NotInstalled: it needs a library that an extra brings, and that is not here.
        """
        if name not in self._places:
            return None
        module, _, attribute = self._places[name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            groups = ctx.command_path.split()[1:]  # without the program
            missing = not_installed(" ".join([*groups, name]), error.name or "")
            if missing is None:
                raise
            raise missing from None
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for --help, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._places.items()])
