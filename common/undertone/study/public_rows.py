"""How long the rows of public drawings are: what C is where it is "auto", and what a study's own C is held against.

Nothing private is read, and the same base, method and code give the same lengths, so they are kept on disk: a second
plan needs no model. They never enter a plan but as C itself, rounded: a study's digest must not follow from what a
machine happens to know.
"""

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import Json
from undertone.core.code_digest import package_sha256
from undertone.core.progress import reporter
from undertone.core.public_cache import keep, kept
from undertone.methods.choosing import SteppingMethod
from undertone.methods.protocol import Method
from undertone.models.devices import CPU, choose
from undertone.models.pinned import PinnedBase
from undertone.study.pace import keep_pace, pass_size

if TYPE_CHECKING:
    from undertone.models.base import LoadedBase

_SHELF, _DISTANCES = "public-rows", "public-distances"
# As many set C.
DRAWINGS = 32
# As many say how far a step may go.
_DISTANCE_DRAWINGS = 16
# Passes x bytes of the UNet's weights x positions of a latent: one minute or so on one core. Inversions on
# embedded:tiny are 5e11 and take 6 s; on Stable Diffusion 1.5 rows are 9e14 and more, hours on a CPU, and measured
# where somebody asks.
UNASKED = 5e12


@dataclass(frozen=True)
class PublicRows:
    """Lengths of `drawings` rows, each from one public drawing, unclipped and at the study's start."""

    median: float
    longest: float
    drawings: int

    @classmethod
    def of(cls, lengths: NDArray[np.float64]) -> "PublicRows":
        """From the lengths themselves, [n], n at least 1."""
        return cls(float(np.median(lengths)), float(lengths.max()), len(lengths))

    @property
    def usable(self) -> bool:
        """Whether they say anything: a base that overflows gives no lengths, a method may start where all are 0."""
        return 0 < self.median <= self.longest < np.inf


def rows_for_c(base: PinnedBase, method: Method, caption: str) -> PublicRows:
    """The rows whose median is C, from the cache or made now: on the CPU, as everywhere."""
    return known_rows(base, method, caption, DRAWINGS) or _made(base, method, caption, DRAWINGS)


def public_distance(base: PinnedBase, method: SteppingMethod, caption: str) -> float:
    """How far steps may go by public drawings, to two digits; from the cache or made now, on the CPU as everywhere.

    Raises:
        StudyError: drawings do not say.
    """
    key = _key(base, method, caption, _DISTANCE_DRAWINGS)
    found = kept(_DISTANCES, key)
    if not isinstance(found, float) or not 0 < found < np.inf:
        found = float(f"{method.public_distance(_loaded(base, CPU), caption, _DISTANCE_DRAWINGS):.2g}")
        if not keep(_DISTANCES, key, found):
            reporter().line("how far public drawings move could not be kept; the next plan makes them again")
    return found


def known_for_check(base: PinnedBase, method: Method, caption: str) -> PublicRows | None:
    """The rows that a study's own C is held against, as far as the cache holds any."""
    known = (known_rows(base, method, caption, count) for count in (DRAWINGS, method.few_drawings))
    return next((rows for rows in known if rows is not None), None)


def made_for_check(base: PinnedBase, method: Method, caption: str, *, asked: bool) -> PublicRows | None:
    """The same, made now; None where making even a few takes long and nobody asked."""
    for count in (DRAWINGS, method.few_drawings):
        if work(base, method, count) <= UNASKED:
            return _made(base, method, caption, count)
    return _made(base, method, caption, method.few_drawings) if asked else None


def known_rows(base: PinnedBase, method: Method, caption: str, count: int) -> PublicRows | None:
    """What the cache holds of so many drawings; no model is loaded."""
    found = kept(_SHELF, _key(base, method, caption, count))
    if not isinstance(found, dict) or set(found) != {"median", "longest", "drawings"} or found["drawings"] != count:
        return None
    if not all(isinstance(found[name], float) for name in ("median", "longest")):
        return None
    return PublicRows(**found)


def work(base: PinnedBase, method: Method, count: int) -> float:
    """What so many rows cost, in the units of `UNASKED`; a public fact of base, method and options."""
    return count * method.passes * pass_size(base)


def _made(base: PinnedBase, method: Method, caption: str, count: int) -> PublicRows:
    # C is the same on every machine. A few rows set no C and may be made wherever that is fastest.
    device = CPU if count == DRAWINGS else choose()[0]
    loaded, began = _loaded(base, device), perf_counter()
    rows = PublicRows.of(method.public_lengths(loaded, caption, count))
    keep_pace(base, method, count, perf_counter() - began, device)
    if rows.usable and not keep(_SHELF, _key(base, method, caption, count), asdict(rows)):
        reporter().line("the lengths of public rows could not be kept; the next plan makes them again")
    return rows


def _loaded(base: PinnedBase, device: str) -> "LoadedBase":
    """The base in memory; the seam of the tests."""
    from undertone.models.base import load_base  # torch: only where rows are made

    return load_base(base, device)


def _key(base: PinnedBase, method: Method, caption: str, count: int) -> dict[str, Json]:
    """All that the rows follow from. The seeds of the drawings stand in the code."""
    return {
        "code": package_sha256(),
        "base": dict(base.files),
        "method": method.name,
        "of": type(method).__name__,  # a method may make other rows in another stage
        "options": method.options.model_dump(mode="json"),
        "caption": caption,
        "drawings": count,
    }
