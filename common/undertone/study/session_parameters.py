"""The session parameters that a plan gives: coordinator and node each compute them for themselves."""

from undertone.secagg.parameters import Parameters
from undertone.study.plan import Plan

NAME = "secagg"


def session_parameters(
    plan: Plan, federation: str, round_: int, attempt: int, session: int, state_sha256: str
) -> Parameters:
    """What all parties of a session must agree on (docs/secure-aggregation.md, 2).

    Args:
        plan: the approved plan; every number that affects privacy comes from it.
        federation: digest of the manifest that this party has approved.
        round_: the round.
        attempt: the attempt at that round.
        session: the try at this attempt, from 1; a new one starts with fresh keys.
        state_sha256: SHA-256 of the public state w.
    """
    aggregation, stage = plan.aggregation, plan.stage_of(round_)
    return Parameters(
        study=plan.digest,
        round=round_,
        attempt=attempt,
        session=session,
        federation=federation,
        roster=tuple(sorted(plan.cohort.units)),
        threshold=aggregation.threshold,
        colluders=aggregation.colluders,
        min_sites=plan.cohort.min_sites,
        dimension=stage.dimension,
        wire_bits=aggregation.wire_bits,
        scale=stage.grid.scale,
        site_clamp=stage.grid.site_clamp,
        noise=plan.privacy.noise,
        rosters=aggregation.rosters,
        sigma_local=stage.sigma_local,
        noise_margin=stage.grid.noise_margin,
        state_sha256=state_sha256,
        method=plan.method.name,
    )
