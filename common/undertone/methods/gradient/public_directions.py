"""Where a method's public directions come from: gradients of drawings at its start, made by whoever needs them.

Recomputed by each node and the coordinator, never sent (PRIVACY 25). A function of the plan's options, the base and the
code alone: no argument here holds anything that a site read.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.core.canonical import Json
from undertone.core.captions import fill_caption
from undertone.core.code_digest import package_sha256
from undertone.core.progress import reporter
from undertone.errors import DirectionsDiffer, ModelError, StudyError
from undertone.methods.gradient.directions import Directions, leading_directions, same_directions
from undertone.methods.gradient.kept_directions import directions_for, facts_for
from undertone.methods.gradient.options import GradientOptions
from undertone.methods.protocol import Said, UnitRecords
from undertone.models.devices import choose
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase

# Other drawings than those whose rows set C (`method.py`), and others again for what directions keep.
_SEED, _HELD_OUT_SEED, _HELD_OUT = 20_300_101, 20_400_101, 32
_DRAWS = 2  # for each drawing: more drawings are worth more than more draws
_AT_ONCE_BYTES = 64 << 20
_MOST_AT_ONCE = 8
_LARGEST = 2 << 30  # bytes of all gradients and directions


def drawings_that_fit(k: int, d: int) -> int:
    """Of how many drawings k directions in d values may be made; 0 where not even k."""
    fitting = _LARGEST // (4 * d) - _HELD_OUT - k
    return fitting if fitting >= k else 0


Gradients = Callable[[Base, list[UnitRecords], GradientOptions], NDArray[np.float32]]
"""Units, and how many draws each has -> their gradients in w at the start, [n, D]."""


@dataclass(frozen=True)
class PublicDirections:
    """The directions of one method on one base; see `directions.py` for the mathematics.

    method: its name; layout: of w, [D]; token: the word in place of {token} in the caption; classes: over how many of
    them drawings are spread.
    """

    method: str
    options: GradientOptions
    base: PinnedBase
    layout: Layout
    token: str
    gradients: Gradients
    classes: int = 1

    def settled(self) -> tuple[GradientOptions, Said]:
        """The options with the fingerprint in them, and what a person who plans should read; caption included.

        Raises:
            StudyError: too many or too large; or the study says another fingerprint.
        """
        self._check_size()
        facts = facts_for(self._key(), lambda: self._make(self._load()))
        said = self.options.direction_check
        if said and not same_directions(said, facts.fingerprint):
            raise StudyError("method.direction_check is not that of this base and these options; leave it out")
        line = (
            f"{self.options.directions} in {self.layout.size:,} values, from {self.options.direction_drawings} "
            f"drawings; they keep {facts.of_rows:.0%} of other drawings' gradients and {facts.of_mean:.0%} of their "
            "mean"
        )
        return self.options.model_copy(update={"direction_check": facts.fingerprint}), [("public directions", line)]

    def check_planned(self) -> None:
        """A plan says which directions it was made with.

        Raises:
            DirectionsDiffer: it does not.
        """
        if not self.options.direction_check:
            raise DirectionsDiffer(
                f"a plan with method.directions = {self.options.directions} says by direction_check which they are, "
                "and this one does not; plan anew"
            )

    def found(self, loaded: Base | None = None) -> Directions:
        """The directions, from this process, this machine or made now; on `loaded`, else on a base loaded for it.

        Raises:
            DirectionsDiffer: they are not those that the plan was made with.
        """
        found, facts = directions_for(self._key(), lambda: self._make(loaded or self._load()))
        check = self.options.direction_check
        if check and not same_directions(facts.fingerprint, check):
            raise DirectionsDiffer(
                f"the {self.options.directions} public directions made on this machine are not those of the plan "
                f"({facts.fingerprint}; the plan says {check}): its libraries draw or compute otherwise. Install what "
                "constraints.txt names, and delete what this machine keeps of public directions"
            )
        return found

    def _check_size(self) -> None:
        """What they take in memory is a public fact, and bounded.

        Raises:
            StudyError: more directions than values, or too large.
        """
        k, drawings, d = self.options.directions, self.options.direction_drawings, self.layout.size
        bytes_ = 4 * d * (k + drawings + _HELD_OUT)
        if k > d:
            raise StudyError(f"method.directions = {k}: {self.method} adapts {d} values here; ask for fewer")
        if bytes_ > _LARGEST:
            raise StudyError(
                f"{k} directions in {d} values from {drawings} drawings take {bytes_ / 2**30:.1f} GiB, and at most "
                f"{_LARGEST >> 30} are used: {max(0, _LARGEST // (4 * d) - _HELD_OUT)} directions and drawings in all. "
                "Lower method.direction_drawings and method.directions, or train fewer values"
            )

    def _load(self) -> Base:
        from undertone.models.base import load_base  # torch: only where directions are made

        return load_base(self.base, choose()[0])

    def _make(self, base: Base) -> Directions:
        self._check_size()  # at a node too, before anything is as large as a plan says
        count = self.options.direction_drawings
        with reporter().task(f"{self.options.directions} public directions", count + _HELD_OUT) as progress:
            made = self._of_drawings(base, _SEED, count, progress)
            held_out = self._of_drawings(base, _HELD_OUT_SEED, _HELD_OUT, progress)
        if not np.isfinite(held_out).all():
            raise ModelError("the gradient of a public drawing is not finite on this base; it has no public directions")
        return leading_directions(made, held_out, self.options.directions)

    def _of_drawings(self, base: Base, seed: int, count: int, progress: Callable[[int], None]) -> NDArray[np.float32]:
        """Gradients of `count` drawings, [count, D], some at a time."""
        from undertone.methods.public import public_units  # drawings: slow to import

        found = np.empty((count, self.layout.size), dtype=np.float32)
        caption = fill_caption(self.options.direction_caption, self.token, {})
        at_once = max(1, min(_MOST_AT_ONCE, _AT_ONCE_BYTES // (4 * self.layout.size)))
        options = self.options.model_copy(update={"draws": _DRAWS, "records": 1, "caption_dropout": 0.0})
        for first in range(0, count, at_once):
            units = public_units(base, seed, min(at_once, count - first), caption, first, self.classes)
            found[first : first + len(units)] = self.gradients(base, units, options)
            progress(len(units))
        return found

    def _key(self) -> dict[str, Json]:
        """All that they follow from. Seeds, draws and the algorithm stand in the code."""
        return {
            "code": package_sha256(),
            "base": dict(self.base.files),
            "method": self.method,
            "options": self.options.directions_follow_from(),
            "layout": self.layout.digest,
        }
