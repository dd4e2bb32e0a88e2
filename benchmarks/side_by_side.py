"""Two jobs on one machine: the demo alone, then two demos at once, with the environment that the commands set.

python benchmarks/side_by_side.py [--keep FOLDER]

Twice the work on the same cores can take no less than twice as long; what is above that is what waiting costs.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Row, parser, publish

WANTED = 2.2


def started(folder: Path) -> subprocess.Popen[bytes]:
    """One `undertone demo` in a process of its own."""
    command = [str(Path(sys.executable).with_name("undertone")), "demo", "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds_of(*folders: Path) -> float:
    """Wall seconds until all demos have ended that are started at once."""
    began = time.monotonic()
    jobs = [started(folder) for folder in folders]
    if any(job.wait() for job in jobs):
        sys.exit("a demo failed; run `undertone demo` to see why")
    return time.monotonic() - began


def main() -> None:
    """Run, tabulate, and fail above the ratio that was promised."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--keep", type=Path, help="keep the runs in this folder")
    chosen = arguments.parse_args()
    root = chosen.keep or Path(tempfile.mkdtemp(prefix="undertone-side-by-side-"))
    alone = seconds_of(root / "alone")
    both = seconds_of(root / "first", root / "second")
    publish("two demos side by side", [Row("demo", "wall seconds of two", both, alone, "one alone")], chosen.json)
    if chosen.keep is None:
        shutil.rmtree(root)
    if both > WANTED * alone:
        sys.exit(f"two side by side took {both / alone:.2f} times one alone, wanted {WANTED}")


if __name__ == "__main__":
    main()
