"""From an attempt's finished rows to the site's clamped sum, in memory that does not grow with the site (PRIVACY 4)."""

from undertone.errors import ProtocolError
from undertone.privacy.quantise import site_sum_of_blocks, site_sum_of_integers
from undertone.privacy.stages import ClippedSum, Contributions
from undertone.study.plan import Plan
from undertone_client.site.attempt_store import AttemptKey, AttemptStore


def site_total(plan: Plan, attempt: AttemptKey, state_digest: str, store: AttemptStore) -> ClippedSum:
    """Clip, quantise and sum the rows of exactly the units that the coins chose; or clamp their sum, where it is kept.

    These are steps 2 to 4 of the mechanism (docs/ARCHITECTURE.md).

    Args:
        plan: the approved plan.
        attempt: which attempt's rows; the grid is that of its round.
        state_digest: SHA-256 of the public state w that they belong to.
        store: the node's attempt store; its rows are read some at a time.

    Raises:
        ProtocolError: coins, rows or sum are missing: the attempt was not prepared, or not to its end.
        PlanChanged: it was prepared for another state.
    """
    chosen, stage = store.sampled(attempt, state_digest), plan.stage_of(attempt[1])
    not_prepared = ProtocolError(f"round {attempt[1]}, attempt {attempt[2]} was not prepared")
    if chosen is None:
        raise not_prepared
    if store.holds_sum(attempt):
        summed, total = store.kept_sum(attempt, len(chosen), stage.dimension)
        if not summed.all():
            raise not_prepared
        return site_sum_of_integers(total, stage.grid.as_grid())
    if store.finished(attempt) != set(chosen):
        raise not_prepared
    blocks = (Contributions(rows) for rows in store.row_blocks(attempt, stage.dimension))
    return site_sum_of_blocks(blocks, stage.dimension, stage.grid.as_grid())
