"""Studies that are killed and started again: the process that forks them, their folders, and how they end."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.auditor import Auditor

ROOT = Path(__file__).parents[2]
DRIVER = [sys.executable, "-m", "tests.support.crash_driver"]
DONE, BAD_INPUT, REFUSED, TRACEBACK = 0, 2, 3, 70
KILLED = -9

SITES = {"north": 6, "east": 4, "south": 4}
STUDIES: dict[str, dict[str, Any]] = {
    "one shot": {"sizes": SITES, "keep_rows": False},
    "rounds": {"sizes": SITES, "rounds": 3, "max_attempts": 9, "sampling_rate": 0.9},
    "pair": {"sizes": {"north": 4, "east": 4}, "rounds": 2, "max_attempts": 5, "sampling_rate": 0.9},
    "pair, p = 1": {"sizes": {"north": 4, "east": 4}, "max_attempts": 3},
    "summing": {"sizes": SITES, "micro_batch": 2, "keep_rows": False, "summing": True},
    "summing, rounds": {
        "sizes": SITES,
        "micro_batch": 2,
        "summing": True,
        "rounds": 3,
        "max_attempts": 9,
        "sampling_rate": 0.9,
    },
    "secure": {"sizes": SITES, "aggregation": {"mode": "secagg", "threshold": 3, "colluders": 1}},
    "secure rounds": {
        "sizes": SITES,
        "aggregation": {"mode": "secagg", "threshold": 3, "colluders": 1},
        "rounds": 2,
        "max_attempts": 6,
        "sampling_rate": 0.9,
    },
    "distributed": {
        "sizes": SITES,
        "aggregation": {"mode": "secagg", "threshold": 3, "colluders": 1},
        "noise": "distributed",
        "rounds": 2,
        "max_attempts": 6,
        "sampling_rate": 0.9,
    },
    "long": {"sizes": SITES, "rounds": 4, "max_attempts": 400, "sampling_rate": 0.9, "sigma": 8192, "micro_batch": 1},
}


@dataclass(frozen=True)
class Run:
    """One process: the study in `world`, and where it dies.

    Without `site` the whole process dies at the `count`-th hit of `failpoint`. With it each message to a node is
    answered by a process of its own, and that site's one dies there, in `round` alone; the coordinator lives on.
    `kill_after` seconds: SIGKILL from outside at that moment. `seed`: pinned randomness; None: the kernel's.

    `fault`: from the `count`-th time on that something is written under this folder of the world, or with
    `reading` opened at all, the operating system says `error`. `file_limit`: no file may grow beyond so many bytes.
    """

    world: str
    seed: int | None = None
    failpoint: str = ""
    count: int = 1
    site: str = ""
    round: int = 1
    kill_after: float | None = None
    fault: str = ""
    reading: bool = False
    error: int = errno.ENOSPC
    file_limit: int | None = None


def coordinator_stream(round_: int, attempt: int) -> str:
    return f"coordinator/{round_}/{attempt}"


def node_stream(site: str, round_: int, attempt: int) -> str:
    return f"{site}/{round_}/{attempt}"


class Forks:
    """A driver process that stays; see `crash_driver`."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._process = subprocess.Popen(DRIVER, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: Mapping[str, Any]) -> Any:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the driver has no pipes")
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def build(self, folder: Path, sizes: Mapping[str, int], **options: Any) -> Path:
        """A world that has not started; tests take copies of it."""
        self.ask({"build": str(folder), "base": str(self._base), "sizes": dict(sizes), "options": options})
        return folder

    def run(self, run: Run) -> int:
        return int(self.ask(asdict(run)))

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=60)


@dataclass
class Story:
    """A copy of a world, what its processes did, and an auditor who looks after each of them."""

    forks: Forks
    world: Path
    seed: int | None
    ends: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, forks: Forks, template: Path, world: Path, seed: int | None) -> "Story":
        """RUN and SITE_DIRs are copied; the images stay where they are."""
        for name in ("run", "sites"):
            shutil.copytree(template / name, world / name)
        return cls(forks, world, seed)

    def __post_init__(self) -> None:
        self.auditor = Auditor(self.world)

    def copy(self, world: Path) -> "Story":
        """The same story so far, to be told on in another folder."""
        for name in ("run", "sites"):
            shutil.copytree(self.world / name, world / name)
        return Story(self.forks, world, self.seed)

    def process(self, **changes: Any) -> int:
        """One process from start to death or end; nothing on disk may contradict the rules afterwards."""
        self.ends.append(self.forks.run(replace(Run(str(self.world), self.seed), **changes)))
        self.auditor.look()
        return self.ends[-1]

    def unaudited(self, **changes: Any) -> int:
        """A process on files that are damaged, which the auditor would find."""
        self.ends.append(self.forks.run(replace(Run(str(self.world), self.seed), **changes)))
        return self.ends[-1]

    def finish(self) -> int:
        """A process that nobody kills; if it is done, nothing may be left over. A release needs no process."""
        if (self.world / "run" / "release").exists():
            end = DONE
            self.auditor.look()
        else:
            end = self.process()
        if end == DONE:
            self.auditor.look_at_the_end()
        return end

    def witnessed(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.auditor.witness() if line["kind"] == kind]

    def release(self) -> dict[str, bytes]:
        """What a release says: its weights; the rest holds hashes of other entries when attempts were lost."""
        return {path.name: path.read_bytes() for path in (self.world / "run" / "release").glob("*.safetensors")}


def run_alone(run: Run, failpoint: str) -> int:
    """A fresh interpreter for one run, killed where the environment says."""
    environment = os.environ | {"UNDERTONE_TEST_FAILPOINT": failpoint}
    command = [*DRIVER, json.dumps(asdict(run))]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=120).returncode


class Library:
    """Studies built once, told as often as needed."""

    def __init__(self, forks: Forks, folder: Path) -> None:
        self._forks, self._folder = forks, folder
        self._told = 0

    def begin(self, study: str, seed: int | None = 7) -> Story:
        """A story of one of the studies, in a folder of its own."""
        template = self._folder / study.replace(" ", "-")
        if not template.exists():
            self._forks.build(template, **STUDIES[study])
        self._told += 1
        return Story.begin(self._forks, template, self._folder / f"story-{self._told}", seed)
