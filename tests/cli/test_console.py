"""Nothing that somebody else wrote moves the cursor, sets a colour or fills the screen."""

import importlib
import io

import pytest
from rich.console import Console

from tests.support.runs import call
from undertone.errors import FolderError
from undertone_cli import console, main
from undertone_cli.commands import node
from undertone_cli.console import Bars

EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x1b[1;31mOK\x1b[0m\r\nround 1: all present \x9b31m \u202e [bold red]markup[/] :smile: [/]"
)


def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    # Else a command that is first loaded within would keep what is patched.
    for place, _ in [*main.COMMANDS.values(), *node.COMMANDS.values()]:
        importlib.import_module(place.partition(":")[0])
    stream = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, Console(file=stream, width=200, color_system=None, emoji=False))
    return stream


def harmless(text: str) -> None:
    assert all(line.isprintable() for line in text.splitlines()), repr(text)
    assert "[bold red]markup[/] :smile: [/]" in " ".join(text.split())
    assert "\\x1b]0;owned" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_a_progress_line(terminal: bool) -> None:
    stream = io.StringIO()
    shown = Bars(Console(file=stream, force_terminal=terminal, color_system=None, width=1000))
    shown.line(f"round 1: e is missing: {EVIL}")
    harmless(stream.getvalue())
    assert len(stream.getvalue().splitlines()) == 1


def test_a_task_and_its_bar() -> None:
    stream = io.StringIO()
    bars = Bars(Console(file=stream, color_system=None, width=1000))
    with bars, bars.task(EVIL, 2) as progress:
        progress(1)
    harmless(stream.getvalue())
    stream = io.StringIO()
    bars = Bars(Console(file=stream, force_terminal=True, color_system=None, width=1000))
    with bars, bars.task(EVIL, 2) as progress:
        progress(1)
    assert "owned" in stream.getvalue()
    for sequence in ("\x1b]0;", "\x1b[2J", "\x9b", "\u202e"):
        assert sequence not in stream.getvalue()


def test_tables_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = printed(monkeypatch)
    console.lines([("key", EVIL)])
    harmless(stream.getvalue())
    stream.truncate(0)
    console.table(EVIL, ["", ""], [(EVIL, EVIL)])
    assert stream.getvalue().count("\\x1b]0;owned") >= 3
    assert "\x1b" not in stream.getvalue()
    assert ":smile:" in stream.getvalue()


def test_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = printed(monkeypatch)

    def failing(*_: object) -> None:
        raise FolderError(EVIL + "A" * 1_000_000)

    monkeypatch.setattr("undertone_cli.commands.verify.verify", failing)
    result = call("verify", "anywhere")
    assert result.exit_code == 2
    harmless(stream.getvalue())
    assert stream.getvalue().startswith("FolderError: ")
    assert len(stream.getvalue()) < 5000
    assert main.cli is not None


def test_endless_text_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = printed(monkeypatch)
    Bars(console.out).line("A" * 1_000_000)
    console.lines([("key", "A" * 1_000_000)])
    assert len(stream.getvalue()) < 10_000
