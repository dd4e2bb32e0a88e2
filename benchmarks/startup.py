"""Seconds until each command has said something: medians of several fresh processes, beside a bare Python.

python benchmarks/startup.py --runs 5
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from report import Row, parser, publish

STUDY = """[study]
name = "startup"
[model]
base = "embedded:tiny"
[method]
name = "dpagg-ti"
[privacy]
unit = "record"
epsilon = 4.0
delta = 1e-5
clip_norm = 1.0
allow_noisy = true
[data]
caption = "a {token}"
[cohort]
min_sites = 3
units = { site-1 = 10, site-2 = 10, site-3 = 10 }
"""
LONG = STUDY.replace("dpagg-ti", "dpsgd-ti").replace("clip_norm", "sampling_rate = 0.001\nrounds = 20000\nclip_norm")
UNDERTONE = [sys.executable, "-c", "from undertone_cli.main import cli; cli(prog_name='undertone')"]
LIMITS = {
    "--help": 0.5,
    "plan, clip_norm a number": 2.0,
    "plan, 20,000 rounds at p = 0.001": 6.0,
    "plan, public rows not yet made": 30.0,
    "simulate, first progress line": 6.0,
}


def until_done(words: list[str], **environment: str) -> float:
    """Seconds of a whole process."""
    started, quiet = time.monotonic(), subprocess.DEVNULL
    subprocess.run(words, check=True, stdout=quiet, stderr=quiet, env=os.environ | environment)
    return time.monotonic() - started


def until_first_line(words: list[str]) -> float:
    """Seconds until the first line on stderr, where progress goes; the process is then stopped."""
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if process.stderr is None or not process.stderr.readline():
        raise RuntimeError(f"{words} said nothing")
    seconds = time.monotonic() - started
    process.kill()
    process.wait()
    process.stderr.close()
    return seconds


def write_data(folder: Path) -> None:
    """Thirty grey pictures of 32 x 32."""
    folder.mkdir()
    for number in range(30):
        Image.fromarray(np.full((32, 32), number * 8, dtype=np.uint8)).save(folder / f"{number:02d}.png")
    names = "".join(f"{number:02d}.png\n" for number in range(30))
    (folder / "metadata.csv").write_text("file_name\n" + names)


def main() -> None:
    """Measure and tabulate, with the limit of each."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--runs", type=int, default=5)
    chosen = arguments.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="undertone-startup-") as name:
        root = Path(name)
        write_data(root / "data")
        study = root / "study.toml"
        study.write_text(STUDY)
        long = root / "long.toml"
        long.write_text(LONG)
        os.environ["UNDERTONE_CACHE"] = str(root / "cache")
        simulate = [*UNDERTONE, "simulate", str(study), "--data", str(root / "data"), "--sites", "3"]
        cases = {
            "bare Python": lambda _: until_done([sys.executable, "-c", "pass"]),
            "--help": lambda _: until_done([*UNDERTONE, "--help"]),
            "plan, clip_norm a number": lambda _: until_done([*UNDERTONE, "plan", str(study)]),
            "plan, 20,000 rounds at p = 0.001": lambda _: until_done([*UNDERTONE, "plan", str(long)]),
            "plan, public rows not yet made": lambda run: until_done(
                [*UNDERTONE, "plan", str(study)], UNDERTONE_CACHE=str(root / f"cache {run}")
            ),
            "simulate, first progress line": lambda run: until_first_line([*simulate, "--out", str(root / f"{run}")]),
        }
        medians = {}
        for case, measure in cases.items():
            measure(-1)  # the first run reads files from disk that later ones find in memory
            medians[case] = statistics.median(measure(run) for run in range(chosen.runs))
    rows = [Row(case, "seconds, median", medians[case], limit, "limit") for case, limit in LIMITS.items()]
    rows.append(Row("--help", "seconds, median", medians["--help"], medians["bare Python"], "bare Python"))
    publish("start-up", rows, chosen.json)


if __name__ == "__main__":
    main()
