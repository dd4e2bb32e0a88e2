"""A whole study through the command line, and what its tests look at."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from tests.support.images import write_folder
from tests.support.studies import study_with, write_study
from undertone.core.keys import public_hex
from undertone.privacy.stages import Sum
from undertone_cli.main import cli
from undertone_server.run_folder import RunFolder

SITES = ("north", "east", "south")
MAIN = "from undertone_cli.main import cli; cli(prog_name='undertone')"


@dataclass(frozen=True)
class FinishedRun:
    """A finished simulation: its folders, its metadata, and the private sum that must not be found in it."""

    run: Path
    study: Path
    data: Path
    rows: list[dict[str, str]]
    private_sum: NDArray[Any]

    @property
    def release(self) -> Path:
        return self.run / "release"


def call(*arguments: object) -> Result:
    """The command line in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def spawn(*arguments: object) -> subprocess.Popen[str]:
    """The command line as a process of its own, one thread wide."""
    words = [sys.executable, "-c", MAIN, *(str(argument) for argument in arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def coordinator_of(run: Path) -> list[str]:
    """The options that name the coordinator of a RUN: with them `verify` ends with 0."""
    return ["--coordinator", public_hex(RunFolder(run).key())]


def tiny_study(path: Path, base: Path, **changes: Any) -> Path:
    """A dpagg-ti study of three sites on `base`, its steps few."""
    wanted = {"method": {"name": "dpagg-ti", "steps": 3}, "cohort.units": dict.fromkeys(SITES, 6)}
    return write_study(
        path, study_with(wanted | {key.replace("__", "."): value for key, value in changes.items()}, str(base))
    )


def finish_run(folder: Path, base: Path) -> FinishedRun:
    """Simulate, and catch Q on its way past."""
    rows = write_folder(folder / "data", 36, 32, sites=SITES)
    study = tiny_study(folder / "study.toml", base)
    sums: list[Sum] = []
    keep = RunFolder.keep_sum

    def caught(self: RunFolder, round_: int, attempt: int, total: Sum, salt: bytes) -> None:
        sums.append(total)
        keep(self, round_, attempt, total, salt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "keep_sum", caught)
        result = call("simulate", study, "--data", folder / "data", "--split-by", "site", "--out", folder / "run")
    if result.exit_code:
        raise RuntimeError(result.output) from result.exception
    return FinishedRun(folder / "run", study, folder / "data", rows, sums[0].values)
