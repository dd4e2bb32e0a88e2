"""Prototypes for tests: small ones, adversarial units, a slow plain Lloyd, and studies of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.images import write_csv
from tests.support.studies import write_study
from undertone.methods.classed import with_classes
from undertone.methods.protocol import UnitRecords
from undertone.methods.prototypes.method import Centres, DPPrototypes
from undertone.methods.prototypes.mixture import Floats, Prototypes, Sizes, start
from undertone.methods.prototypes.public_latents import PublicLatents
from undertone.methods.registry import method_for
from undertone.models.pinned import pin
from undertone.privacy.unit_randomness import row_generator
from undertone.public_images.handwriting import written_digit

# Few, and quickly made.
SMALL: dict[str, Any] = {"public_drawings": 12, "components": 3, "centres": 2, "lloyd_rounds": 2, "radius": 2.0}


def prototypes_of(classes: Sequence[str] = (), **options: Any) -> DPPrototypes:
    """The method as a study with these classes has it."""
    found = with_classes(method_for("dp-prototypes", SMALL | {"per_class": bool(classes)} | options), list(classes))
    assert isinstance(found, DPPrototypes)
    return found


def stage_methods(method: DPPrototypes) -> list[DPPrototypes]:
    """The method of each round."""
    return [Centres(method.options)] * method.options.lloyd_rounds + [method]


def some_start(sizes: Sizes, seed: int = 0) -> Prototypes:
    """Public prototypes whose classes are alike, centres a few deviations apart."""
    drawn = np.random.default_rng(seed)
    return start(
        2 * drawn.standard_normal((sizes.centres, sizes.components)), 0.7 * np.eye(sizes.components), sizes.classes
    )


def unit_of(z: NDArray[np.float64], places: Sequence[int], number: int = 0) -> UnitRecords:
    """A unit whose latents are z [m, k] themselves: for methods whose whitening is patched away."""
    return UnitRecords(
        z.astype(np.float32).reshape(len(z), 1, 1, -1),
        ("",) * len(z),
        row_generator(bytes([number % 256]) * 32),
        classes=np.array(places),
    )


def unwhitened(wanted: Any, *_: Any) -> PublicLatents:
    """In place of `kept_latents.found`: latents are coordinates as they are."""
    one = np.eye(wanted.components, dtype=np.float32)
    return PublicLatents(1.0, one[0] * 0, one, one, np.zeros((wanted.centres, len(one)), np.float32), one)


@dataclass(frozen=True)
class PlainLloyd:
    """The algorithm once more, slow and plain: lists, loops, exact denominators, no noise."""

    radius: float
    components: int

    def cut(self, away: list[float]) -> list[float]:
        length = sqrt(sum(one * one for one in away))
        return away if length <= self.radius else [one * self.radius / length for one in away]

    def nearest(self, z: Sequence[float], centres: Sequence[Sequence[float]]) -> int:
        distances = [sum((one - other) ** 2 for one, other in zip(z, centre, strict=True)) for centre in centres]
        return distances.index(min(distances))

    def moved(
        self, points: Sequence[tuple[int, Sequence[float]]], centres: list[list[list[float]]]
    ) -> list[list[list[float]]]:
        """One round over units of one record each."""
        after = []
        for place, of_class in enumerate(centres):
            held: list[list[list[float]]] = [[] for _ in of_class]
            for other, z in points:
                if other == place:
                    j = self.nearest(z, of_class)
                    held[j].append(self.cut([one - mu for one, mu in zip(z, of_class[j], strict=True)]))
            after.append(
                [
                    [mu + sum(one[i] for one in residuals) / len(residuals) for i, mu in enumerate(centre)]
                    if residuals
                    else list(centre)
                    for centre, residuals in zip(of_class, held, strict=True)
                ]
            )
        return after

    def covariance(
        self, points: Sequence[tuple[int, Sequence[float]]], centres: list[list[list[float]]], place: int
    ) -> Floats:
        """Of a class around its centres, and how many fall to each."""
        total, count = np.zeros((self.components, self.components)), 0
        for other, z in points:
            if other == place:
                mu = centres[place][self.nearest(z, centres[place])]
                away = np.array(self.cut([one - of for one, of in zip(z, mu, strict=True)]))
                total, count = total + np.outer(away, away), count + 1
        return total / count


def write_digits(folder: Path, count: int, size: int, sites: Sequence[str], digits: int = 3) -> Path:
    """An imagefolder of drawn handwritten digits, a patient each, with columns digit and site."""
    rows = []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        rng = np.random.Generator(np.random.Philox(key=np.array([31, number], dtype=np.uint64)))
        mask = np.asarray(written_digit(rng, number % digits).resize((size, size)))
        Image.fromarray(np.repeat(mask[:, :, None], 3, axis=2)).save(folder / "images" / f"{number:04d}.png")
        row = {"file_name": f"images/{number:04d}.png", "patient_id": f"patient-{number}"}
        rows.append(row | {"digit": str(number % digits), "site": sites[number // digits % len(sites)]})
    write_csv(folder / "metadata.csv", rows)
    return folder


def prototype_study(
    folder: Path, base: Path | str, sites: Mapping[str, int], classes: Sequence[str], **changes: Any
) -> Path:
    """A study of drawn digits, with their data beside it: three sites, p = 1; `privacy__epsilon` is a key."""
    count = sum(sites.values())
    size = pin(str(base)).image_size
    write_digits(folder / "data", count, size, list(sites), max(1, len(classes)))
    named = {"class_column": "digit", "classes": list(classes)} if classes else {}
    tables: dict[str, dict[str, Any]] = {
        "study": {"name": "prototypes"},
        "model": {"base": str(base)},
        "method": {"name": "dp-prototypes", **SMALL, "per_class": bool(classes)},
        "privacy": {"unit": "patient", "epsilon": 8.0, "delta": 1e-5, "rounds": 3, "allow_noisy": True},
        "data": {"caption": "a digit, {digit}", "unit_column": "patient_id"} | named,
        "cohort": {"min_sites": 2, "units": dict(sites)},
    }
    for where, value in changes.items():
        table, _, key = where.partition("__")
        tables.setdefault(table, {})[key] = value
    return write_study(folder / "study.toml", tables)
