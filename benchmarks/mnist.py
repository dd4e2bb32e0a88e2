"""MNIST at ten sites: whole small models under a budget, judged by a classifier that sees drawn images alone.

    python benchmarks/mnist.py --data FILE.npz [--set mnist digits] [--rows real autoencoder dp-prototypes]
                               [--epsilons 1 10] [--seeds 1 2 3] [--letters BASE] [--keep FOLDER] [--results FILE]
                               [--images 20000] [--engine inprocess|ray] [--ablate] [--gpu] [--device auto]
                               [--inception FILE] [--json FILE]

FILE.npz has MNIST's train_images, train_labels, test_images and test_labels; UNDERTONE_MNIST names it too. The public
base knows letters alone: the benchmark makes it once by examples/pretrain-letters.toml (--letters: one that is there).
Each training image is a unit, image i at site i mod 10, delta 1e-5. A study is simulated with all its sites; its
release draws as many images of each digit; a CNN of fixed settings is trained on those, and reads the test set once, at
the end. Beside the studies: what each starts from (epsilon 0) and the same without noise; a CNN on real images, and on
real images through the base's autoencoder. Each finished row is a line of FILE, and one that stands there is not made
again. A seed numbers a repetition and starts the CNN; noise and coins are the system's and never repeat.
Base, images and runs stay in runs/mnist unless `--keep` says where. `--engine ray` computes sites side by side, a core
each; seconds of processors are then not counted. `--set digits` is scikit-learn's 1,797 digits, by the same settings.
`--gpu` makes one row of DPDM's kind instead, at epsilon 10: a UNet of pixels, B = 4,096 and K = 8, from
letters-pixels.toml. With `--inception` weights there is FID against the test set.
"""

import json
import os
import time
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from digit_sets import CLASSES, SITE_COLUMN, Labelled, accuracy, mnist, optical_digits, write_folder
from digit_studies import ABLATIONS, ALONE, FETA, ON_CPU, ON_GPU, pair, settings, single
from emulation import labelled_units, without_noise
from numpy.typing import NDArray
from report import Row, finished, machine, parser, publish

from undertone.evaluation.frechet import frechet_distance
from undertone.evaluation.inception import InceptionFeatures
from undertone.methods.weights import attach, read_weights
from undertone.models.base import LoadedBase, load_base
from undertone.models.devices import choose
from undertone.models.pinned import pin
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone.study.resolve import resolve
from undertone.study.schema import parse_study
from undertone_cli.commands.pretrain import pretrain
from undertone_cli.commands.simulate import simulate
from undertone_cli.engines.choice import ENGINES, IN_PROCESS

LETTERS = Path(__file__).parents[1] / "examples" / "pretrain-letters.toml"
PIXELS = Path(__file__).with_name("letters-pixels.toml")
SITES, AT_ONCE, SEED, STEPS = 10, 250, 1, 15
CEILINGS = ("real", "autoencoder")
STARTED = "-prototypes"  # a row of what the first of two studies released
ROWS = (*CEILINGS, *ON_CPU, FETA, FETA + STARTED)
PEERS = {  # accuracy of a CNN on drawn images at epsilon 1 and 10, by the papers: pixel UNets, eight GPUs
    "DPDM (2210.09929)": {1.0: 0.953, 10.0: 0.981},
    "DP-FETA (DPImageBench)": {1.0: 0.956, 10.0: 0.981},
    "DP-SAD (2408.14738), accounting unsound": {1.0: 0.962, 10.0: 0.976},
}
FIDS = {1.0: 23.4, 10.0: 5.01}  # DPDM's own, by its sampler for FID
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
        if self.name in CEILINGS:
            return f"{self.name}, run {self.seed}"
        return f"{self.name}, {'no noise' if self.epsilon is None else f'epsilon {self.epsilon:g}'}, run {self.seed}"


