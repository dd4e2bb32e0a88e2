"""A method of shards without torch: a row that follows from shard, query, generator and memory, worked out by hand."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tests.support.dummy import DummyFile, DummyMethod
from undertone.core.config import Section
from undertone.errors import MechanismViolation, PlanChanged
from undertone.methods.protocol import Automatic, Progress, UnitRecords
from undertone.methods.release_format import ReleaseFormat
from undertone.models.pinned import PinnedBase

ROW, SENT, MEMORY = 6, 3, 2
Values = NDArray[np.float32]


class ShardedOptions(Section):
    """`shards`: S. `remembers`: whether there is memory. `loud`: rows of length C and more, whose sign is the parity
    of the shard's pairs of images. `most`: records of a unit that enter."""

    token: str = "<dummy>"
    rate: float = 1.0
    shards: int = 4
    remembers: bool = True
    loud: bool = False
    most: int = 2


class ShardedDummy:
    """Prepared: (number of records, one draw, sum of latents). Memory: rows so far; a draw, and how many records."""

    name: ClassVar[str] = "dummy-shards"
    options_type: ClassVar[type[Section]] = ShardedOptions
    one_shot: ClassVar[bool] = False
    alignment = 1.0
    few_drawings: ClassVar[int] = 4
    needs: ClassVar[frozenset[str]] = frozenset()
    formats: ClassVar[tuple[ReleaseFormat, ...]] = (DummyFile(),)
    release_format = formats[0]
    automatic: ClassVar[Automatic] = Automatic(rounds=3, clip_share=1.0)
    passes = 1

    def __init__(self, options: ShardedOptions) -> None:
        self.options = options

    token = DummyMethod.token
    lighter = DummyMethod.lighter
    check = DummyMethod.check
    layout = DummyMethod.layout
    dimension = DummyMethod.dimension
    public_lengths = DummyMethod.public_lengths
    reach = DummyMethod.reach
    released = DummyMethod.released
    weights = DummyMethod.weights
    fixed = DummyMethod.fixed
    sample_prompts = DummyMethod.sample_prompts

    @property
    def shards(self) -> int:
        return self.options.shards

    def initial_state(self, base: PinnedBase | None) -> Values:
        """w, and behind it how many rounds were done."""
        return np.zeros(self.dimension(base) + 1, dtype=np.float32)  # type: ignore[arg-type]

    def sent(self, base: PinnedBase | None) -> int:
        del base
        return SENT

    def row(self, base: PinnedBase | None) -> int:
        del base
        return ROW

    def memory(self, base: PinnedBase | None) -> int:
        del base
        return MEMORY if self.options.remembers else 0

    def sums(self, base: PinnedBase) -> bool:
        del base
        return False

    def entering(self, records: int, generator: np.random.Generator) -> Sequence[int]:
        return sorted(generator.choice(records, min(records, self.options.most), replace=False).tolist())

    def query(self, base: Any, state: Values) -> Values:
        del base
        return np.array([state[-1] + 1, state[:ROW].mean(), 1.0], dtype=np.float32)

    def check_query(self, base: PinnedBase, query: Values, round_: int) -> None:
        del base
        if not np.isfinite(query).all() or query[0] != round_ or query[2] != 1:
            raise PlanChanged("no coordinator can have made this query")

    def step_on(self, base: Any, state: Values, query: Values, mean: NDArray[np.float64]) -> Values:
        del base
        moved = state.copy()
        moved[:ROW] += (self.options.rate * mean).astype(np.float32)
        moved[-1] += 1
        return moved

    def prepared(self, base: Any, shard: UnitRecords) -> Values:
        del base
        total = shard.inputs.sum(0).reshape(-1)
        return np.array([len(shard.captions), shard.generator.random(), *total], dtype=np.float32)

    def shard_row(
        self, base: Any, query: Values, prepared: Values, memory: Values | None, generator: np.random.Generator
    ) -> tuple[Values, Values]:
        del base
        drawn = generator.random()
        before = np.zeros(MEMORY, dtype=np.float32) if memory is None or not memory.size else memory
        row = prepared[2 : 2 + ROW] / prepared[0] - query[1] + prepared[1] + drawn + before.sum()
        if self.options.loud:
            row = np.full(ROW, 100.0 if int(prepared[0]) // 2 % 2 else -100.0)
        after = np.array([before[0] + 0.25, drawn + prepared[0]], dtype=np.float32)
        return row.astype(np.float32), after[: self.memory(None)]

    def rows(self, base: Any, state: Values, units: Sequence[UnitRecords], progress: Progress) -> Values:
        raise MechanismViolation("rows of shards are made by shard_row")

    def step(self, state: Values, mean: NDArray[np.float64]) -> Values:
        raise MechanismViolation("a step goes through the base")
