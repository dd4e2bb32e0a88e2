"""Distances of generated images to held-out private ones: simulation only, never in a release (PRIVACY 19).

Every line reads private data without noise, so it may be shown where the data are and nowhere else. Measures and
attacks are those of `undertone evaluate` (`evaluating/`).
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from undertone.data.records import RecordTable, read_records
from undertone.evaluation.classifier import FEWEST, Classifier
from undertone.evaluation.distances import distances_to
from undertone.evaluation.kid import EncoderFeatures, kid
from undertone.methods.protocol import Method
from undertone.methods.release_format import Weights
from undertone.models.base import load_base
from undertone.models.devices import choose
from undertone.models.grid import save_grid
from undertone.models.pinned import PinnedBase, check_pins, pin
from undertone.public_images.procedural import draw
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_cli.evaluating.classifiers import classified
from undertone_cli.evaluating.comparison import chosen, in_shares
from undertone_cli.evaluating.evaluation import Bench, draw_variant, membership_of, plain
from undertone_cli.evaluating.images import PUBLIC, Features, ImageFiles, ImageSet, public_features
from undertone_cli.evaluating.prompts import Prompts, planned_prompts
from undertone_cli.evaluating.tables import BASE, RELEASE
from undertone_cli.evaluating.variants import Sampling, Variant, random_direction
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.datasets import data_sets
from undertone_client.site.folder import SiteDir
from undertone_server.run_folder import RunFolder
from undertone_server.starting import kept_start

IMAGES, STEPS, RANDOM_DIRECTIONS, ATTACKED = 128, 15, 3, 128
_PUBLIC_SEED, _PUBLIC_IMAGES = 7, 512
_OWN = "autoencoder"
TRAINING = "training images (floor)"
Found = NDArray[np.float64]
LABEL = "simulation only: computed from private images without noise, never part of a release"


def diagnose(folder: Path) -> dict[str, float]:
    """Compare before, after and controls with the held-out images; write RUN/diagnostics.json and .png.

    Returns:
        Variant -> KID to the held-out images, in the order of the table.
    """
    run = RunFolder(folder)
    plan = run.plan()
    pinned = pin(plan.model.base, plan.model.revision)
    check_pins(pinned, plan.model.files)
    method = planned_method(plan, pinned)
    (device,) = choose()
    public = np.stack([draw(_PUBLIC_SEED, index, pinned.image_size).pixels for index in range(_PUBLIC_IMAGES)])
    encoders: dict[str, Features] = {PUBLIC: public_features(_PUBLIC_IMAGES)}
    if "vae" in pinned.parts:  # else pixels are denoised
        encoders[_OWN] = EncoderFeatures.from_public(load_base(pinned, device), public).of
    prompts = planned_prompts(plan, method)
    classes = list(prompts.after)
    bench = Bench(pinned, device, encoders, Sampling(_count(len(classes)), STEPS), attacked=ATTACKED)
    training, holdout = (_files(run, plan, half, classes) for half in ("sites", "holdout"))
    held_out = holdout.featured("held-out images", pinned.image_size, encoders)
    grid: dict[str, list[Image.Image]] = {}
    made = [draw_variant(variant, bench, grid) for variant in _variants(run, plan, method, pinned, prompts)]
    save_grid(folder / "diagnostics.png", grid)
    trained_on = training.featured("training images", pinned.image_size, encoders)
    numbers = in_shares(Counter(held_out.classes), [Counter(one.images.classes) for one in made])
    sets = {TRAINING: trained_on.features}
    for one in made:
        places = chosen(one.images, np.arange(len(one.images)), numbers)
        sets[one.variant.name] = {name: features[places] for name, features in one.images.features.items()}
    measures = {name: distances_to(held_out.features[PUBLIC], one[PUBLIC]) for name, one in sets.items()}
    distance = {name: math.nan if found.kid is None else found.kid for name, found in measures.items()}
    report = {
        "label": LABEL,
        "measure": "KID on standardised features of the public encoder",
        "distance": distance,
        "by the base's own autoencoder": _by_own(sets, held_out.features) if _OWN in encoders else None,
        "measures": plain(measures),
        "membership": plain(membership_of(training, holdout, made, bench)),
    }
    if len(classes) > 1:
        scores, shuffled = classified(held_out, made, classes, lambda: _of_training(trained_on, held_out, classes))
        report |= {"classifiers": plain(scores), "shuffled": plain(shuffled)}
    (folder / "diagnostics.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return distance


def _by_own(sets: Mapping[str, Mapping[str, Found]], held_out: Mapping[str, Found]) -> dict[str, float]:
    """Variant -> KID on the autoencoder's own features."""
    return {name: kid(one[_OWN], held_out[_OWN]) for name, one in sets.items()}


