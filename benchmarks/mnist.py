"""MNIST at ten sites: whole small models under a budget, judged by a classifier that sees drawn images alone.

    python benchmarks/mnist.py --data FILE.npz [--set mnist digits] [--rows real autoencoder dp-prototypes]
                               [--epsilons 1 10] [--seeds 1 2 3] [--letters BASE] [--keep FOLDER] [--results FILE]
                               [--images 20000] [--json FILE]

FILE.npz has MNIST's train_images, train_labels, test_images and test_labels; UNDERTONE_MNIST names it too. The public
base knows letters alone: the benchmark makes it once by examples/pretrain-letters.toml (--letters: one that is there).
Each training image is a unit, image i at site i mod 10, delta 1e-5. A study is simulated with all its sites; its
release draws as many images of each digit; a CNN of fixed settings is trained on those, and reads the test set once, at
the end. Beside the studies: what each starts from (epsilon 0) and the same without noise; a CNN on real images, and on
real images through the base's autoencoder. Each finished row is a line of FILE, and one that stands there is not made
again. A seed numbers a repetition and starts the CNN; noise and coins are the system's and never repeat.
`--set digits` is scikit-learn's 1,797 digits, by the same settings.
"""

import json
import os
import tempfile
import time
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from digit_sets import CLASSES, COLUMN, SITE_COLUMN, Labelled, accuracy, mnist, optical_digits, write_folder
from emulation import labelled_units, without_noise
from numpy.typing import NDArray
from report import Row, finished, machine, parser, publish

from undertone.methods.weights import attach, read_weights
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import pin
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone.study.resolve import resolve
from undertone.study.schema import parse_study
from undertone_cli.commands.pretrain import pretrain
from undertone_cli.commands.simulate import simulate

EXAMPLES = Path(__file__).parents[1] / "examples"
SITES, AT_ONCE, SEED, STEPS = 10, 250, 1, 30
# Of [method] and [privacy], what each method's study says beside base, classes and claim. Chosen on public drawings. As
# many attempts as rounds: no site is away in a simulation.
TABLES = {
    "dp-prototypes": ('per_class = true\nkinds = ["letter"]', "max_attempts = 3"),
}
CEILINGS = ("real", "autoencoder")
PEERS = {  # accuracy of a CNN on drawn images at epsilon 1 and 10, by the papers: pixel UNets, eight GPUs
    "DPDM (2210.09929)": {1.0: 0.953, 10.0: 0.981},
    "DP-FETA (DPImageBench)": {1.0: 0.956, 10.0: 0.981},
}
Images = NDArray[np.uint8]
Drawn = tuple[Images, NDArray[np.int64]]
"""Images [n, s, s, 3] and their digits [n]."""


@dataclass
class Timed:
    """Seconds of each stage of a row on the clock, and of processors in all."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what runs inside to `name`."""
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.wall[name] = round(self.wall.get(name, 0.0) + time.monotonic() - wall, 1)
        self.cpu += time.process_time() - cpu


@dataclass(frozen=True)
class Case:
    """A row of the table. epsilon: 0 for what a study starts from, None without noise or without a study."""

    name: str
    epsilon: float | None
    seed: int

    @property
    def shown(self) -> str:
        """As the table has it."""
        if self.name not in TABLES:
            return f"{self.name}, run {self.seed}"
        return f"{self.name}, {'no noise' if self.epsilon is None else f'epsilon {self.epsilon:g}'}, run {self.seed}"


