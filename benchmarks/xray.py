"""Chest X-rays of four hospitals, patients as units: each method at each epsilon, distances with controls.

    python benchmarks/xray.py --data FOLDER [--methods dp-lora ...] [--epsilons 1 4 10] [--seeds 1 2 3] [--finding]
                              [--images N] [--options LINE ...] [--results FILE] [--keep FOLDER] [--json FILE]

FOLDER is an imagefolder with the columns patient_id and site (UNDERTONE_XRAY names it too). Without it the benchmark
says so and ends. Each finished run adds one line to FILE, and a run that stands there is not made again, so the table
can be made in pieces. A seed numbers a repetition: noise and coins are the system's and never repeat, and which
patients are held out depends on the data alone. Studies: examples/xray-*.toml and chest-x-ray.toml; `--options` are
further lines of their [method], such as "steps = 120".

`--finding` is about a label that the base does not know, pneumonia or none: a word for each class (dpagg-ti, dpsgd-ti),
or the finding in the caption (dp-lora, dp-ldm). What counts is the AUC on held-out patients of a classifier trained on
drawn images, with its bootstrap interval by patient, beside the floor, base, random directions, real images, shuffled
classes, and a logistic regression under the same epsilon on public features (private_classifier.py).
Pneumonia may be confounded with portable films (lying, front to back): the AUC of real images holds that too.
"""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from private_classifier import regressed
from report import Row, finished, machine, parser, publish

from undertone.evaluation.encoder import kinds_of
from undertone.evaluation.scores import Scores
from undertone.methods.registry import METHODS
from undertone.methods.weights import read_weights
from undertone.models.pinned import pin
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_cli import diagnostics
from undertone_cli.commands.simulate import simulate
from undertone_cli.evaluating.variants import Sampling, drawn, loaded
from undertone_server.run_folder import RunFolder

EXAMPLES = Path(__file__).parents[1] / "examples"
STUDIES = {
    "dpagg-ti": "chest-x-ray.toml",
    "dpsgd-ti": "xray-dpsgd-ti.toml",
    "dp-lora": "xray-dp-lora.toml",
    "dp-ldm": "xray-dp-ldm.toml",
}
PER_CLASS = "xray-per-class.toml"
HOLDOUT = 0.3
PER_CLASS_IMAGES = 500


def study_lines(method: str, finding: bool) -> list[str]:
    """The example of the method, or that of classes with this method in it."""
    lines = (EXAMPLES / (PER_CLASS if finding else STUDIES[method])).read_text(encoding="utf-8").splitlines()
    if not finding or method == "dpagg-ti":
        return lines
    own = ("#", "steps", "learning_rate")  # of dpagg-ti
    changed = [f'name = "{method}"' if line == 'name = "dpagg-ti"' else line for line in lines]
    changed = [line for line in changed if not line.startswith(own)]
    if method == "dpsgd-ti":
        return changed
    words = ("per_class", "token", "initial_word")
    changed = [line for line in changed if not line.startswith(words)]
    changed[changed.index('caption = "a {token}"')] = 'caption = "a chest x-ray, {finding}"'
    if method == "dp-ldm":
        changed.insert(changed.index('name = "dp-ldm"') + 1, 'blocks = ["down_blocks.0"]')
    return changed


def study_text(method: str, epsilon: float, finding: bool, options: list[str]) -> str:
    """The example's study at another epsilon; its noise may exceed what `plan` would let pass."""
    lines = study_lines(method, finding)
    at = lines.index(f'name = "{method}"') + 1
    lines = [*lines[:at], *options, *lines[at:]]
    changed = [f"epsilon = {epsilon}" if line.startswith("epsilon =") else line for line in lines]
    if not any(line.startswith("allow_noisy") for line in changed):
        changed.insert(changed.index("[privacy]") + 1, "allow_noisy = true")
    return "\n".join(changed) + "\n"


def chest_share(run: RunFolder, plan: Plan) -> float:
    """The share of the release's samples that the public encoder calls a chest."""
    pinned = pin(plan.model.base)
    base = loaded(pinned, "cpu", read_weights(run.release))
    prompt = planned_method(plan, pinned).sample_prompts(plan.data.caption)[1]
    images = drawn(base, {"": prompt}, Sampling(diagnostics.IMAGES, diagnostics.STEPS))
    kinds = kinds_of(np.stack([np.asarray(image.convert("RGB")) for _, image in images]))
    return kinds.count("chest") / len(kinds)


