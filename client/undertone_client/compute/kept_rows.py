"""The sum of an attempt's rows that are kept one by one, in memory that does not grow with the site (PRIVACY 4)."""

import numpy as np
from numpy.typing import NDArray

from undertone.privacy.quantise import sum_of_blocks
from undertone.privacy.stages import Contributions
from undertone.study.plan import Plan
from undertone_client.site.attempt_store import AttemptKey, AttemptStore


def sum_of_kept_rows(plan: Plan, attempt: AttemptKey, store: AttemptStore) -> NDArray[np.int64]:
    """Clip, quantise and add the rows that the store has, [d]: steps 2 and 3 of docs/ARCHITECTURE.md."""
    stage = plan.stage_of(attempt[1])
    blocks = (Contributions(rows) for rows in store.row_blocks(attempt, stage.dimension))
    return sum_of_blocks(blocks, stage.dimension, stage.grid.as_grid())
