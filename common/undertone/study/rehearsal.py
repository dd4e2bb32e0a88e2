"""The rehearsal of a plan: a round of each stage, of the same messages and sizes, as a plan of its own."""

from dataclasses import replace
from math import ceil

from undertone.errors import PlanChanged
from undertone.study.claim import epsilons
from undertone.study.plan import REHEARSAL_ATTEMPTS, REHEARSAL_ROUNDS, Plan

_SECONDS = 10.0  # the longest public time of a rehearsal
_DRAWN_AT_LEAST, _MOST_UNITS = 4, 64
_MARK = b'"rehearsal":true'


def rehearsal_of(plan: Plan, name: str) -> Plan:
    """A rehearsal of `plan`: its method, base, grids, roster and aggregation; a round of each stage.

    No signature or approval of the one is of the other: their digests differ.

    Args:
        plan: of a study.
        name: of the rehearsal, as studies have one; another name is another rehearsal.
    """
    attempts = [
        REHEARSAL_ROUNDS if stage.once_per_round else min(stage.max_attempts, REHEARSAL_ATTEMPTS)
        for stage in plan.stages
    ]
    events = (replace(stage.event, count=count) for stage, count in zip(plan.stages, attempts, strict=True))
    epsilon, epsilon_rdp = epsilons(tuple(events), plan.privacy.delta)
    earlier = [
        stage.model_copy(update={"rounds": REHEARSAL_ROUNDS, "max_attempts": count})
        for stage, count in zip(plan.earlier, attempts, strict=False)  # the last stage is not among them
    ]
    privacy = plan.privacy.model_copy(
        update={
            "rounds": REHEARSAL_ROUNDS * len(attempts),
            "max_attempts": sum(attempts),
            "epsilon": epsilon,
            "epsilon_rdp": epsilon_rdp,
            "ready_seconds_per_unit": min(
                plan.privacy.ready_seconds_per_unit, _SECONDS / max(plan.cohort.units.values())
            ),
        }
    )
    lineage = {"start": None, "successor": None}
    changes = {"study": name, "privacy": privacy, "earlier": earlier, "rehearsal": True} | lineage
    made = plan.model_copy(update=changes)
    return Plan.model_validate(made.model_dump())


def drawn_units(plan: Plan, site: str) -> int:
    """How many units a site draws for a rehearsal: some are in its sample, and they are few."""
    enough = max(_DRAWN_AT_LEAST, ceil(_DRAWN_AT_LEAST / min(stage.sampling_rate for stage in plan.stages)))
    return min(plan.patients[site], enough, _MOST_UNITS)


def rehearsal_plan(data: bytes) -> Plan | None:
    """The plan, if it is a rehearsal's; None for any other bytes, which are not looked at closely."""
    if _MARK not in data:
        return None
    try:
        plan = Plan.from_bytes(data)
    except PlanChanged:
        return None
    return plan if plan.rehearsal else None
