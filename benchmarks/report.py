"""Shared by the benchmarks: measured rows as a table and, with --json FILE, as JSON with machine and versions."""

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "diffusers", "transformers", "flwr", "dp-accounting", "numpy")


@dataclass(frozen=True)
class Row:
    """One figure beside its peer: what we measured, what the named peer gave in the same run."""

    case: str
    metric: str
    ours: float
    peer: float
    peer_name: str

    @property
    def ratio(self) -> float:
        """Ours / peer."""
        return self.ours / self.peer if self.peer else float("nan")


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the option every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, help="also write the rows here")
    return made


def publish(title: str, rows: list[Row], file: Path | None) -> None:
    """Print the rows; write them as JSON where asked."""
    print(f"\n{title}\n{machine()}\n")
    print(f"| {'case':38} | {'metric':24} | {'ours':>10} | {'peer':>10} | {'peer is':28} | ratio |")
    print("|" + "|".join("-" * width for width in (40, 26, 12, 12, 30, 7)) + "|")
    for row in rows:
        print(
            f"| {row.case:38} | {row.metric:24} | {row.ours:10.4g} | {row.peer:10.4g} | {row.peer_name:28} "
            f"| {row.ratio:5.2f} |"
        )
    if file is not None:
        listed = [asdict(row) | {"ratio": row.ratio} for row in rows]
        file.write_text(json.dumps({"title": title, "machine": machine(), "rows": listed}, indent=1) + "\n")


def finished(results: Path | None) -> list[dict[str, Any]]:
    """The runs that stand in the file; a last line that was cut short does not count."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines() if results and results.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            print(f"{results}: a line that was cut short is left out", file=sys.stderr)
    return found


def machine() -> str:
    """Processor, cores, versions and commit, on one line."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
    return f"{cpu}, {cores} cores; Python {platform.python_version()}; {versions}; commit {commit.stdout.strip()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
