"""Settings on subjects that none was chosen on: public subjects played as private sets of 230 units, by `auto` alone.

    python benchmarks/transfer.py [--methods dp-lora ...] [--subjects cells ...] [--epsilons 1 4] [--search]
                                  [--units 230] [--images 64] [--results FILE] [--json FILE] [--sheet FOLDER]
    python benchmarks/transfer.py --simulate FOLDER ...

The first form plays each study in one process (`emulation.py`): the plan's C, p, T, rates and noise, without sites.
`--units` plays fewer units with the noise of 230. `--search` also plays `GRID` around auto, and says for each subject
what would have been chosen on the others. Each finished run adds one line to FILE; a run that stands there is not made
again. The second form makes the same studies real: images in FOLDER, four sites, `undertone simulate`, its diagnostics.
"""

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from emulation import Judge, play
from numpy.typing import NDArray
from PIL import Image
from report import Row, finished, machine, parser, publish
from subjects import SUBJECTS, Subject, images

from undertone.evaluation.kid import PublicFeatures
from undertone.methods.protocol import Method
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.public_images.procedural import draw
from undertone.study.resolve import Resolved, resolved
from undertone.study.schema import Study
from undertone_cli.commands.simulate import simulate
from undertone_cli.diagnostics import diagnostics_of

BASE = "embedded:tiny"
UNITS = {"north": 80, "east": 70, "south": 50, "west": 30}
TRAINING, HELD_OUT, RANDOM, STEPS, SEED = 1, 2, 3, 10, 5
METHODS: dict[str, dict[str, Any]] = {
    "dpagg-ti": {},
    "dpsgd-ti": {},
    "dp-lora": {},
    "dp-ldm": {"blocks": ["down_blocks.0"]},
}
# Factors of what auto finds: of the rate, or of C for the method of one shot.
GRID = (0.5, 1.0, 2.0)
Run = dict[str, Any]


def study(method: str, epsilon: float, clip_norm: float | str = "auto", rate: float | str = "auto") -> Study:
    """A study that leaves to auto whatever may be left out, but for what is named here."""
    tables = {
        "study": {"name": "transfer"},
        "model": {"base": BASE},
        "method": {"name": method, "learning_rate": rate, **METHODS[method]},
        "privacy": {
            "unit": "record",
            "epsilon": epsilon,
            "delta": 1e-5,
            "clip_norm": clip_norm,
            "allow_noisy": True,
        },
        "data": {"caption": "a {token}" if method.endswith("-ti") else "a picture"},
        "cohort": {"units": UNITS},
    }
    return Study.model_validate(tables)


@cache
def planned(method: str, epsilon: float, factor: float) -> Resolved:
    """The plan by auto, with its rate (or C) times the factor."""
    found = resolved(study(method, epsilon))
    if factor == 1:
        return found
    if found.plan.privacy.rounds == 1:
        clip = found.plan.grid.clip_units / found.plan.grid.scale
        return resolved(study(method, epsilon, factor * clip))
    return resolved(study(method, epsilon, rate=factor * float(found.method.options.learning_rate)))


