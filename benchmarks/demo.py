"""The demo, several times with fresh noise: distances with their controls, wall time, peak memory.

python benchmarks/demo.py --runs 3 --keep FOLDER
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Row, parser, publish

from undertone_cli.diagnostics import diagnostics_of


def run_once(folder: Path) -> tuple[float, dict[str, float]]:
    """One `undertone demo` in a process of its own: seconds and distances."""
    started = time.monotonic()
    command = [str(Path(sys.executable).with_name("undertone")), "demo", "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    return time.monotonic() - started, diagnostics_of(folder / "run")


def main() -> None:
    """Run, tabulate, and fail where a control is not beaten."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--keep", type=Path, help="keep the runs in this folder")
    chosen = arguments.parse_args()
    root = chosen.keep or Path(tempfile.mkdtemp(prefix="undertone-demo-"))
    rows, beaten = [], True
    for number in range(1, chosen.runs + 1):
        seconds, distances = run_once(root / f"demo-{number}")
        after = distances["after"]
        controls = {name: value for name, value in distances.items() if name == "before" or "random" in name}
        beaten &= all(after < value for value in controls.values())
        for name, value in (controls | {"non-private mean": distances["non-private mean"]}).items():
            rows.append(Row(f"digits, epsilon 4, run {number}", "KID after", after, value, name))
        rows.append(Row(f"digits, epsilon 4, run {number}", "wall seconds", seconds, 360.0, "limit"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    rows.append(Row("digits, epsilon 4, all runs", "peak memory GiB", peak, 3.0, "limit"))
    publish("undertone demo", rows, chosen.json)
    if chosen.keep is None:
        shutil.rmtree(root)
    if not beaten:
        sys.exit("after is not below before and every random direction")


if __name__ == "__main__":
    main()
