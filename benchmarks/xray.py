"""Chest X-rays of four hospitals, patients as units: each method at each epsilon, distances with controls.

    python benchmarks/xray.py --data FOLDER [--methods dp-lora ...] [--epsilons 1 4 10] [--seeds 1 2 3]
                              [--results FILE] [--keep FOLDER] [--json FILE]

FOLDER is an imagefolder with the columns patient_id and site (UNDERTONE_XRAY names it too). Without it the benchmark
says so and ends. Each finished run adds one line to FILE, and a run that stands there is not made again, so the table
can be made in pieces. A seed numbers a repetition: noise and coins are the system's and never repeat, and which
patients are held out depends on the data alone. Studies: examples/xray-*.toml and chest-x-ray.toml.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import Row, machine, parser, publish

from undertone.methods.registry import METHODS
from undertone.study.plan import Plan
from undertone_cli.commands.simulate import simulate
from undertone_cli.diagnostics import diagnostics_of

EXAMPLES = Path(__file__).parents[1] / "examples"
STUDIES = {
    "dpagg-ti": "chest-x-ray.toml",
    "dpsgd-ti": "xray-dpsgd-ti.toml",
    "dp-lora": "xray-dp-lora.toml",
    "dp-ldm": "xray-dp-ldm.toml",
}
HOLDOUT = 0.3


def study_text(method: str, epsilon: float) -> str:
    """The example's study at another epsilon; its noise may exceed what `plan` would let pass."""
    lines = (EXAMPLES / STUDIES[method]).read_text(encoding="utf-8").splitlines()
    changed = [f"epsilon = {epsilon}" if line.startswith("epsilon =") else line for line in lines]
    if not any(line.startswith("allow_noisy") for line in changed):
        changed.insert(changed.index("[privacy]") + 1, "allow_noisy = true")
    return "\n".join(changed) + "\n"


def run_once(method: str, epsilon: float, seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """One study from nothing to its distances, and what it cost."""
    folder.mkdir(parents=True)
    study = folder / "study.toml"
    study.write_text(study_text(method, epsilon), encoding="utf-8")
    wall, cpu = time.monotonic(), time.process_time()
    simulate(study, data, folder / "run", split_by="site", holdout=HOLDOUT)
    plan = Plan.from_bytes((folder / "run" / "plan.json").read_bytes())
    return {
        "method": method,
        "epsilon": epsilon,
        "seed": seed,
        "distance": diagnostics_of(folder / "run"),
        "values": plan.method.dimension,
        "rounds": plan.privacy.rounds,
        "noise_to_signal": plan.privacy.noise_to_signal,
        "epsilon_claimed": plan.privacy.epsilon,
        "options": plan.method.options,
        "wall_seconds": time.monotonic() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "machine": machine(),
    }


def finished(results: Path) -> list[dict[str, Any]]:
    """The runs that stand in the file; a last line that was cut short does not count."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            print(f"{results}: a line that was cut short is left out", file=sys.stderr)
    return found


def rows_of(runs: list[dict[str, Any]]) -> list[Row]:
    """After, beside each of what it must be compared with, and the time it took."""
    rows = []
    for run in runs:
        case, distance = f"{run['method']}, epsilon {run['epsilon']:g}, run {run['seed']}", run["distance"]
        rows += [
            Row(case, "KID after", distance["after"], value, name)
            for name, value in distance.items()
            if name != "after"
        ]
        rows.append(Row(case, "CPU seconds", run["cpu_seconds"], run["wall_seconds"], "wall seconds"))
    return rows


def main() -> None:
    """Run what is missing, tabulate what was asked for."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, default=os.environ.get("UNDERTONE_XRAY"))
    arguments.add_argument("--methods", nargs="+", default=list(STUDIES), choices=list(METHODS))
    arguments.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 10.0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments.add_argument("--results", type=Path, help="one JSON line for each finished run")
    arguments.add_argument("--keep", type=Path, help="keep the runs in this folder")
    chosen = arguments.parse_args()
    if chosen.data is None:
        print("skipped: no chest X-rays; give --data FOLDER or set UNDERTONE_XRAY")
        return
    root = chosen.keep or Path(tempfile.mkdtemp(prefix="undertone-xray-"))
    results = chosen.results or root / "results.jsonl"
    wanted = [(m, e, s) for s in chosen.seeds for e in chosen.epsilons for m in chosen.methods]
    for method, epsilon, seed in wanted:
        if any((run["method"], run["epsilon"], run["seed"]) == (method, epsilon, seed) for run in finished(results)):
            continue
        folder = root / f"{method}-epsilon-{epsilon:g}-run-{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
        run = run_once(method, epsilon, seed, Path(chosen.data), folder)
        with results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(run) + "\n")
        if chosen.keep is None:
            shutil.rmtree(folder)
    runs = [run for run in finished(results) if (run["method"], run["epsilon"], run["seed"]) in wanted]
    publish("chest X-rays, unit patient, four sites", rows_of(runs), chosen.json)
    if chosen.keep is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
