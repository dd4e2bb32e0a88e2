"""A release held against real images: distances, classifiers, membership, each beside its controls."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass

import numpy as np
from PIL import Image

from undertone.core.canonical import Json
from undertone.core.progress import reporter
from undertone.evaluation.classifier import cross_fitted, halves
from undertone.evaluation.distances import Distances
from undertone.evaluation.membership import MEANING, Attack
from undertone.evaluation.scores import Scores
from undertone.models.pinned import PinnedBase
from undertone_cli.evaluating.attacks import Drawn, attacks
from undertone_cli.evaluating.classifiers import Probabilities, Shuffled, by_small_cnn, classified
from undertone_cli.evaluating.comparison import compared
from undertone_cli.evaluating.images import PUBLIC, Features, ImageFiles, Pixels, featured
from undertone_cli.evaluating.tables import BASE, RELEASE
from undertone_cli.evaluating.variants import Sampling, Variant, drawn, loaded

LABEL = "private diagnostic: computed from real images without noise; it stays where they are and enters no release"
SHOWN = 8


@dataclass(frozen=True)
class Bench:
    """What images are judged with, and how much is drawn and tried.

    encoders: features by name, the public encoder's among them. draws: pairs of noise and time for an image's loss.
    attacked: most images of each side whose losses are compared. cnn: whether small networks are trained too.
    """

    pinned: PinnedBase
    device: str
    encoders: Mapping[str, Features]
    sampling: Sampling
    draws: int = 8
    attacked: int = 256
    cnn: bool = False


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
    without classes, and `shuffled` None. small_cnn: the same by a network that learns from pixels, where asked for.
    grid: the first images of each variant and class, for people.
    """

    distances: Mapping[str, Mapping[str, Distances]] = field(default_factory=dict)
    classifiers: Mapping[str, Scores] = field(default_factory=dict)
    shuffled: Shuffled | None = None
    small_cnn: Mapping[str, Scores] = field(default_factory=dict)
    membership: Membership | None = None
    grid: dict[str, list[Image.Image]] = field(default_factory=dict)

    def figures(self) -> Json:
        """All but the images, as JSON has it; what has no value is null."""
        return plain({one.name: getattr(self, one.name) for one in fields(self) if one.name != "grid"})


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
    images = real.featured("real images", bench.pinned.image_size, bench.encoders, keep=bench.cnn)
    made = [draw_variant(variant, bench, found.grid) for variant in variants]
    found.distances = compared(images, half, made)
    if len(classes) > 1:

        def by_halves() -> Probabilities:
            return cross_fitted(images.features[PUBLIC], images.places(classes), len(classes), images.units, half)

        found.classifiers, found.shuffled = classified(images, made, classes, by_halves)
        if bench.cnn:
            found.small_cnn = by_small_cnn(images, half, made, classes)
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

    return Drawn(variant, featured(images(), bench.encoders, keep=bench.cnn))


def membership_of(members: ImageFiles, others: ImageFiles, made: Sequence[Drawn], bench: Bench) -> Membership:
    """Membership inference with the release and, as its baseline, with the base."""
    by_name = {one.variant.name: one for one in made}
    sides = members.at_most(bench.attacked), others.at_most(bench.attacked)
    pair = (by_name[BASE], by_name[RELEASE])
    found = attacks(*sides, pair, bench.pinned, bench.device, bench.encoders[PUBLIC], bench.draws)
    return Membership(len(sides[0]), len(sides[1]), found)


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
