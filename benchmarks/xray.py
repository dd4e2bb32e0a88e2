"""Chest X-rays of four hospitals, patients as units: distance before and after, with controls.

    python benchmarks/xray.py --data FOLDER [--epsilon 1 4 10] [--runs 1] [--keep FOLDER]

FOLDER is an imagefolder with the columns patient_id and site (UNDERTONE_XRAY names it too). Without it the
benchmark says so and ends.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from report import Row, parser, publish

from undertone_cli.diagnostics import diagnostics_of
from undertone_cli.simulate import simulate

STUDY = Path(__file__).parents[1] / "examples" / "chest-x-ray.toml"


def main() -> None:
    """Run each epsilon, tabulate."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, default=os.environ.get("UNDERTONE_XRAY"))
    arguments.add_argument("--epsilon", type=float, nargs="+", default=[1.0])
    arguments.add_argument("--runs", type=int, default=1)
    arguments.add_argument("--keep", type=Path, help="keep the runs in this folder")
    chosen = arguments.parse_args()
    if chosen.data is None:
        print("skipped: no chest X-rays; give --data FOLDER or set UNDERTONE_XRAY")
        return
    root = chosen.keep or Path(tempfile.mkdtemp(prefix="undertone-xray-"))
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for epsilon in chosen.epsilon:
        study = root / f"epsilon-{epsilon:g}.toml"
        study.write_text(STUDY.read_text().replace("epsilon = 1.0", f"epsilon = {epsilon}"))
        for number in range(1, chosen.runs + 1):
            run = root / f"epsilon-{epsilon:g}-run-{number}"
            simulate(study, Path(chosen.data), run, split_by="site", holdout=0.3)
            distances = diagnostics_of(run)
            rows += [
                Row(f"dpagg-ti, epsilon {epsilon:g}, run {number}", "KID after", distances["after"], value, name)
                for name, value in distances.items()
                if name != "after"
            ]
    publish("chest X-rays, unit patient, four sites", rows, chosen.json)
    if chosen.keep is None:
        shutil.rmtree(root)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
