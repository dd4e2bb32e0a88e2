"""A study of dp-sad on drawn images: sites are one place, a killed run goes on, the release verifies and draws."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.bases import tiny_class_base
from tests.support.failpoints import Killed, at
from tests.support.gradient_studies import CLASSES, plan_of
from tests.support.images import write_folder
from tests.support.runs import SITES, call
from tests.support.studies import study_with, write_study
from tests.support.world import data_of
from undertone.data.images import load_image
from undertone.methods.protocol import UnitRecords
from undertone.methods.sad.method import DPSAD
from undertone.methods.weights import read_weights
from undertone.models.base import load_base
from undertone.models.pinned import pin
from undertone.privacy.shards import PREPARED, shard_key, shard_of
from undertone.privacy.unit_randomness import row_generator, row_key
from undertone.release.verify import verify
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_client.registration.registered import register
from undertone_client.site.folder import SiteDir
from undertone_server import gate, release, telemetry
from undertone_server.run_folder import RunFolder

METHOD = {
    "name": "dp-sad",
    "shards": 4,
    "outputs": 4,
    "query_steps": 3,
    "learning_rate": 0.01,
    "ema": 0.5,
    "records": 2,
    "discriminator_width": 8,
}
ROUNDS = 2


def study_in(folder: Path, **method: object) -> Path:
    base = tiny_class_base(folder / "base", ("other", "mass"), side=16)
    write_folder(folder / "data", 8 * len(SITES), 16, sites=SITES)
    changes = {
        "method": {**METHOD, **method},
        "cohort": {"min_sites": 2, "patients": dict.fromkeys(SITES, 4)},
        "data.caption": "{finding}",
        **{f"data.{key}": value for key, value in CLASSES.items()},
        "privacy.epsilon": 50.0,
        "privacy.clip_norm": 5.0,
        "privacy.rounds": ROUNDS,
    }
    return write_study(folder / "study.toml", study_with(changes, str(base)))


def go(study: Path, out: str, *options: str) -> Path:
    folder = study.parent
    found = call("simulate", study, "--data", folder / "data", "--split-by", "site", "--out", folder / out, *options)
    assert found.exit_code == 0, found.output
    return folder / out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed after its first round, and gone on with."""
    study = study_in(tmp_path_factory.mktemp("study"))
    with at("rounds/updated"), pytest.raises(Killed):
        go(study, "run")
    return go(study, "run", "--resume")


def test_a_killed_run_is_the_run_that_was_not(run: Path) -> None:
    """By the noised sums it kept: bit for bit, Adam's moments, the average and the round's number too."""
    plan, folder, pinned = plan_of(run), RunFolder(run), pin(plan_of(run).model.base)
    method, base = planned_method(plan, pinned), load_base(pin(plan_of(run).model.base))
    assert isinstance(method, DPSAD)
    state = method.initial_state(pinned)
    for round_ in range(1, ROUNDS + 1):
        kept = folder.kept_noised(round_)
        assert kept is not None
        query = method.query(base, state)
        np.testing.assert_array_equal(folder.kept_query(round_), query)
        state = method.step_on(base, state, query, kept[1] / plan.denominator(round_, kept[2]))
        np.testing.assert_array_equal(folder.kept_state(round_), state)
    assert state[-1] == ROUNDS
    held = read_weights(run / "release")["denoiser.safetensors"]
    for name, tensor in method.weights(pinned, method.released(state))["denoiser.safetensors"].items():
        np.testing.assert_array_equal(held[name], tensor)


def test_the_release_verifies_and_says_what_one_unit_moves(run: Path) -> None:
    assert verify(run / "release").digest == plan_of(run).digest
    statement = json.loads((run / "release" / "privacy.json").read_bytes())
    assert "shard" in statement["mechanism"]["sensitivity_relation"]
    assert "denoiser.safetensors is a whole UNet" in (run / "release" / "README.md").read_text(encoding="utf-8")


def test_images_are_drawn_of_each_class(run: Path) -> None:
    made = call("generate", run / "release", "-n", "2", "--steps", "4", "--seed", "1", "--out", run / "images")
    assert made.exit_code == 0, made.output
    images = [np.asarray(Image.open(path)) for path in sorted((run / "images").rglob("*.png"))]
    assert len(images) >= 2
    assert len({image.tobytes() for image in images}) == len(images)


def shards_of(folder: Path, plan: Plan, method: DPSAD, base: object) -> list[UnitRecords]:
    """The shards of a site that hold anything, from its table by hand."""
    site = SiteDir(folder)
    table, held = register(site, plan, data_of(site)), defaultdict[int, list[int]](list)
    for unit, positions in sorted(table.units().items()):
        chosen = method.entering(len(positions), row_generator(row_key(site.secret(), plan.digest, PREPARED, 0, unit)))
        held[shard_of(site.secret(), unit, method.shards)] += [positions[place] for place in chosen]
    found = []
    for number, positions in held.items():
        records = [table.records[place] for place in positions]
        pixels = np.stack([load_image(table.root / one.file, base.image_size) for one in records])  # type: ignore[attr-defined]
        classes = np.array([plan.data.classes.index(one.columns["finding"]) for one in records])
        generator = row_generator(shard_key(site.secret(), plan.digest, PREPARED, number))
        found.append(UnitRecords(base.encode(pixels), ("",) * len(records), generator, classes=classes))  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    "method",
    [
        {},
        pytest.param({"teacher": "trained", "teacher_steps": 20, "adversarial": 0.0}, marks=pytest.mark.slow),
    ],
    ids=["exact", "trained"],
)
def test_three_sites_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, object]) -> None:
    """Without noise: all shards' rows in one list, clipped in float64, their mean over 12, a step."""
    monkeypatch.setattr(telemetry, "epsilon_spent", lambda *_: 0.0)  # seconds that are not looked at here
    monkeypatch.setattr(
        release, "_draw_samples", lambda _pinned, part, *_: (part / "samples.png").write_bytes(b"png") and 255
    )
    monkeypatch.setattr(gate, "rounded_gaussian", lambda _entropy, _sigma, size: np.zeros(size, dtype=np.int64))
    options = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.01, "ema": 0.0, **method}
    found = go(study_in(tmp_path, **options), "run")
    plan = plan_of(found)
    pinned = pin(plan.model.base)
    of, base = planned_method(plan, pinned), load_base(pinned)
    assert isinstance(of, DPSAD)
    shards = [one for site in plan.cohort.units for one in shards_of(found / "sites" / site, plan, of, base)]
    assert len(shards) > 4
    prepared = [of.prepared(base, one) for one in shards]
    kept: list[NDArray[np.float32] | None] = [None] * len(shards)
    start = state = of.initial_state(pinned)
    d, clip = of.dimension(pinned), plan.stage_of(1).clip_norm * (1 - 2**-10)
    for round_ in range(1, ROUNDS + 1):
        query, total, cut = of.query(base, state), np.zeros(of.row(pinned)), 0
        for number, held in enumerate(prepared):
            row, kept[number] = of.shard_row(base, query, held, kept[number], np.random.default_rng(0))
            length = float(np.linalg.norm(row.astype(np.float64)))
            total += row * min(1.0, clip / max(length, 1e-30))
            cut += length > clip
        assert cut
        state = of.step_on(base, state, query, total / (of.shards * len(SITES)))
        moved = float(np.linalg.norm((state - start)[:d]))
        answered = RunFolder(found).kept_state(round_)
        assert answered is not None
        assert moved > 1e-3
        assert np.linalg.norm((answered - state)[:d]) < 1e-4 * moved