class Bench:
    """A set of digits, the public base, and folders."""

    def __init__(self, name: str, data: Path | None, letters: Path | None, keep: Path, images: int) -> None:
        self.name, self.keep, self.images, self._data = name, keep, images, data
        self.base = letters or self._letters()

    def part(self, which: str) -> Labelled:
        """The training or the test part."""
        if self.name == "digits" or self._data is None:
            return optical_digits(which)
        return mnist(self._data, which)

    @cached_property
    def folder(self) -> Path:
        """The training part as sites read it."""
        folder = self.keep / f"{self.name}-images"
        if not folder.exists():
            write_folder(folder, self.part("train"), SITES)
        return folder

    def _letters(self) -> Path:
        folder = self.keep / "letters"
        if not (folder / "pipeline").exists():
            pretrain(EXAMPLES / "pretrain-letters.toml", folder, resume=folder.exists())
        return folder / "pipeline"

    def study(self, method: str, epsilon: float) -> str:
        """STUDY.toml of a method."""
        options, privacy = TABLES[method]
        return (
            f'[study]\nname = "{self.name}-{method}"\n\n[model]\nbase = "{self.base.resolve()}"\n\n'
            f'[method]\nname = "{method}"\n{options}\n\n'
            f'[privacy]\nunit = "record"\nepsilon = {epsilon}\ndelta = 1e-5\nallow_noisy = true\n{privacy}\n\n'
            f'[data]\ncaption = "{{{COLUMN}}}"\nclass_column = "{COLUMN}"\nclasses = {json.dumps(CLASSES)}\n'
        )

    def drawn(self, base: LoadedBase) -> Drawn:
        """As many images of each digit, by public seeds."""
        each, found = self.images // len(CLASSES), []
        for name in CLASSES:
            for first in range(0, each, AT_ONCE):
                seeds = [SEED + number for number in range(first, min(first + AT_ONCE, each))]
                made = base.sample([name] * len(seeds), seeds, steps=STEPS, guidance=1.0, batch=AT_ONCE)
                found += [np.asarray(one.convert("RGB")) for one in made]
        return np.stack(found), np.repeat(np.arange(len(CLASSES)), each)

    # --- rows -----------------------------------------------------------------------------------------

    def real(self, base: LoadedBase, through: bool, timed: Timed) -> Drawn:
        """Real images of the training part; `through` the autoencoder."""
        found = self.part("train").first(self.images)
        images = found.sized(base.image_size)
        with timed.stage("autoencoder"):
            if through:
                parts = (images[at : at + AT_ONCE] for at in range(0, len(images), AT_ONCE))
                images = np.concatenate([base.decode(base.encode(part)) for part in parts])
        return images, found.digits

    def released(self, case: Case, timed: Timed) -> tuple[Drawn, Plan]:
        """Images of a study that ran with all its sites."""
        epsilon = case.epsilon or 0.0
        folder = self.keep / f"{self.name}-{case.name}-epsilon-{epsilon:g}-run-{case.seed}"
        if not (folder / "run" / "release").exists():
            folder.mkdir(parents=True, exist_ok=True)
            study = folder / "study.toml"
            study.write_text(self.study(case.name, epsilon), encoding="utf-8")
            begun = (folder / "run").exists()
            data = {} if begun else {"split_by": SITE_COLUMN}
            with timed.stage("study"):
                simulate(study, None if begun else self.folder, folder / "run", resume=begun, **data)
        plan = Plan.from_bytes((folder / "run" / "plan.json").read_bytes())
        base = load_base(pin(plan.model.base))
        attach(base, read_weights(folder / "run" / "release"))
        with timed.stage("drawing"):
            return self.drawn(base), plan

    def played(self, case: Case, timed: Timed) -> tuple[Drawn, Plan]:
        """Images of what a study starts from, or of what it comes to without noise: nothing here is private."""
        found = self.part("train")
        sites = {f"site-{number:02d}": len(found) // SITES for number in range(SITES)}
        plan = resolve(parse_study(tomllib.loads(self.study(case.name, 10.0))), simulated_units=sites)
        base = load_base(pin(plan.model.base))
        method = planned_method(plan, base.pinned)
        state = method.initial_state(base.pinned)
        if case.epsilon is None:
            with timed.stage("study"):
                units = labelled_units(base, found.sized(base.image_size), found.digits, CLASSES, case.seed)
                state = without_noise(base, plan, units, case.seed)
        attach(base, method.weights(base.pinned, method.released(state)))
        with timed.stage("drawing"):
            return self.drawn(base), plan

    def row(self, case: Case) -> dict[str, Any]:
        """A row of the table: images first, then the CNN, which reads the test part once."""
        timed, plan = Timed(), None
        if case.name in CEILINGS:
            made, digits = self.real(load_base(pin(str(self.base))), case.name == "autoencoder", timed)
        else:
            (made, digits), plan = (self.released if case.epsilon else self.played)(case, timed)
        test = self.part("test")
        with timed.stage("classifier"):
            right = accuracy(made, digits, test.sized(made.shape[1]), test.digits, case.seed)
        figures = {} if plan is None else {"values": plan.method.dimension, "options": plan.method.options}
        if plan is not None and case.epsilon:
            privacy = plan.privacy
            figures |= {"claim": privacy.epsilon, "rounds": privacy.rounds, "noise_to_signal": privacy.noise_to_signal}
        return {
            "set": self.name,
            "row": case.name,
            "epsilon": case.epsilon,
            "seed": case.seed,
            "accuracy": right,
            "images": len(digits),
            "seconds": timed.wall,
            "cpu_seconds": round(timed.cpu, 1),
            "machine": machine(),
            **figures,
        }


def cases(chosen: Namespace) -> list[Case]:
    """The rows that were asked for: studies at each epsilon and seed, ceilings and floors once."""
    found = [Case(name, None, 1) for name in chosen.rows if name in CEILINGS]
    for name in (name for name in chosen.rows if name in TABLES):
        found += [Case(name, 0.0, 1), Case(name, None, 1)]
        found += [Case(name, epsilon, seed) for seed in chosen.seeds for epsilon in chosen.epsilons]
    return found


def same(row: dict[str, Any], name: str, case: Case) -> bool:
    """Whether a finished row is the case's."""
    return (row["set"], row["row"], row["epsilon"], row["seed"]) == (name, case.name, case.epsilon, case.seed)


def table(rows: list[tuple[Case, dict[str, Any]]]) -> list[Row]:
    """Accuracy beside the ceilings of the same run and the papers' figures, and seconds by stage."""
    ceilings = {case.name: row["accuracy"] for case, row in rows if case.name in CEILINGS}
    found = []
    for case, row in rows:
        right = row["accuracy"]
        found += [Row(case.shown, "accuracy", right, value, name) for name, value in ceilings.items()]
        if case.epsilon:
            found += [
                Row(case.shown, "accuracy", right, figures[case.epsilon], name)
                for name, figures in PEERS.items()
                if case.epsilon in figures and row["set"] == "mnist"
            ]
        found += [Row(case.shown, f"seconds, {name}", value, 480.0, "limit") for name, value in row["seconds"].items()]
        found.append(Row(case.shown, "CPU seconds", row["cpu_seconds"], 960.0, "8 minutes of 2 cores"))
    return found


def main() -> None:
    """Make the rows that are missing, tabulate those that were asked for."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, default=os.environ.get("UNDERTONE_MNIST"))
    arguments.add_argument("--set", dest="sets", nargs="+", default=["mnist"], choices=["mnist", "digits"])
    arguments.add_argument("--rows", nargs="+", default=[*CEILINGS, *TABLES], choices=[*CEILINGS, *TABLES])
    arguments.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 10.0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments.add_argument("--letters", type=Path, help="a base of letters that was made before")
    arguments.add_argument("--keep", type=Path, help="keep base, images and runs in this folder")
    arguments.add_argument("--results", type=Path, help="one JSON line for each finished row")
    arguments.add_argument("--images", type=int, default=20_000, help="that a release draws, all digits together")
    chosen = arguments.parse_args()
    if chosen.data is None and "mnist" in chosen.sets:
        print("skipped: no MNIST; give --data FILE.npz or set UNDERTONE_MNIST")
        return
    keep = chosen.keep or Path(tempfile.mkdtemp(prefix="undertone-mnist-"))
    keep.mkdir(parents=True, exist_ok=True)
    results = chosen.results or keep / "results.jsonl"
    for name in chosen.sets:
        bench = Bench(name, chosen.data and Path(chosen.data), chosen.letters, keep, chosen.images)
        for case in cases(chosen):
            if any(same(row, name, case) for row in finished(results)):
                continue
            row = bench.row(case)
            with results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        done = [(case, row) for case in cases(chosen) for row in finished(results) if same(row, name, case)]
        publish(f"{name}, a unit an image, {SITES} sites, delta 1e-5", table(done), chosen.json)


if __name__ == "__main__":
    main()
