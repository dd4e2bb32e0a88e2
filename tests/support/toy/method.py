"""`channel-shift`: the mean of each latent channel over a unit's images; the release shifts what the UNet predicts.

No torch here, so a plan is made without it.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from undertone.methods.toy.release import SHIFT_FILE

from undertone.core.captions import TOKEN, caption_fields, fill_caption
from undertone.core.config import Section
from undertone.errors import StudyError
from undertone.methods.classes import ClassShown
from undertone.methods.protocol import TEXT_TO_IMAGE, Automatic, Draw, Method, Progress, UnitRecords
from undertone.methods.release_format import ReleaseFormat, Weights
from undertone.models.interface import Base
from undertone.models.layout import Layout
from undertone.models.pinned import PinnedBase


class ShiftOptions(Section):
    """[method] keys of channel-shift."""

    strength: float = Field(default=1.0, gt=0, le=100)


class ChannelShift:
    """The method `channel-shift`; see the module's description."""

    name: ClassVar[str] = "channel-shift"
    options_type: ClassVar[type[Section]] = ShiftOptions
    one_shot: ClassVar[bool] = False
    few_drawings: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = TEXT_TO_IMAGE
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (SHIFT_FILE,)
    automatic: ClassVar[Automatic] = Automatic()

    def __init__(self, options: ShiftOptions) -> None:
        self.options = options

    @property
    def alignment(self) -> float:
        """As long as C, should all rows point one way."""
        return 1.0

    @property
    def release_format(self) -> ReleaseFormat:
        """The one there is."""
        return SHIFT_FILE

    @property
    def token(self) -> str:
        """It learns no word."""
        return ""

    def lighter(self) -> Sequence[tuple[str, Method]]:
        """A row takes next to no memory."""
        return []

    def check(self, base: PinnedBase, caption: str) -> None:
        """The caption has no word to learn."""
        del base
        if TOKEN in caption_fields(caption):
            raise StudyError("channel-shift learns no word")

    def layout(self, base: PinnedBase) -> Layout:
        """One value for each latent channel."""
        return Layout((("shift", base.shapes("unet")["conv_out.bias"]),))

    def dimension(self, base: PinnedBase) -> int:
        """As many."""
        return self.layout(base).size

    def initial_state(self, base: PinnedBase) -> NDArray[np.float32]:
        """No shift."""
        return np.zeros(self.layout(base).size, dtype=np.float32)

    @property
    def passes(self) -> int:
        """None: the base computes nothing."""
        return 0

    def public_lengths(self, base: Base, caption: str, count: int) -> NDArray[np.float64]:
        """Latents are scaled to a deviation of one."""
        del caption
        return np.full(count, np.sqrt(self.layout(base.pinned).size))

    def reach(self, clip_norm: float, length: float) -> float | None:
        """None: the strength is free."""
        del clip_norm, length
        return None

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        """All of them."""
        del generator
        return range(records)

    def rows(
        self, base: Base, state: NDArray[np.float32], units: Sequence[UnitRecords], progress: Progress
    ) -> NDArray[np.float32]:
        """Mean of each channel, [n, channels]."""
        del base
        progress(len(units))
        return np.array([unit.inputs.mean((0, 2, 3)) for unit in units], dtype=np.float32).reshape(-1, state.size)

    def sums(self, base: PinnedBase) -> bool:
        """No."""
        del base
        return False

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """W + strength * mean."""
        return np.asarray(state + self.options.strength * mean, dtype=np.float32)

    def warm_start(
        self,
        base: Base,
        latents: NDArray[np.float32],
        classes: NDArray[np.int64] | None,
        steps: int,
        seed: int,
    ) -> NDArray[np.float32]:
        """In steps, half of the way each, to the mean of each channel over what was drawn."""
        del classes
        w, batches = self.initial_state(base.pinned), np.random.default_rng(seed)
        for _ in range(steps):
            batch = latents[batches.integers(len(latents), size=8)]
            w = np.asarray(w + 0.5 * (batch.mean((0, 2, 3)) - w), dtype=np.float32)
        return w

    def released(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The state itself."""
        return state

    def weights(self, base: PinnedBase, w: NDArray[np.float32]) -> Weights:
        """All of w."""
        return self.release_format.write(self.layout(base), w)

    def fixed(self, name: str) -> Draw | None:
        """None: a release is the shift alone."""
        del name
        return None

    def sample_prompts(self, caption: str, of: ClassShown | None = None) -> tuple[str, str]:
        """The caption, its columns but that of the class empty, before and after."""
        prompt = fill_caption(caption, self.token, {} if of is None else of.columns)
        return prompt, prompt