class Bench:
    """A set of digits, the public base, and folders."""

    def __init__(self, name: str, chosen: Namespace, keep: Path) -> None:
        self.name, self.keep, self.images, self._data = name, keep, chosen.images, chosen.data
        self.device, self.inception, self.engine = chosen.device, chosen.inception, chosen.engine
        self.base = chosen.letters or self._pretrained(PIXELS if chosen.gpu else LETTERS)

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

    def _pretrained(self, config: Path) -> Path:
        folder = self.keep / config.stem
        if not (folder / "pipeline").exists():
            pretrain(config, folder, resume=folder.exists(), device=self.device)
        return folder / "pipeline"

    def loaded(self, base: str) -> LoadedBase:
        """A base where this benchmark computes; of several devices on the first."""
        return load_base(pin(base), choose(self.device)[0])

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
        name = FETA if case.name == FETA + STARTED else case.name
        folder = self.keep / f"{self.name}-{_plain(name)}-epsilon-{epsilon:g}-run-{case.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        made = pair(self.name, self.base, epsilon, folder) if name == FETA else None
        studies = made or single(self.name, name, self.base, epsilon, folder)
        for number, (study, run) in enumerate(studies if name == case.name else studies[:1]):
            with timed.stage("study" if number == 0 else "second study"):
                self._simulated(study, run)
        release = run / "release"
        plan = Plan.from_bytes((run / "plan.json").read_bytes())
        base = self.loaded(plan.model.base)
        attach(base, read_weights(release))
        with timed.stage("drawing"):
            return self.drawn(base), plan

    def _simulated(self, study: Path, run: Path) -> None:
        if (run / "release").exists():
            return
        if run.exists():
            simulate(study, None, run, resume=True, engine=self.engine)
        else:
            simulate(study, self.folder, run, split_by=SITE_COLUMN, engine=self.engine, device=self.device)

    def played(self, case: Case, timed: Timed) -> tuple[Drawn, Plan]:
        """Images of what a study starts from, or of what it comes to without noise: nothing here is private."""
        found = self.part("train")
        sites = {f"site-{number:02d}": len(found) // SITES for number in range(SITES)}
        plan = resolve(parse_study(tomllib.loads(self._study(case.name))), simulated_units=sites)
        base = self.loaded(plan.model.base)
        method = planned_method(plan, base.pinned)
        state = method.initial_state(base.pinned)
        if case.epsilon is None:
            with timed.stage("study"):
                units = labelled_units(base, found.sized(base.image_size), found.digits, CLASSES, case.seed)
                state = without_noise(base, plan, units, case.seed)
        attach(base, method.weights(base.pinned, method.released(state)))
        with timed.stage("drawing"):
            return self.drawn(base), plan

    def _study(self, name: str) -> str:
        return settings(name).study(f"{self.name}-study", self.base, 10.0)

    def row(self, case: Case) -> dict[str, Any]:
        """A row of the table: images first, then the CNN, which reads the test part once."""
        timed, plan = Timed(), None
        if case.name in CEILINGS:
            made, digits = self.real(self.loaded(str(self.base)), case.name == "autoencoder", timed)
        else:
            (made, digits), plan = (self.released if case.epsilon else self.played)(case, timed)
        test = self.part("test")
        with timed.stage("classifier"):
            right = accuracy(made, digits, test.sized(made.shape[1]), test.digits, case.seed)
        figures: dict[str, Any] = (
            {} if plan is None else {"values": plan.method.dimension, "options": plan.method.options}
        )
        if plan is not None and case.epsilon:
            privacy = plan.privacy
            figures |= {"claim": privacy.epsilon, "rounds": privacy.rounds, "noise_to_signal": privacy.noise_to_signal}
        if self.inception is not None:
            figures["fid"] = fid(self.inception, made, test.sized(made.shape[1]))
        return {
            "set": self.name,
            "row": case.name,
            "epsilon": case.epsilon,
            "seed": case.seed,
            "accuracy": right,
            "images": len(digits),
            "seconds": timed.wall,
            "engine": self.engine,
            "cpu_seconds": round(timed.cpu, 1) if self.engine == IN_PROCESS else None,
            "machine": machine(),
            **figures,
        }


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name)


def fid(weights: Path, made: Images, tested: Images) -> float:
    """The Frechet distance of Inception features between as many drawn and tested images."""
    count, features = min(len(made), len(tested)), InceptionFeatures.from_file(weights)
    spread = np.random.Generator(np.random.Philox(key=SEED)).permutation(len(made))[:count]  # digits come in order
    return frechet_distance(features.of(made[spread]), features.of(tested[:count]))