class Stage:
    """What the runs of a call share: the base, the public features, each subject's images."""

    def __init__(self, units: int, count: int) -> None:
        self.pinned = pin(BASE)
        self.units, self.count = units, count
        size = self.pinned.image_size
        self.public = PublicFeatures.from_public(np.stack([draw(7, index, size).pixels for index in range(512)]))
        self._judges: dict[str, Judge] = {}
        self._before: dict[tuple[str, str], dict[str, float]] = {}

    def judge(self, subject: Subject) -> Judge:
        """Against images that no unit has."""
        if subject.name not in self._judges:
            real = images(subject, HELD_OUT, 0, 128, self.pinned.image_size)
            self._judges[subject.name] = Judge(self.pinned, self.public, real, subject.kinds, self.count, STEPS)
        return self._judges[subject.name]

    def before(self, method: Method, subject: Subject, prompt: str) -> dict[str, float]:
        """What the base draws to the prompt."""
        if (subject.name, prompt) not in self._before:
            judge = self.judge(subject)
            self._before[subject.name, prompt] = judge.score(judge.samples(method, prompt, None))
        return self._before[subject.name, prompt]

    def latents(self, subject: Subject) -> NDArray[np.float32]:
        """One image for each unit."""
        return load_base(self.pinned).encode(images(subject, TRAINING, 0, self.units, self.pinned.image_size))

    def run(self, method: str, name: str, epsilon: float, factor: float, sheet: Path | None) -> Run:
        """One study, its samples beside those of the base and, for auto, of random directions of equal length."""
        began, found, subject = time.process_time(), planned(method, epsilon, factor), SUBJECTS[name]
        adapted, plan = found.method, found.plan
        played = play(load_base(self.pinned), adapted, plan, self.latents(subject), SEED)
        judge, (before, after) = self.judge(subject), adapted.sample_prompts(plan.data.caption)
        samples = judge.samples(adapted, after, played.w)
        if sheet is not None:
            save_row(sheet / f"{method}-{name}-{epsilon:g}-{factor:g}.png", samples)
        start = adapted.released(adapted.initial_state(self.pinned))
        randoms = []
        for number in range(1, RANDOM + 1) if factor == 1 else ():
            way = np.random.Generator(np.random.Philox(key=number)).standard_normal(start.size)
            moved = (start + played.moved * way / np.linalg.norm(way)).astype(np.float32)
            randoms.append(judge.score(judge.samples(adapted, after, moved))["kid"])
        return {
            "method": method,
            "subject": name,
            "epsilon": epsilon,
            "factor": factor,
            "before": self.before(adapted, subject, before),
            "after": judge.score(samples),
            "random": randoms,
            "moved": played.moved,
            "rows": played.rows,
            "signal": played.signal,
            "clip_norm": plan.grid.clip_units / plan.grid.scale,
            "options": plan.method.options,
            "rounds": plan.privacy.rounds,
            "noise_to_signal": plan.privacy.noise_to_signal,
            "units": self.units,
            "images": self.count,
            "cpu_seconds": time.process_time() - began,
            "machine": machine(),
        }


