"""From an attempt's finished rows to the site's clamped sum, in memory that does not grow with the site (PRIVACY 4)."""

from undertone.errors import ProtocolError
from undertone.plan import Plan
from undertone.privacy.quantise import site_sum_of_blocks
from undertone.privacy.slots import site_sum_of_slots
from undertone.stages import ClippedSum, Contributions
from undertone_client.state import Attempt, NodeState


def site_total(plan: Plan, attempt: Attempt, state_digest: str, memory: NodeState) -> ClippedSum:
    """Clip, quantise and sum the rows of exactly the units that the coins chose; or the sum of all slots.

    Args:
        plan: the approved plan.
        attempt: which attempt's rows.
        state_digest: SHA-256 of the public state w that they belong to.
        memory: the node's state; its rows are read some at a time.

    Raises:
        ProtocolError: coins, rows or slots are missing: the attempt was not prepared, or not to its end.
        PlanChanged: it was prepared for another state.
    """
    placed = memory.placed(attempt, state_digest)
    not_prepared = ProtocolError(f"round {attempt[1]}, attempt {attempt[2]} was not prepared")
    if placed is None:
        raise not_prepared
    if plan.privacy.slots:
        done, total = memory.kept_sum(attempt, plan.method.dimension)
        if done != len(placed):
            raise not_prepared
        return site_sum_of_slots(total, plan.grid.as_grid())
    if memory.finished(attempt) != set(placed):
        raise not_prepared
    blocks = (Contributions(rows) for rows in memory.row_blocks(attempt, plan.method.dimension))
    return site_sum_of_blocks(blocks, plan.method.dimension, plan.grid.as_grid())