def _count(classes: int) -> int:
    """Images of each class: as many of one or two as without classes, of more together twice as many."""
    return IMAGES if classes < 3 else max(-(-2 * IMAGES // classes), FEWEST)


def _of_training(training: ImageSet, held_out: ImageSet, classes: Sequence[str]) -> NDArray[np.float64]:
    """What a classifier that was trained on the training images says of the held-out ones."""
    model = Classifier(training.features[PUBLIC], training.places(classes), len(classes), training.units)
    return model.probabilities(held_out.features[PUBLIC])


def _variants(run: RunFolder, plan: Plan, method: Method, pinned: PinnedBase, prompts: Prompts) -> list[Variant]:
    """The release, and what it must be compared with."""
    warm, kept = kept_start(run), run.kept_state(plan.privacy.rounds)
    start = method.initial_state(pinned) if warm is None else warm

    def weights(state: NDArray[np.float32]) -> Weights:
        return method.weights(pinned, method.released(state))

    released = weights(start if kept is None else kept)
    variants = [Variant(BASE, prompts.before, None), Variant(RELEASE, prompts.after, released)]
    rows = _kept_rows(run, plan) if plan.privacy.rounds == 1 else np.zeros(0)
    if rows.size:
        variants.append(Variant("non-private mean", prompts.after, weights(method.step(start, rows.mean(0)))))
    for number in range(1, RANDOM_DIRECTIONS + 1):
        moved = random_direction(method, pinned, released, number)
        variants.append(Variant(f"random direction {number}", prompts.after, moved))
    return variants


def _kept_rows(run: RunFolder, plan: Plan) -> NDArray[np.float64]:
    """The rows that the simulated nodes kept, un-noised, [units, d]."""
    rows: list[NDArray[np.float32]] = []
    for folder in sorted((run.folder / "sites").iterdir()):
        with AttemptStore(SiteDir(folder).attempt_store) as store:
            rows += store.rows((plan.digest, 1, 1)).values()
    return np.array(rows, dtype=np.float64)


def _files(run: RunFolder, plan: Plan, half: str, classes: Sequence[str]) -> ImageFiles:
    """The images of one half (`sites` or `holdout`) that have a part in the study; a unit is one at a site."""
    files, named, units = list[Path](), list[str](), list[str]()
    for folder in sorted((run.folder / half).iterdir()):
        (data,) = data_sets(run.folder / "sites" / folder.name).values()
        root = Path(data.folder)
        table: RecordTable = read_records(
            root,
            plan.privacy.unit,
            plan.data.unit_column,
            plan.data.caption,
            folder / "metadata.csv",
            data.ids_as_written,
            plan.data.class_column,
        )
        for record in table.records:
            if plan.data.takes(record.columns):
                place = plan.data.class_of(record.columns) if len(classes) > 1 else None
                files.append(root / record.file)
                named.append("" if place is None else plan.data.classes[place])
                units.append(f"{folder.name}/{record.unit}")
    columns = (plan.data.unit_column or "", plan.data.class_column or "")
    return ImageFiles(tuple(files), tuple(named), tuple(units), *columns)


def diagnostics_of(folder: Path) -> dict[str, float]:
    """The distances that `diagnose` wrote."""
    distances: dict[str, float] = json.loads((folder / "diagnostics.json").read_text(encoding="utf-8"))["distance"]
    return distances
