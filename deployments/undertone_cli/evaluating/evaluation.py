"""A release held against real images: distances, classifiers, membership, each beside its controls."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from undertone.core.canonical import Json
from undertone.core.progress import reporter
from undertone.errors import InputError
from undertone.evaluation.classifier import Classifier, cross_fitted, halves
from undertone.evaluation.distances import Distances, distances_to
from undertone.evaluation.membership import MEANING, Attack
from undertone.evaluation.scores import Scores, scored
from undertone.models.pinned import PinnedBase
from undertone_cli.evaluating.attacks import Drawn, attacks
from undertone_cli.evaluating.images import PUBLIC, Features, ImageFiles, ImageSet, Pixels, featured
from undertone_cli.evaluating.tables import BASE, RELEASE
from undertone_cli.evaluating.variants import Sampling, Variant, drawn, loaded

LABEL = "private diagnostic: computed from real images without noise; it stays where they are and enters no release"
REAL = "real images"
SHOWN, SHUFFLES = 8, 8
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Bench:
    """What images are judged with, and how much is drawn and tried.

    encoders: features by name, the public encoder's among them. draws: pairs of noise and time for an image's loss.
    attacked: most images of each side whose losses are compared.
    """

    pinned: PinnedBase
    device: str
    encoders: Mapping[str, Features]
    sampling: Sampling
    draws: int = 8
    attacked: int = 256


@dataclass(frozen=True)
class Shuffled:
    """AUC of classifiers whose training images got each other's classes: their mean is near .5."""

    mean: float
    runs: tuple[float, ...]


@dataclass(frozen=True)
class Membership:
    """Attack -> what it was tried on -> how well it did; `meaning` says what that shows and what not."""

    members: int
    others: int
    attacks: Mapping[str, Mapping[str, Attack]]
    meaning: str = MEANING


@dataclass
class Evaluation:
    """What was found (docs/evaluation.md).

    distances: encoder -> variant -> figures. classifiers: what was trained on -> scores on the real images; empty
    without classes, and `shuffled` None. grid: the first images of each variant and class, for people.
    """

    distances: Mapping[str, Mapping[str, Distances]] = field(default_factory=dict)
    classifiers: Mapping[str, Scores] = field(default_factory=dict)
    shuffled: Shuffled | None = None
    membership: Membership | None = None
    grid: dict[str, list[Image.Image]] = field(default_factory=dict)

    def figures(self) -> Json:
        """All but the images, as JSON has it; what has no value is null."""
        return plain({name: getattr(self, name) for name in ("distances", "classifiers", "shuffled", "membership")})


def evaluated(variants: Sequence[Variant], real: ImageFiles, members: ImageFiles | None, bench: Bench) -> Evaluation:
    """Hold what variants draw, the release and the base among them, against real images.

    Args:
        variants: all with prompts for the same classes.
        real: images that were not trained on, of those classes and of at least two units.
        members: images that were trained on; None: no membership inference.
        bench: see there.

    Raises:
        InputError: too few images of something.
        DataError: an image cannot be read.
    """
    found, classes = Evaluation(), list(variants[0].prompts)
    half = halves(real.units, np.array([classes.index(one) for one in real.classes]))
    images = real.featured("real images", bench.pinned.image_size, bench.encoders)
    made = [draw_variant(variant, bench, found.grid) for variant in variants]
    found.distances = _compared(images, half, made)
    if len(classes) > 1:

        def by_halves() -> Probabilities:
            return cross_fitted(images.features[PUBLIC], images.places(classes), len(classes), images.units, half)

        found.classifiers, found.shuffled = classified(images, made, classes, by_halves)
    if members is not None:
        found.membership = membership_of(members, real, made, bench)
    return found


def draw_variant(variant: Variant, bench: Bench, grid: dict[str, list[Image.Image]]) -> Drawn:
    """What a variant draws, as features; the first images of each class go into `grid`."""
    base = loaded(bench.pinned, bench.device, variant.weights, safety_checker=True)

    def images() -> Iterator[tuple[str, str, Pixels]]:
        with reporter().task(f"drawing {variant.name}", len(variant.prompts) * bench.sampling.count) as progress:
            for number, (one, image) in enumerate(drawn(base, variant.prompts, bench.sampling)):
                row = grid.setdefault(f"{variant.name}: {one}" if one else variant.name, [])
                if len(row) < SHOWN:
                    row.append(image)
                yield one, str(number), np.asarray(image.convert("RGB"))
                progress(1)

    return Drawn(variant, featured(images(), bench.encoders))


