"""What the finding costs without images: logistic regression under the same guarantee, on the public encoder.

    python benchmarks/private_classifier.py RUN [--epsilons 1 4 10] [--seeds 1 2 3] [--json FILE]

RUN is a kept run of `benchmarks/xray.py --finding --keep FOLDER` (without one the benchmark says so and ends): the same
patients are trained on and held out. A row is the mean gradient of one patient's images, clipped, cut to integers and
noised by this project's mechanism, every patient in every round; steps are DoG's. Features are the first principal
components of public drawings. Nothing was chosen on these images: components, rounds and C are the constants below,
set before the first run.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import Row, parser, publish

from undertone.evaluation.classifier import Classifier
from undertone.evaluation.kid import PublicFeatures
from undertone.evaluation.scores import Scores, scored
from undertone.methods.gradient.dog import DistanceOverGradients
from undertone.models.pinned import pin
from undertone.privacy.accounting import GaussianEvent, calibrate, epsilon_claim
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.noise import rounded_gaussian
from undertone.privacy.quantise import choose_grid, clip_and_quantise
from undertone.public_images.procedural import draw
from undertone_cli import diagnostics
from undertone_cli.evaluating.images import PUBLIC, ImageSet
from undertone_server.run_folder import RunFolder

COMPONENTS, ROUNDS, CLIP_NORM, FIRST_STEP, DRAWINGS = 32, 20, 0.5, 0.25, 512


class Components:
    """Public drawings' first principal components; a median drawing has length 1, and a constant 1 stands behind."""

    def __init__(self) -> None:
        drawings = np.stack([draw(7, index, 64).pixels for index in range(DRAWINGS)])
        self.public = PublicFeatures.from_public(drawings)
        features = self.public.of(drawings)
        self.axes = np.linalg.svd(features, full_matrices=False)[2][:COMPONENTS]
        self.length = float(np.median(np.linalg.norm(features @ self.axes.T, axis=1)))

    def of(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n, COMPONENTS + 1]."""
        return np.pad(features @ self.axes.T / self.length, ((0, 0), (0, 1)), constant_values=1.0)


def unit_gradients(
    x: NDArray[np.float64], truth: NDArray[np.int64], units: Sequence[str], w: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Each unit's mean gradient of the logistic loss at w, [units, d]."""
    found, place = np.unique(np.asarray(units), return_inverse=True)
    gradients = (1 / (1 + np.exp(-x @ w)) - truth)[:, None] * x
    rows = np.zeros((len(found), x.shape[1]))
    np.add.at(rows, place, gradients)
    return rows / np.bincount(place)[:, None]


def privately(
    x: NDArray[np.float64], truth: NDArray[np.int64], units: Sequence[str], total: int, epsilon: float, delta: float
) -> tuple[NDArray[np.float32], float]:
    """W after T noised rounds at p = 1, and epsilon as the accountant claims it; `total` is the published N."""
    grid = choose_grid(CLIP_NORM, 1.0, total, 1)
    sigma = int(np.ceil(calibrate(epsilon, delta, 1.0, ROUNDS) * grid.clip_units))
    server = DistanceOverGradients(FIRST_STEP)
    kept = server.start(np.zeros(x.shape[1], dtype=np.float32))
    for _ in range(ROUNDS):
        rows = clip_and_quantise(unit_gradients(x, truth, units, kept[: x.shape[1]]), grid)
        noised = rows.sum(0) + rounded_gaussian(OsEntropy(), sigma, x.shape[1])
        kept = server.advance(kept, noised / (grid.scale * total))
    event = GaussianEvent(sigma, grid.clip_units, 1.0, ROUNDS)
    return server.released(kept), epsilon_claim([event], delta)


def said(w: NDArray[np.float32], x: NDArray[np.float64], test: ImageSet, classes: list[str]) -> Scores:
    """What w says of the held-out images."""
    second = 1 / (1 + np.exp(-x @ w))
    return scored(np.stack([1 - second, second], axis=1), test.places(classes), classes, test.units)


def regressed(run: RunFolder, epsilons: Sequence[float], seeds: Sequence[int]) -> list[tuple[str, Scores]]:
    """What it costs without images: a classifier of real images without privacy, then each epsilon and repetition."""
    plan, components = run.plan(), Components()
    classes, size, encoders = list(plan.data.classes), pin(plan.model.base).image_size, {PUBLIC: components.public.of}
    read = partial(diagnostics._files, run, plan, classes=classes)
    train = read("sites").featured("training images", size, encoders)
    test = read("holdout").featured("held-out images", size, encoders)
    x, x_test = components.of(train.features[PUBLIC]), components.of(test.features[PUBLIC])
    model = Classifier(train.features[PUBLIC], train.places(classes), len(classes), train.units)
    scores = scored(model.probabilities(test.features[PUBLIC]), test.places(classes), classes, test.units)
    found, total = [("real images, no privacy", scores)], sum(plan.cohort.units.values())
    for epsilon in epsilons:
        for seed in seeds:
            w, claimed = privately(x, train.places(classes), train.units, total, epsilon, plan.privacy.delta)
            found.append((f"epsilon {claimed:.3f}, run {seed}", said(w, x_test, test, classes)))
    return found


def main() -> None:
    """Train at each epsilon, test on patients that were held out."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("run", type=Path, nargs="?")
    arguments.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 10.0])
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="repetitions: noise never repeats")
    chosen = arguments.parse_args()
    if chosen.run is None:
        print("skipped: no run with a finding; keep one with `benchmarks/xray.py --finding --keep FOLDER`")
        return
    found = regressed(RunFolder(chosen.run), chosen.epsilons, chosen.seeds)
    rows = [Row(case, "AUC, low to high", one.auc.value, one.auc.low, f"to {one.auc.high:.3f}") for case, one in found]
    publish("a finding by logistic regression, no images made", rows, chosen.json)


if __name__ == "__main__":
    main()