def run_once(
    method: str, epsilon: float, seed: int, finding: bool, options: list[str], data: Path, folder: Path
) -> dict[str, Any]:
    """One study from nothing to its distances, and what it cost."""
    folder.mkdir(parents=True)
    study = folder / "study.toml"
    study.write_text(study_text(method, epsilon, finding, options), encoding="utf-8")
    wall, cpu = time.monotonic(), time.process_time()
    simulate(study, data, folder / "run", split_by="site", holdout=HOLDOUT)
    plan = Plan.from_bytes((folder / "run" / "plan.json").read_bytes())
    found = json.loads((folder / "run" / "diagnostics.json").read_text(encoding="utf-8"))
    return {
        "method": method,
        "epsilon": epsilon,
        "seed": seed,
        "finding": finding,
        "distance": diagnostics.diagnostics_of(folder / "run"),
        "chest_share": None if finding else chest_share(RunFolder(folder / "run"), plan),
        "classifiers": found.get("classifiers", {}),
        "shuffled": found.get("shuffled", {}),
        "logistic": auc_of(regressed(RunFolder(folder / "run"), [epsilon], [seed])[-1][1]) if finding else None,
        "images": diagnostics.IMAGES,
        "lines": options,
        "values": plan.method.dimension,
        "rounds": plan.privacy.rounds,
        "noise_to_signal": plan.privacy.noise_to_signal,
        "epsilon_claimed": plan.privacy.epsilon,
        "options": plan.method.options,
        "wall_seconds": time.monotonic() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "machine": machine(),
    }


def auc_of(scores: Scores) -> dict[str, float]:
    """AUC and the ends of its interval."""
    return {"value": scores.auc.value, "low": scores.auc.low, "high": scores.auc.high}


def key(run: dict[str, Any]) -> tuple[Any, ...]:
    """What a run is found by."""
    return run["method"], run["epsilon"], run["seed"], run.get("finding"), run.get("images"), run.get("lines")


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
        if run.get("chest_share") is not None:
            rows.append(Row(case, "share of chests", run["chest_share"], 0.5, "at least"))
        aucs = {name: scores["auc"] for name, scores in run["classifiers"].items()}
        if run["logistic"] is not None:
            aucs["DP logistic regression"] = run["logistic"]
        for name, auc in aucs.items():
            rows.append(Row(f"{case}, {name}", "AUC", auc["value"], 0.5, "floor"))
            rows.append(Row(f"{case}, {name}", "AUC, low end", auc["low"], auc["high"], "high end"))
        if run.get("shuffled"):
            rows.append(Row(case, "AUC, shuffled classes", run["shuffled"]["mean"], 0.5, "nothing learned"))
        rows.append(Row(case, "CPU seconds", run["cpu_seconds"], run["wall_seconds"], "wall seconds"))
    return rows


def main() -> None:
    """Run what is missing, tabulate what was asked for."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, default=os.environ.get("UNDERTONE_XRAY"))
    arguments.add_argument("--methods", nargs="+", default=list(STUDIES), choices=list(METHODS))
    arguments.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 10.0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments.add_argument("--finding", action="store_true", help="classes: pneumonia or none")
    arguments.add_argument("--images", type=int, help="drawn of each variant and class; by default 128, of classes 500")
    arguments.add_argument("--options", nargs="+", default=[], help='lines of [method], such as "steps = 120"')
    arguments.add_argument("--results", type=Path, help="one JSON line for each finished run")
    arguments.add_argument("--keep", type=Path, help="keep the runs in this folder")
    chosen = arguments.parse_args()
    if chosen.data is None:
        print("skipped: no chest X-rays; give --data FOLDER or set UNDERTONE_XRAY")
        return
    root = chosen.keep or Path(tempfile.mkdtemp(prefix="undertone-xray-"))
    results = chosen.results or root / "results.jsonl"
    wanted = [(m, e, s) for s in chosen.seeds for e in chosen.epsilons for m in chosen.methods]
    diagnostics.IMAGES = chosen.images or (PER_CLASS_IMAGES if chosen.finding else diagnostics.IMAGES)
    asked = chosen.finding, diagnostics.IMAGES, chosen.options
    for method, epsilon, seed in wanted:
        if any(key(run) == (method, epsilon, seed, *asked) for run in finished(results)):
            continue
        folder = root / f"{method}{'-finding' if chosen.finding else ''}-epsilon-{epsilon:g}-run-{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
        run = run_once(method, epsilon, seed, chosen.finding, chosen.options, Path(chosen.data), folder)
        with results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(run) + "\n")
        if chosen.keep is None:
            shutil.rmtree(folder)
    runs = [run for run in finished(results) if key(run)[:3] in wanted and key(run)[3:] == asked]
    publish("chest X-rays, unit patient, four sites", rows_of(runs), chosen.json)
    if chosen.finding:
        print("\nlikely confounded: portable films lie, standing ones do not, and no column of the data says which")
    if chosen.keep is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