def cases(chosen: Namespace) -> list[Case]:
    """The rows that were asked for: studies at each epsilon and seed, ceilings and floors once."""
    found = [Case(name, None, 1) for name in chosen.rows if name in CEILINGS]
    if chosen.ablate:
        return [Case(name, 10.0, 1) for name in ("dp-sad", *ABLATIONS)] + [Case("dp-sad", None, 1)]
    for name in (name for name in chosen.rows if name not in CEILINGS):
        if name in ALONE and name != ON_GPU:
            found += [Case(name, 0.0, 1), Case(name, None, 1)]
        found += [Case(name, epsilon, seed) for seed in chosen.seeds for epsilon in chosen.epsilons]
    return found


def same(row: dict[str, Any], name: str, case: Case, images: int) -> bool:
    """Whether a finished row is the case's, from as many drawn images; real ones are as many as the set has."""
    found = (row["set"], row["row"], row["epsilon"], row["seed"])
    real = case.name in CEILINGS
    return found == (name, case.name, case.epsilon, case.seed) and (real or row["images"] == images)


def _has_fid(case: Case, row: dict[str, Any]) -> bool:
    return "fid" in row and row["set"] == "mnist" and case.epsilon in FIDS


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
        found += [Row(case.shown, "FID", row["fid"], FIDS[case.epsilon], "DPDM")] if _has_fid(case, row) else []
        found += [Row(case.shown, f"seconds, {name}", value, 480.0, "limit") for name, value in row["seconds"].items()]
        if row["cpu_seconds"] is not None:
            found.append(Row(case.shown, "CPU seconds", row["cpu_seconds"], 960.0, "8 minutes of 2 cores"))
    return found


def _named(variable: str) -> Path | None:
    return Path(os.environ[variable]) if variable in os.environ else None


def main() -> None:
    """Make the rows that are missing, tabulate those that were asked for."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data", type=Path, default=_named("UNDERTONE_MNIST"))
    arguments.add_argument("--set", dest="sets", nargs="+", default=["mnist"], choices=["mnist", "digits"])
    arguments.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    arguments.add_argument("--epsilons", type=float, nargs="+", help="by default 1 and 10; with --gpu 10")
    arguments.add_argument("--seeds", type=int, nargs="+", help="by default 1 2 3; with --gpu 1")
    arguments.add_argument("--letters", type=Path, help="a base of letters that was made before")
    arguments.add_argument("--keep", type=Path, default=Path("runs/mnist"), help="for base, images and runs")
    arguments.add_argument("--engine", default=IN_PROCESS, choices=ENGINES, help="ray: sites side by side")
    arguments.add_argument("--results", type=Path, help="one JSON line for each finished row")
    arguments.add_argument("--images", type=int, default=20_000, help="that a release draws, all digits together")
    arguments.add_argument("--ablate", action="store_true", help="dp-sad at epsilon 10, one factor at a time, alone")
    arguments.add_argument("--gpu", action="store_true", help="a UNet of pixels, as DPDM trained, and no other row")
    arguments.add_argument("--device", default="auto", help='where base and sites compute, such as "cuda:0"')
    arguments.add_argument("--inception", type=Path, help="torch-fidelity's weights, for FID")
    chosen = arguments.parse_args()
    if chosen.gpu:
        chosen.rows = [ON_GPU]
    chosen.epsilons = chosen.epsilons or ([10.0] if chosen.gpu else [1.0, 10.0])
    chosen.seeds = chosen.seeds or ([1] if chosen.gpu else [1, 2, 3])
    if chosen.data is None and "mnist" in chosen.sets:
        print("skipped: no MNIST; give --data FILE.npz or set UNDERTONE_MNIST")
        return
    keep = chosen.keep
    keep.mkdir(parents=True, exist_ok=True)
    results, rows = chosen.results or keep / "results.jsonl", []
    images = chosen.images // len(CLASSES) * len(CLASSES)
    for name in chosen.sets:
        bench = Bench(name, chosen, keep)
        for case in cases(chosen):
            if any(same(row, name, case, images) for row in finished(results)):
                continue
            row = bench.row(case)
            with results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        lines = finished(results)
        done = [(case, row) for case in cases(chosen) for row in lines if same(row, name, case, images)]
        rows += [replace(row, case=f"{name}: {row.case}") for row in table(done)]
    publish(f"a unit an image, {SITES} sites, delta 1e-5", rows, chosen.json)


if __name__ == "__main__":
    main()