def save_row(file: Path, pixels: NDArray[np.uint8]) -> None:
    """Sixteen samples side by side."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(pixels[:16]), axis=1)).save(file)


def key(run: Run) -> tuple[str, str, float, float]:
    """What a run is found by."""
    return run["method"], run["subject"], run["epsilon"], run["factor"]


def table(runs: list[Run]) -> None:
    """What auto came to, subject by subject."""
    print("\n| method | epsilon | subject | KID before | **after** | random directions | pixels | samples | kind |")
    print("|---|---|---|---|---|---|---|---|---|")
    for run in (run for run in runs if run["factor"] == 1):
        before, after = run["before"], run["after"]
        kind = f"{before['kind']:.2f} -> {after['kind']:.2f}" if "kind" in after else "-"
        controls = " / ".join(f"{one:.2f}" for one in run["random"])
        print(
            f"| `{run['method']}` | {run['epsilon']:g} | {run['subject']} | {before['kid']:.2f} "
            f"| **{after['kid']:.2f}** | {controls} | {after['pixels']:.2f} | {after['samples']:.2f} | {kind} |"
        )


def left_out(runs: list[Run]) -> None:
    """For each subject the factor that is best on the others, by the mean of KID after over before, and its own."""
    print("\n| method | left out | chosen on the others | KID after / before there | of auto | of the best here |")
    print("|---|---|---|---|---|---|")
    for method in METHODS:
        ratio = {(run["subject"], run["factor"]): run["after"]["kid"] / run["before"]["kid"]
                 for run in runs if run["method"] == method and run["epsilon"] == 1}  # fmt: skip
        names = sorted({name for name, _ in ratio if all((name, factor) in ratio for factor in GRID)})
        for name in names if len(names) > 1 else ():
            others = [other for other in names if other != name]
            chosen = min(GRID, key=lambda factor: np.mean([ratio[other, factor] for other in others]))
            best = min(GRID, key=lambda factor: ratio[name, factor])
            print(f"| `{method}` | {name} | {chosen:g} | {ratio[name, chosen]:.2f} | {ratio[name, 1.0]:.2f} "
                  f"| {ratio[name, best]:.2f} at {best:g} |")  # fmt: skip


def real(folder: Path, method: str, name: str, epsilon: float) -> Run:
    """The same study with its sites: images written as a data set, `undertone simulate`, its diagnostics."""
    data, size, total = folder / f"data-{name}", pin(BASE).image_size, sum(UNITS.values())
    if not data.exists():
        data.mkdir(parents=True)
        sites = [site for site, count in UNITS.items() for _ in range(count)]
        lines = ["file_name,site"]
        for index, pixels in enumerate(images(SUBJECTS[name], TRAINING, 0, total, size)):
            Image.fromarray(pixels).save(data / f"{index:03}.png")
            lines.append(f"{index:03}.png,{sites[index]}")
        (data / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = folder / f"{method}-{name}-{epsilon:g}"
    file = folder / f"{run.name}.toml"
    blocks = 'blocks = ["down_blocks.0"]\n' if method == "dp-ldm" else ""
    caption = "a {token}" if method.endswith("-ti") else "a picture"
    file.write_text(
        f'[study]\nname = "transfer"\n[model]\nbase = "{BASE}"\n[method]\nname = "{method}"\n{blocks}'
        f'[privacy]\nunit = "record"\nepsilon = {epsilon:.1f}\ndelta = 1e-5\n[data]\ncaption = "{caption}"\n',
        encoding="utf-8",
    )
    simulate(file, data, run, split_by="site", holdout=0.3)
    return {"method": method, "subject": name, "epsilon": epsilon, "distance": diagnostics_of(run)}


def main() -> None:
    """Run what is missing, tabulate what was asked for."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    arguments.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0])
    arguments.add_argument("--search", action="store_true", help="also play the grid around auto, at the first epsilon")
    arguments.add_argument("--units", type=int, default=sum(UNITS.values()))
    arguments.add_argument("--images", type=int, default=64)
    arguments.add_argument("--results", type=Path, help="one JSON line for each finished run")
    arguments.add_argument("--sheet", type=Path, help="sixteen samples of each run in this folder")
    arguments.add_argument("--simulate", type=Path, help="make the studies real, in this folder")
    chosen = arguments.parse_args()
    asked = [(m, s, e) for e in chosen.epsilons for s in chosen.subjects for m in chosen.methods]
    if chosen.simulate:
        for method, name, epsilon in asked:
            print(json.dumps(real(chosen.simulate, method, name, epsilon)), flush=True)
        return
    wanted = [(*one, 1.0) for one in asked]
    if chosen.search:
        wanted += [(m, s, e, f) for m, s, e in asked if e == chosen.epsilons[0] for f in GRID if f != 1]
    stage, runs = Stage(chosen.units, chosen.images), finished(chosen.results)
    for one in wanted:
        if one not in map(key, runs):
            runs.append(stage.run(*one, chosen.sheet))
            if chosen.results:
                with chosen.results.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(runs[-1]) + "\n")
    runs = [run for run in runs if key(run) in wanted]
    table(runs)
    left_out(runs)
    rows = [
        Row(f"{m}, {s}, epsilon {e:g}, {f:g} x auto", "KID after", run["after"]["kid"], run["before"]["kid"], "before")
        for run in runs
        for m, s, e, f in [key(run)]
    ]
    publish("public subjects as private sets", rows, chosen.json)


if __name__ == "__main__":
    main()
