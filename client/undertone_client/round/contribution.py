"""From an attempt's finished sum to the site's clamped one (PRIVACY 4, 26)."""

from undertone.errors import ProtocolError
from undertone.privacy.quantise import site_sum_of_integers
from undertone.privacy.stages import ClippedSum
from undertone.study.plan import Plan
from undertone_client.site.attempt_store import AttemptKey, AttemptStore


def site_total(plan: Plan, attempt: AttemptKey, state_digest: str, store: AttemptStore) -> ClippedSum:
    """Clamp the sum of exactly the units that the coins chose: with it step 4 of the mechanism (ARCHITECTURE) is done.

    It takes as long however many units those were: clipping, cutting to integers and adding belong to the preparation.

    Args:
        plan: the approved plan.
        attempt: which attempt's sum; the grid is that of its round.
        state_digest: SHA-256 of the public state w that it belongs to.
        store: the node's attempt store.

    Raises:
        ProtocolError: there is no sum: the attempt was not prepared, or not to its end.
        PlanChanged: it was prepared for another state.
    """
    stage = plan.stage_of(attempt[1])
    total = store.finished_sum(attempt, state_digest, stage.dimension)
    if total is None:
        raise ProtocolError(f"round {attempt[1]}, attempt {attempt[2]} was not prepared")
    return site_sum_of_integers(total, stage.grid.as_grid(), stage.relation)
