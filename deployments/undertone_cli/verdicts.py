"""Verdicts of checks as lines or as JSON, and the exit code that follows: the same for a site and a coordinator."""

import json
from collections.abc import Iterable

import click

from undertone.core.text import shown
from undertone.preflight.verdict import Verdict, worst
from undertone_cli.console import out

_BAD = 2
_LONGEST = 4000


def show(kind: str, name: str, verdicts: Iterable[Verdict], *, details: bool, as_json: bool) -> None:
    """Print verdicts as they are found; end the command with 2 where one is a FAIL.

    Args:
        kind: "site" or "federation", the key of `name` in JSON.
        name: whose they are.
        verdicts: of its checks.
        details: whether to show what only the operator may see.
        as_json: one JSON object instead of lines.
    """
    found = []
    for verdict in verdicts:
        found.append(verdict)
        if not as_json:
            _print(verdict, details)
    status = worst(verdict.status for verdict in found)
    if as_json:
        listed = [_as_json(verdict, details) for verdict in found]
        click.echo(json.dumps({kind: name, "status": status, "checks": listed}))
    else:
        _line(f"{name}: {status}")
    if status == "FAIL":
        click.get_current_context().exit(_BAD)


def _print(verdict: Verdict, details: bool) -> None:
    _line(f"{verdict.status} {verdict.name}: {verdict.sentence}")
    if verdict.remedy:
        _line(f"     remedy: {verdict.remedy}")
    for detail in verdict.details if details else ():
        _line(f"     {shown(detail, _LONGEST)}")


def _as_json(verdict: Verdict, details: bool) -> dict[str, object]:
    values: dict[str, object] = {
        "name": verdict.name,
        "status": verdict.status,
        "sentence": verdict.sentence,
        "remedy": verdict.remedy,
    }
    return values | ({"details": list(verdict.details)} if details else {})


def _line(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
