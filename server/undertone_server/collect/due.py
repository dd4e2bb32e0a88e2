"""What an honest site's reply holds at the most, from the plan: whatever is longer or of another type is not read."""

from undertone.privacy import plain_sum
from undertone.secagg import messages as secagg
from undertone.study.plan import Plan
from undertone.wire.messages import YES, Due, Kind

_MESSAGES: dict[Kind, int] = {
    "prepare": secagg.AdvertisedKeys.KIND,
    "share_keys": secagg.SealedShares.KIND,
    "masked_input": secagg.MaskedInputProof.KIND,
    "consistency_check": secagg.ConsistencySignature.KIND,
    "unmasking": secagg.UnmaskingShares.KIND,
}
_PACKED_BYTES = 3


def reply_due(plan: Plan, kind: Kind, round_: int) -> Due:
    """The answer to `kind`; the site's input alone brings a vector, and only secure aggregation a message."""
    dimension, sites = plan.stage_of(round_).dimension, len(plan.cohort.units)
    vector = (False, dimension) if plan.aggregation.wire_bits == 32 else (True, _PACKED_BYTES * dimension)
    if kind == "ready":
        return Due(len(YES), ledger_head=True)
    body = 0 if plan.aggregation.mode == plain_sum.NAME else secagg.largest_reply(_MESSAGES[kind], sites)
    return Due(body, vector if kind in ("plain_input", "masked_input") else None, ledger_head=True)
