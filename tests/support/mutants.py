"""Take one check out of a copy of the package, and see which of its tests turns red."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_mutants(mutants: Iterable[tuple[str, str, str, str, Sequence[str]]]) -> int:
    """Print a line for each mutant that holds the word on the command line, or for all; 1 where one survived.

    Args:
        mutants: (check, file, text that must be there once, what takes its place, tests in the order they are run).
    """
    word, survived = sys.argv[1] if len(sys.argv) > 1 else "", 0
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        for check, file, old, new, tests in mutants:
            if word in check or word in file:
                red = first_red_test(folder, [f"tests/{test}" for test in tests], file, old, new)
                survived += not red
                print(f"| {check} | {file} | {red or 'SURVIVED'} |", flush=True)
    return 1 if survived else 0


def first_red_test(folder: Path, tests: list[str], file: str, old: str, new: str) -> str:
    """The first of `tests` that fails on the mutant; "" if none does."""
    path = folder / file
    source = path.read_text(encoding="utf-8")
    if source.count(old) != 1:
        raise SystemExit(f"{file}: {old!r} is there {source.count(old)} times; repair the list of mutants")
    path.write_text(source.replace(old, new), encoding="utf-8")
    packages = os.pathsep.join(str(folder / name) for name in ("common", "client", "server", "deployments"))
    # -B and no cache: a mutant of the same length and second must not be taken for the one before it.
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    command = [sys.executable, "-B", "-m", "pytest", *options]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": packages},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    finally:
        path.write_text(source, encoding="utf-8")
    red = [line for line in done.stdout.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/"))]
    return red[0].split(" ")[1].removeprefix("tests/") if done.returncode and red else ""


def copied(folder: Path) -> Path:
    """The package and its tests in an empty folder."""
    for part in ("common", "client", "server", "deployments", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder
