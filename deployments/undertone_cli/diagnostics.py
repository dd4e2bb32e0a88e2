"""Distances of generated images to held-out private ones: simulation only, never in a release (PRIVACY 19).

Every line reads private data without noise, so it may be shown where the data are and nowhere else.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undertone.core.progress import reporter
from undertone.data.images import load_image
from undertone.data.records import RecordTable, read_records
from undertone.evaluation.kid import EncoderFeatures, PublicFeatures, kid
from undertone.methods.protocol import Method
from undertone.methods.weights import attach
from undertone.models.base import load_base
from undertone.models.devices import choose
from undertone.models.grid import save_grid
from undertone.models.pinned import PinnedBase, check_pins, pin
from undertone.public_images.procedural import draw
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.datasets import data_sets
from undertone_client.site.folder import SiteDir
from undertone_server.run_folder import RunFolder

IMAGES, STEPS, RANDOM_DIRECTIONS, SHOWN = 128, 15, 3, 8
_PUBLIC_SEED, _PUBLIC_IMAGES = 7, 512
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
    public = np.stack([draw(_PUBLIC_SEED, index, pinned.image_size).pixels for index in range(_PUBLIC_IMAGES)])
    (device,) = choose()
    measures: tuple[PublicFeatures | EncoderFeatures, ...] = (
        PublicFeatures.from_public(public),
        EncoderFeatures.from_public(load_base(pinned, device), public),
    )
    private = _pixels(run, plan, "holdout", pinned.image_size)
    held_out = [features.of(private) for features in measures]

    def distance(images: NDArray[np.uint8]) -> list[float]:
        return [kid(features.of(images), held) for features, held in zip(measures, held_out, strict=True)]

    found = {"training images (floor)": distance(_pixels(run, plan, "sites", pinned.image_size))}
    shown = {}
    variants = _variants(run, plan, method, pinned)
    with reporter().task("diagnostics (simulation only)", len(variants)) as progress:
        for name, (prompt, state) in variants.items():
            adapted = load_base(pinned, device)
            if state is not None:
                attach(adapted, method.weights(pinned, state))
            images = adapted.sample([prompt] * IMAGES, list(range(IMAGES)), steps=STEPS, guidance=1.0)
            found[name] = distance(np.stack([np.asarray(image.convert("RGB")) for image in images]))
            shown[name] = images[:SHOWN]
            progress(1)
    save_grid(folder / "diagnostics.png", shown)
    public_kid, own_kid = ({name: values[number] for name, values in found.items()} for number in range(len(measures)))
    report = {
        "label": LABEL,
        "measure": "KID on standardised features of the public encoder",
        "distance": public_kid,
        "by the base's own autoencoder": own_kid,
    }
    (folder / "diagnostics.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return public_kid


def _variants(
    run: RunFolder, plan: Plan, method: Method, pinned: PinnedBase
) -> dict[str, tuple[str, NDArray[np.float32] | None]]:
    """Name -> (prompt, public state): the release, and what it must be compared with."""
    before, after = method.sample_prompts(plan.data.caption)
    start, kept = method.initial_state(pinned), run.kept_state(plan.privacy.rounds)
    w_0, w = method.released(start), None if kept is None else method.released(kept)
    variants: dict[str, tuple[str, NDArray[np.float32] | None]] = {
        "before": (before, None),
        "after": (after, w),
    }
    rows = _kept_rows(run, plan) if plan.privacy.rounds == 1 else np.zeros(0)
    if rows.size:
        variants["non-private mean"] = (after, method.released(method.step(start, rows.mean(0))))
    length = float(np.linalg.norm(w - w_0)) if w is not None else 0.0
    for number in range(1, RANDOM_DIRECTIONS + 1):
        direction = np.random.Generator(np.random.Philox(key=number)).standard_normal(w_0.size)
        moved = w_0 + length * direction / np.linalg.norm(direction)
        variants[f"random direction {number}"] = (after, moved.astype(np.float32))
    return variants


def _kept_rows(run: RunFolder, plan: Plan) -> NDArray[np.float64]:
    """The rows that the simulated nodes kept, un-noised, [units, d]."""
    rows: list[NDArray[np.float32]] = []
    for folder in sorted((run.folder / "sites").iterdir()):
        with AttemptStore(SiteDir(folder).attempt_store) as store:
            rows += store.rows((plan.digest, 1, 1)).values()
    return np.array(rows, dtype=np.float64)


def _pixels(run: RunFolder, plan: Plan, half: str, size: int) -> NDArray[np.uint8]:
    """All images of one half (`sites` or `holdout`), [n, size, size, 3]."""
    images: list[NDArray[np.uint8]] = []
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
        )
        images += [load_image(root / record.file, size) for record in table.records]
    return np.stack(images)


def diagnostics_of(folder: Path) -> dict[str, float]:
    """The distances that `diagnose` wrote."""
    distances: dict[str, float] = json.loads((folder / "diagnostics.json").read_text(encoding="utf-8"))["distance"]
    return distances
