"""The targets of dp-lora: each adapted layer's values in w, and which of them were chosen. No torch here."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undertone.errors import PlanChanged, StudyError
from undertone.models.layout import Layout

State = NDArray[np.float32]


@dataclass(frozen=True)
class Targets:
    """The k candidate targets of a layout, of which `select` are to be chosen.

    names: of the layers, in the order of the layout. ends: where each one's values end in w; it begins where the one
    before ends.
    """

    names: tuple[str, ...]
    ends: tuple[int, ...]
    select: int

    @classmethod
    def of(cls, layout: Layout, select: int) -> "Targets":
        """Those of a layout, whose tensors stand layer by layer.

        Raises:
            StudyError: there are not more than are to be chosen.
        """
        ends: dict[str, int] = {}
        end = 0
        for name, shape in layout.tensors:
            end += int(np.prod(shape))
            ends[name.partition(".lora_")[0]] = end
        if not 0 < select < len(ends):
            raise StudyError(
                f"method.select = {select}: there are {len(ends)} targets, so it takes 1 to {len(ends) - 1} of them; "
                "0 trains all"
            )
        return cls(tuple(ends), tuple(ends.values()), select)

    @property
    def size(self) -> int:
        """How many values w has."""
        return self.ends[-1]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many values each target has, [k]."""
        return np.diff([0, *self.ends])

    @property
    def longest(self) -> int:
        """The values of a row of chosen targets: the most that any choice has."""
        return int(np.sort(self.lengths)[-self.select :].sum())

    def squares(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """|x_l|^2 of each target's part of each row [..., d], in float64, [..., k]."""
        return np.add.reduceat(np.square(rows, dtype=np.float64), [0, *self.ends[:-1]], axis=-1)

    def scores(self, mean: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
        """(|V_l|^2 - d_l sigma^2) / d_l for each target: unbiased for its gradient's mean square, [..., k]."""
        scores: NDArray[np.float64] = (self.squares(mean) - self.lengths * deviation**2) / self.lengths
        return scores

    def best(self, mean: NDArray[np.float64], deviation: float) -> State:
        """The `select` targets with the largest scores: 1 for each of them, else 0, [k] float32.

        Of equal scores the first in the order of the layout counts as larger.
        """
        scores, chosen = self.scores(mean, deviation), np.zeros(len(self.names), dtype=np.float32)
        chosen[np.argsort(-scores, kind="stable")[: self.select]] = 1
        return chosen

    def values(self, chosen: State) -> NDArray[np.int64]:
        """Where in w the chosen targets' values stand, in order."""
        return np.flatnonzero(np.repeat(chosen != 0, self.lengths))

    def check_none_chosen(self, sent: State) -> None:
        """Before the selection nothing is chosen.

        Raises:
            PlanChanged: what was sent says something else.
        """
        if sent.shape != (self.size + len(self.names),) or np.any(sent[self.size :] != 0):
            raise PlanChanged("the model state chooses targets before the round that selects them")

    def check_chosen(self, sent: State) -> None:
        """After the selection as many are chosen as the plan says, each once.

        Raises:
            PlanChanged: what was sent says something else.
        """
        chosen = sent[self.size :]
        well_formed = chosen.shape == (len(self.names),) and np.all((chosen == 0) | (chosen == 1))
        if not well_formed or chosen.sum() != self.select:
            raise PlanChanged(f"the model state does not choose {self.select} of the {len(self.names)} targets")
