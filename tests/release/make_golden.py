"""Makes the golden release of the present format of plan.json: `python -m tests.release.make_golden`, once a format.

A golden release is never made again: every later version must verify it as it lies there (`test_golden.py`).
"""

import shutil
import tempfile
from pathlib import Path

from tests.support.images import write_folder
from tests.support.runs import SITES, call, coordinator_of
from tests.support.studies import study_with, write_study
from undertone.study.plan import FORMATS

FOLDER = Path(__file__).parent / "golden"
# What the newest format can spell and the one before could not stands in its golden release.
STUDY = {
    "method": {"name": "dpsgd-ti", "draws": 1, "learning_rate": 0.1},
    "privacy.unit": "record",
    "privacy.epsilon": 4.0,
    "privacy.clip_norm": 1.0,
    "privacy.rounds": 2,
    "privacy.sampling_rate": 0.5,
    "privacy.noise": "distributed",
    "privacy.ready_seconds_per_unit": 0.001,
    "privacy.allow_noisy": True,
    "data": {"caption": "a {token}"},
    "cohort.units": dict.fromkeys(SITES, 10),
}


def main() -> None:
    golden = FOLDER / f"format-{max(FORMATS)}"
    if golden.exists():
        raise SystemExit(f"{golden} exists; a golden release is never made again")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_folder(root / "data", 30, 64, sites=SITES)
        study = write_study(root / "study.toml", study_with(STUDY, "embedded:tiny"))
        result = call("simulate", study, "--data", root / "data", "--split-by", "site", "--out", root / "run")
        if result.exit_code:
            raise SystemExit(result.output)
        shutil.copytree(root / "run" / "release", golden)
        (FOLDER / f"format-{max(FORMATS)}.coordinator").write_text(f"{coordinator_of(root / 'run')[1]}\n")


if __name__ == "__main__":
    main()
