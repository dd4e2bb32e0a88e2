"""Part of mnist.py: the STUDY.toml of each row. All settings were chosen on public drawings alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from digit_sets import CLASSES, COLUMN


@dataclass(frozen=True)
class Settings:
    """Of [method], [privacy] and [model], what a study says beside name, base, classes and claim."""

    method: str
    options: str
    privacy: str
    model: str = ""

    def study(self, name: str, base: Path, epsilon: float, *, privacy: str = "", model: str = "") -> str:
        """STUDY.toml; `privacy` and `model`: more keys of those tables."""
        return (
            f'[study]\nname = "{name}"\n\n[model]\nbase = "{base.resolve()}"\n{self.model}\n{model}\n\n'
            f'[method]\nname = "{self.method}"\n{self.options}\n\n'
            f'[privacy]\nunit = "record"\nepsilon = {epsilon}\ndelta = 1e-5\nallow_noisy = true\n'
            f"{self.privacy}\n{privacy}\n\n"
            f'[data]\ncaption = "{{{COLUMN}}}"\nclass_column = "{COLUMN}"\nclasses = {json.dumps(CLASSES)}\n'
        )


# As many attempts as rounds: no site is away in a simulation.
_PROTOTYPES = Settings("dp-prototypes", 'per_class = true\nkinds = ["letter"]', "max_attempts = 3")
_DPDM = "draws = 2\nlargest_row_mib = 0\n"
_SAD_ROUNDS = 200
ALONE = {
    "dp-prototypes": _PROTOTYPES,
    "dpdm": Settings(
        "dpdm", f"{_DPDM}learning_rate = 0.002\nema = 0.95", "sampling_rate = 0.02\nrounds = 100\nmax_attempts = 100"
    ),
    "dp-sad": Settings("dp-sad", "", f"rounds = {_SAD_ROUNDS}\nmax_attempts = {_SAD_ROUNDS}"),
    # DPDM's own size of batch and K; the base is of pixels.
    "dpdm-pixels": Settings(
        "dpdm",
        "draws = 8\nlargest_row_mib = 0\nlearning_rate = 0.002\nema = 0.95",
        "sampling_rate = 0.0683\nrounds = 150\nmax_attempts = 150",
    ),
}
# One factor of dp-sad at a time, for `--ablate`.
ABLATIONS = {
    f"dp-sad, {key} = {value}".replace('"', ""): replace(ALONE["dp-sad"], options=f"{key} = {value}")
    for key, value in (("shards", "8"), ("shards", "256"), ("adversarial", "0.0"), ("teacher", '"trained"'))
}
# dp-feta: two studies under one claim, the first of which is given what the second's share leaves.
_LATER = Settings(
    "dpdm",
    f"{_DPDM}learning_rate = 0.001\nema = 0.9",
    "sampling_rate = 0.04\nrounds = 30\nmax_attempts = 30",
    "start_images = 5000\nstart_steps = 800",
)
_LATER_SHARE = 0.9
FETA, ON_GPU = "dp-feta", "dpdm-pixels"
ON_CPU = [name for name in ALONE if name != ON_GPU]


def settings(row: str) -> Settings:
    """Those of a row with one study."""
    return {**ALONE, **ABLATIONS}[row]


def pair(name: str, base: Path, epsilon: float, folder: Path) -> Sequence[tuple[Path, Path]]:
    """Write both studies of dp-feta to `folder`; (study, RUN) of each, in their order."""
    files = [folder / "first.toml", folder / "second.toml"]
    runs = [folder / "first", folder / "run"]
    start = f'start = "{runs[0].resolve() / "release"}"'
    successor = f'successor = "{files[1].resolve()}"'
    files[1].write_text(_LATER.study(f"{name}-second", base, _LATER_SHARE * epsilon, model=start), encoding="utf-8")
    files[0].write_text(_PROTOTYPES.study(f"{name}-first", base, epsilon, privacy=successor), encoding="utf-8")
    return list(zip(files, runs, strict=True))


def single(name: str, row: str, base: Path, epsilon: float, folder: Path) -> Sequence[tuple[Path, Path]]:
    """Write the study of a row to `folder`; (study, RUN)."""
    file = folder / "study.toml"
    file.write_text(settings(row).study(f"{name}-study", base, epsilon), encoding="utf-8")
    return [(file, folder / "run")]