def membership_of(members: ImageFiles, others: ImageFiles, made: Sequence[Drawn], bench: Bench) -> Membership:
    """Membership inference with the release and, as its baseline, with the base."""
    by_name = {one.variant.name: one for one in made}
    sides = members.at_most(bench.attacked), others.at_most(bench.attacked)
    pair = (by_name[BASE], by_name[RELEASE])
    found = attacks(*sides, pair, bench.pinned, bench.device, bench.encoders[PUBLIC], bench.draws)
    return Membership(len(sides[0]), len(sides[1]), found)


def _compared(images: ImageSet, half: NDArray[np.bool_], made: Sequence[Drawn]) -> dict[str, dict[str, Distances]]:
    """Each variant, and the other half of the real images, held against one half: as many images, in the same shares.

    The measures but KID change with the number of images, and all of them with the shares of classes.
    """
    classes = np.asarray(images.classes)
    sets = {REAL: (images, np.flatnonzero(~half))}
    sets |= {one.variant.name: (one.images, np.arange(len(one.images))) for one in made}
    numbers = in_shares(Counter(classes[half].tolist()), [Counter(_classes(*one)) for one in sets.values()])
    found: dict[str, dict[str, Distances]] = {}
    for encoder, features in images.features.items():
        reference = features[half]
        found[encoder] = {
            name: distances_to(reference, one.features[encoder][chosen(one, among, numbers)])
            for name, (one, among) in sets.items()
        }
    return found


def in_shares(reference: Counter[str], there: Sequence[Counter[str]]) -> dict[str, int]:
    """How many images of each class, in the shares of the reference, every set has."""
    total = sum(reference.values())
    most = min(counts[one] * total / n for counts in there for one, n in reference.items())
    return {one: math.floor(most * n / total + 1e-9) for one, n in reference.items()}


def _classes(images: ImageSet, among: NDArray[np.intp]) -> list[str]:
    return [images.classes[place] for place in among]


def chosen(images: ImageSet, among: NDArray[np.intp], numbers: Mapping[str, int]) -> NDArray[np.intp]:
    """The places of so many images of each class, evenly over those at hand."""
    classes, found = np.asarray(_classes(images, among)), []
    for one, n in numbers.items():
        places = among[classes == one]
        found.append(places[np.linspace(0, len(places) - 1, n).round().astype(np.intp)])
    return np.concatenate(found)


def classified(
    images: ImageSet, made: Sequence[Drawn], classes: Sequence[str], real: Callable[[], Probabilities]
) -> tuple[dict[str, Scores], Shuffled]:
    """Classifiers trained on what each variant drew, tested on real images.

    Args:
        images: the real images.
        made: variants and what they drew, the release among them.
        classes: those of both.
        real: the control: probabilities of classes for `images`, by a classifier that was trained on others.

    Raises:
        InputError: a variant drew too few images of a class.
    """
    features, truth = images.features[PUBLIC], images.places(classes)
    found, several = dict[str, Scores](), len(classes)
    with reporter().task("classifiers", len(made) + 1 + SHUFFLES) as progress:
        for one in made:
            model = Classifier(one.images.features[PUBLIC], one.images.places(classes), several)
            found[one.variant.name] = scored(model.probabilities(features), truth, classes, images.units)
            progress(1)
        try:
            found[REAL] = scored(real(), truth, classes, images.units)
        except InputError as error:
            reporter().line(f"no classifier trained on real images to compare with: {error}")
        progress(1)
        release = next(one.images for one in made if one.variant.name == RELEASE)
        runs = []
        for number in range(SHUFFLES):
            mixed = np.random.Generator(np.random.Philox(key=number)).permutation(release.places(classes))
            model = Classifier(release.features[PUBLIC], mixed, several)
            runs.append(scored(model.probabilities(features), truth, classes, images.units).auc.value)
            progress(1)
    return found, Shuffled(float(np.mean(runs)), tuple(runs))


def plain(value: object) -> Json:
    """Dataclasses, mappings and tuples as JSON has them; NaN is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is no JSON")
