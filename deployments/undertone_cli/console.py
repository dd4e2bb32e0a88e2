"""What a person at a terminal sees: bars, tables, one line for an error."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from undertone.core.text import shown
from undertone.errors import InputError

# Whoever wrote a text, it moves no cursor and sets no colour: no escape sequences, no markup, no emoji codes.
out = Console(emoji=False)
err = Console(stderr=True, emoji=False)
_LONGEST = 4000


class Bars:
    """A `undertone.core.progress.Reporter` that draws bars on a terminal and prints lines elsewhere."""

    def __init__(self, console: Console = err) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,  # elsewhere lines alone: a bar would bury an error
        )

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """One bar; a line at its beginning where no bar can be drawn."""
        if not self._console.is_terminal:
            self.line(f"{label} ({total})")
        bar = self._progress.add_task(escape(shown(label)), total=total)
        yield lambda steps: self._progress.advance(bar, steps)
        self._progress.stop_task(bar)

    def line(self, text: str) -> None:
        """One line above the bars."""
        self._console.print(shown(text, _LONGEST), markup=False, emoji=False)


def failed(name: str, message: str) -> None:
    """One line on stderr for an error."""
    line = shown(" ".join(message.split()), _LONGEST)  # libraries' messages may have several lines
    err.print(Text.assemble((name, "bold red"), f": {line}"), soft_wrap=True, highlight=False)


@contextmanager
def resumable(folder: Path, again: Sequence[str]) -> Iterator[None]:
    """Within, whoever stops a command by Ctrl-C is told how to go on: `again` is the command that does."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.exists():
            err.print(Text(f"go on with it: {shown(shlex.join(again), _LONGEST)}"), soft_wrap=True, highlight=False)
        else:
            err.print(Text("nothing was written: give the same command again"), soft_wrap=True, highlight=False)
        raise


def typed(option: str, what: str) -> str:
    """What a person types where an option was left out.

    Raises:
        InputError: nobody is at a terminal; names the option.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{option} is missing: {what}")
    answer: str = click.prompt(what, err=True)
    return answer.strip()


def confirmed(question: str) -> None:
    """Go on if a person at a terminal says so.

    Raises:
        InputError: nobody is there, or the answer is no.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{question} Nobody can be asked here, so nothing was changed; say --yes if it is meant")
    if not click.confirm(question, err=True):
        raise InputError("nothing was changed")


def lines(rows: Sequence[tuple[str, object]]) -> None:
    """Print what a person copies, a line each: a table folds keys and paths."""
    for name, value in rows:
        out.print(f"  {name}: {shown(str(value), _LONGEST)}", soft_wrap=True, markup=False, highlight=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a small table; the first column is text, the others numbers or words."""
    drawn = Table(title=_plain(title), title_justify="left")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(_plain, row))
    out.print(drawn)


def _plain(text: str) -> str:
    return escape(shown(text, _LONGEST))
