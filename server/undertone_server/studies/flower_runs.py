"""Runs of Flower, started, listed and stopped by its own command line, with the configuration of COORDINATOR_DIR."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undertone.core.canonical import canonical_json
from undertone.core.durable import read_json, write_durable
from undertone.core.quoting import toml_text
from undertone.core.text import REASON, shown
from undertone.errors import FolderError, SuperLinkUnreachable
from undertone_server.home.flower_files import program
from undertone_server.home.folder import Home
from undertone_server.run_folder import RunFolder

_SECONDS = 120.0
_RUNS, _CONFIG = "flower.json", "flower.toml"
FINISHED = "finished"


def start_run(home: Home, run: RunFolder, app: Path) -> str:
    """Start a run of Flower for RUN and note its number there.

    Args:
        home: whose SuperLink runs it.
        run: the study.
        app: the folder of the Flower app, which holds no code.

    Returns:
        Flower's number of the run.

    Raises:
        SuperLinkUnreachable: it does not run, or refuses; its reason.
    """
    config = run.folder / _CONFIG  # a file: Flower's shell syntax for values has no escapes
    write_durable(config, f"run-dir = {toml_text(str(run.folder.resolve()))}\n".encode())
    found = _flwr(home, "run", str(app), home.connection, "--run-config", str(config))
    number = found.get("run-id")
    if not isinstance(number, str) or not number.isdecimal():
        raise SuperLinkUnreachable("Flower started a run and did not say which; `flwr list` shows it")
    write_durable(run.folder / _RUNS, canonical_json([*numbers_of(run), number]))
    return number


def numbers_of(run: RunFolder) -> list[str]:
    """Flower's numbers of the runs that were started for RUN, in order.

    Raises:
        FolderError: the file that has them is damaged.
    """
    path = run.folder / _RUNS
    if not path.is_file():
        return []
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(one, str) and one.isdecimal() for one in found):
        raise FolderError(f"{path} does not list the runs of Flower; restore it, or remove it")
    return [str(one) for one in found]


def state_of(home: Home, number: str) -> str:
    """What Flower says of a run: "pending", "starting", "running", "finished:completed", ":failed" or ":stopped".

    Raises:
        SuperLinkUnreachable: it does not answer, or does not know the run.
    """
    runs = _flwr(home, "list", home.connection, "--run-id", number).get("runs")
    first = runs[0] if isinstance(runs, list) and runs else {}
    return shown(str(first.get("status", "unknown") if isinstance(first, dict) else "unknown"), 80)


def stop_run(home: Home, number: str) -> None:
    """Stop a run.

    Raises:
        SuperLinkUnreachable: it cannot be stopped; Flower's reason.
    """
    _flwr(home, "stop", number, home.connection)


def _flwr(home: Home, *words: str) -> Mapping[str, Any]:
    """One command of Flower's CLI, and what it says in JSON."""
    try:
        done = subprocess.run(
            [program("flwr"), *words, "--format", "json"],
            env=home.flower_environment(),
            cwd=home.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SuperLinkUnreachable(f"flwr {words[0]} gave no answer: {shown(str(error), REASON)}") from None
    try:
        said = json.loads(done.stdout)
    except (ValueError, RecursionError):
        said = None
    if done.returncode == 0 and isinstance(said, dict) and said.get("success") is True:
        return said
    why = said.get("error-message") if isinstance(said, dict) else None
    text = " ".join(str(why or (done.stderr or done.stdout).decode("utf-8", "replace")).split())
    raise SuperLinkUnreachable(
        f"flwr {words[0]} failed: {shown(text[-REASON:], REASON)}; is the SuperLink running (`undertone coordinator "
        "start`)?"
    )
