"""`select`: the targets that dp-lora trains are chosen by noisy gradient size, as in DP-SAPF (arXiv 2605.30312).

Round 1, the stage `selection`, is charged like any other: rows are gradients of all candidate targets at the start,
clipped to `select_clip`, and its noise takes `select_share` of the study's epsilon. With V the noised mean, of values
V_l [d_l] for target l and noise of deviation sigma in each,

    score_l = (|V_l|^2 - d_l sigma^2) / d_l

is an unbiased estimate of the mean square of a gradient's values: zero in the mean for a target that has none, however
large the noise, and however many values it has. The
`select` best are trained from round 2 on. Their rows hold the gradients of the chosen targets one after the other,
filled up with zeros to the length that the largest targets would need: d is the same whatever was chosen. The others
stay at the start, where B = 0: the model is the base's there.

    state = [w (d) | chosen (k, 0 or 1 for each target) | the optimiser's memory | k]      sites get w and chosen
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from undertone.core.captions import fill_caption
from undertone.core.progress import reporter
from undertone.errors import MechanismViolation
from undertone.methods.gradient.method import PUBLIC_AT_ONCE, PUBLIC_SEED
from undertone.methods.gradient.optimisers import AnyOptimiser
from undertone.methods.lora.method import DPLoRA, DPLoRAOptions
from undertone.methods.lora.targets import State, Targets
from undertone.methods.protocol import MethodStage, Progress, UnitRecords
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase

if TYPE_CHECKING:
    from undertone.methods.gradient.trained import Trained  # torch

SELECTION = "selection"


class SelectingLoRA(DPLoRA):
    """The method `dp-lora` as a study names it: one stage of all targets, or with `select` two."""

    def stages(self, base: PinnedBase) -> Sequence[MethodStage]:
        """The round of all candidates, then those of the chosen ones.

        Raises:
            StudyError: there are not more targets than are to be chosen.
        """
        if not self.options.select:
            return [MethodStage("", self, self.dimension(base))]
        options, targets = self.options, self._targets(base)
        return [
            MethodStage(
                SELECTION,
                Scoring(options, targets),
                targets.size,
                rounds=1,
                share=options.select_share,
                clip_norm=options.select_clip,
                check=targets.check_none_chosen,
            ),
            MethodStage("", Chosen(options, targets), targets.longest, check=targets.check_chosen),
        ]

    def sent(self, base: PinnedBase) -> int:
        """The vector w, and with `select` which targets were chosen."""
        return self.dimension(base) + (len(self._targets(base).names) if self.options.select else 0)

    def state_at(self, base: PinnedBase, w: State) -> State:
        """With `select` no target is chosen yet."""
        start = super().state_at(base, w)
        if not self.options.select:
            return start
        return _joined(start, np.zeros(len(self._targets(base).names), dtype=np.float32), self.dimension(base))

    def released(self, state: State) -> State:
        """As any gradient method's, of what stands beside the choice."""
        return super().released(_split(state, self._optimiser)[0] if self.options.select else state)

    def _targets(self, base: PinnedBase) -> Targets:
        return Targets.of(self.layout(base), self.options.select)


class _OfTargets(DPLoRA):
    """What one stage asks of dp-lora; the targets follow from options and base."""

    def __init__(self, options: DPLoRAOptions, targets: Targets) -> None:
        super().__init__(options)
        self.targets = targets

    def lighter(self) -> Sequence[tuple[str, "DPLoRA"]]:
        """As any gradient method, in the same stage."""
        return [(advice, type(self)(less, self.targets)) for advice, less in self._lighter_options()]

    def averaging(self) -> Sequence[tuple[str, "DPLoRA"]]:
        """As any gradient method, in the same stage."""
        return [(key, type(self)(other, self.targets)) for key, other in self._averaging_options()]


class Scoring(_OfTargets):
    """The stage `selection`: gradients of all candidates at the start; its step chooses."""

    def rows(self, base: Base, state: State, units: Sequence[UnitRecords], progress: Progress) -> State:
        """Each unit's gradient in all targets, [n, d]."""
        return super().rows(base, state[: self.targets.size], units, progress)

    def clipped_sum(
        self, base: Base, state: State, batch: Sequence[UnitRecords | None], *, scale: int, clip_units: int
    ) -> NDArray[np.int64]:
        """Their clipped integer sum, [d]."""
        return super().clipped_sum(base, state[: self.targets.size], batch, scale=scale, clip_units=clip_units)

    def step(self, state: State, mean: NDArray[np.float64]) -> State:
        """Nothing is chosen without knowing the noise.

        Raises:
            MechanismViolation: always.
        """
        raise MechanismViolation("targets are chosen from noised squares less what noise adds to them: see step_from")

    def step_from(self, state: State, mean: NDArray[np.float64], deviation: float) -> State:
        """The state with the best targets chosen; w and the optimiser's memory stay."""
        kept, _ = _split(state, self._optimiser)
        return _joined(kept, self.targets.best(mean, deviation), self.targets.size)


class Chosen(_OfTargets):
    """The rounds after it: the chosen targets alone are trained."""

    def _trained(self, base: Base, w: State) -> AbstractContextManager["Trained"]:
        """With the chosen targets' tensors asking for gradients; `w` is what sites are sent."""
        from undertone.methods.lora.adapters import TrainedLora  # torch, peft

        layout, size = self.layout(base.pinned), self.targets.size
        chosen = {name for name, one in zip(self.targets.names, w[size:], strict=True) if one}
        trained = [name for name, _ in layout.tensors if name.partition(".lora_")[0] in chosen]
        adapters = self._adapters(layout, w[:size])
        return TrainedLora(base, adapters, trained, self.options.rank, self.options.alpha)

    def rows(self, base: Base, state: State, units: Sequence[UnitRecords], progress: Progress) -> State:
        """Each unit's gradient in the chosen targets, zeros behind it, [n, longest]."""
        if not units:
            return np.zeros((0, self.targets.longest), dtype=np.float32)
        return self._filled(super().rows(base, state, units, progress))

    def clipped_sum(
        self, base: Base, state: State, batch: Sequence[UnitRecords | None], *, scale: int, clip_units: int
    ) -> NDArray[np.int64]:
        """Their clipped integer sum, [longest]."""
        found = super().clipped_sum(base, state, batch, scale=scale, clip_units=clip_units)
        return np.pad(found, (0, self.targets.longest - len(found)))

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Lengths of public drawings' gradients in the targets that those drawings would choose."""
        from undertone.methods.gradient.unit_gradients import unit_gradients  # torch: only where rows are made
        from undertone.methods.public import public_units

        units = public_units(base, PUBLIC_SEED, count, fill_caption(caption, self.token, {}))
        plain, start = DPLoRA(self.options), self._start(base.pinned)
        at_once = 1 if self._too_long(base.pinned) else PUBLIC_AT_ONCE
        total, squares = np.zeros(self.targets.size), list[NDArray[np.float64]]()
        with reporter().task("rows of public drawings", count) as progress:
            for first in range(0, count, at_once):
                part = units[first : first + at_once]
                with plain._trained(base, start) as trained:
                    found = unit_gradients(base, trained, part, self.options)
                total += found.sum(0, dtype=np.float64)
                squares.append(self.targets.squares(found))
                progress(len(part))
        chosen = self.targets.best(total / count, 0.0)
        lengths: NDArray[np.float64] = np.sqrt(np.concatenate(squares) @ chosen)
        return lengths

    def step(self, state: State, mean: NDArray[np.float64]) -> State:
        """One step of the server optimiser in the chosen targets; the others, and all kept of them, stay."""
        size, scalars = self.targets.size, self._optimiser.scalars
        kept, chosen = _split(state, self._optimiser)
        values, gradient = self.targets.values(chosen), np.zeros(size)
        gradient[values] = mean[: len(values)]
        after = self._optimiser.advance(kept, gradient)
        moved = kept[:-scalars].reshape(-1, size).copy()
        moved[:, values] = after[:-scalars].reshape(-1, size)[:, values]
        return _joined(np.append(moved.reshape(-1), after[-scalars:]), chosen, size)

    def _filled(self, rows: State) -> State:
        return np.pad(rows, ((0, 0), (0, self.targets.longest - rows.shape[1])))


def _joined(kept: State, chosen: State, size: int) -> State:
    """The state, from what an optimiser keeps for w [size] and the choice [k]."""
    parts = (kept[:size], chosen, kept[size:], np.array([len(chosen)]))
    return np.concatenate(parts).astype(np.float32, copy=False)


def _split(state: State, optimiser: AnyOptimiser) -> tuple[State, State]:
    """What the optimiser keeps, and the choice."""
    k = int(state[-1])
    size = (len(state) - 1 - optimiser.scalars - k) // optimiser.vectors
    return np.concatenate([state[:size], state[size + k : -1]]), state[size : size + k]
